/** Asks the Kubernetes API as the pod's service account does: with its token, and the cluster's root. */
import { readFile } from 'node:fs/promises';
import type { Agent } from 'undici';

export interface KubernetesApiOptions {
  readonly url: string;
  /** Roots in PEM that the API server's certificate is checked against. */
  readonly caFile: string;
  /** Read anew for every request: the kubelet renews it. */
  readonly tokenFile: string;
}

export interface KubernetesAnswer {
  readonly status: number;
  /** Parsed JSON; an object. */
  readonly body: Readonly<Record<string, unknown>>;
}

export interface KubernetesApi {
  /**
   * One request. Answers of any status are given back.
   * @param path from the root, with its query
   * @throws Error where there is no answer, or none that can be read; it never quotes the token
   */
  ask(method: 'GET' | 'POST' | 'PUT' | 'PATCH', path: string, body?: object): Promise<KubernetesAnswer>;
  close(): Promise<void>;
}

/** A list of one kind of small objects, a page of it, is well below. */
const MAX_BYTES = 16 * 1024 * 1024;
const TIMEOUT_MS = 10_000;
/** Connections at once; more requests wait. */
const CONNECTIONS = 8;

export function kubernetesApi({ url, caFile, tokenFile }: KubernetesApiOptions): KubernetesApi {
  let agent: { readonly ca: string; readonly agent: Agent } | null = null;

  /** Another one where the cluster's root has changed. */
  async function agentNow(): Promise<Agent> {
    const ca = await readFile(caFile, 'utf8');
    if (agent?.ca === ca) return agent.agent;
    // By `default`: the bundle gives a CommonJS package no other name.
    const { Agent } = (await import('undici')).default;
    const before = agent;
    const limits = { headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS, maxResponseSize: MAX_BYTES };
    const connect = { ca, timeout: TIMEOUT_MS };
    agent = { ca, agent: new Agent({ connections: CONNECTIONS, connect, ...limits }) };
    if (before !== null) void before.agent.close();
    return agent.agent;
  }

  return {
    async ask(method, path, body) {
      const [dispatcher, token] = await Promise.all([agentNow(), readFile(tokenFile, 'utf8')]);
      const { request } = (await import('undici')).default;
      const response = await request(new URL(path, url), {
        dispatcher,
        method,
        headers: {
          authorization: `Bearer ${token.trim()}`,
          accept: 'application/json',
          ...(body === undefined ? {} : { 'content-type': contentType(method, body) }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const text = await response.body.text();
      return {
        status: response.statusCode,
        body: objectIn(text, `${method} ${path}: status ${response.statusCode}`),
      };
    },
    async close() {
      await agent?.agent.close();
    },
  };
}

/** A list of operations is a JSON Patch, an object a merge patch (RFC 7396). */
function contentType(method: string, body: object): string {
  if (method !== 'PATCH') return 'application/json';
  return Array.isArray(body) ? 'application/json-patch+json' : 'application/merge-patch+json';
}

function objectIn(text: string, what: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return value as Readonly<Record<string, unknown>>;
    }
  } catch {
    // Said below.
  }
  throw new Error(`the Kubernetes API answered no JSON object (${what})`);
}

/** What to tell of an answer that is no success: the API server's own words. */
export function refusalOf({ status, body }: KubernetesAnswer): string {
  return typeof body.message === 'string' ? `${body.message} (${status})` : `status ${status}`;
}
