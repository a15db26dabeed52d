/** Reads the table of what the sidecar asks in the kubelet's place: `ISTIO_KUBE_APP_PROBERS`, as Istio's injection writes it. */

/** One probe of an app's container, with the names it has in a Pod. */
export type AppProbe = { readonly timeoutMs: number } & (
  | { readonly kind: 'http'; readonly port: number; readonly tls: boolean; readonly path: string }
  | { readonly kind: 'tcp'; readonly port: number }
  | { readonly kind: 'grpc'; readonly port: number; readonly service: string }
);

/** By the path on the sidecar it is asked at: `/app-health/web/readyz`. */
export type AppProbes = ReadonlyMap<string, AppProbe>;

/** Istio's pattern (pilot-agent, status/server.go). */
const PATH = /^\/(?:app-health|app-lifecycle)\/[^/?#\s]+\/(?:livez|readyz|startupz|prestopz|poststartz)$/;
/** A pod has a handful of containers with five of them at most. */
const MAX_PROBES = 512;
const MAX_TEXT = 4_096;
/** Kubernetes' default of `timeoutSeconds`. */
const DEFAULT_TIMEOUT_MS = 1_000;
/** A handler has no `timeoutSeconds`: the kubelet hangs up when the grace period ends. */
const HANDLER_TIMEOUT_MS = 3_600_000;
const MAX_TIMEOUT_MS = 3_600_000;

type Json = Readonly<Record<string, unknown>>;

/**
 * Reads the table: a JSON object of paths, each with one of `httpGet`, `tcpSocket` and `grpc`, and `timeoutSeconds`.
 * What else stands there (`host`, `httpHeaders`, `periodSeconds`) is not looked at, as in Istio: the sidecar asks its
 * own pod alone, and the kubelet's request brings the headers.
 * @param text '' is an empty table
 * @throws Error that names the field and what it must be
 */
export function readAppProbes(text: string): AppProbes {
  const probes = new Map<string, AppProbe>();
  if (text === '') return probes;
  const entries = Object.entries(object(parsed(text), 'the text'));
  if (entries.length > MAX_PROBES) throw new Error(`has ${entries.length} probes, more than ${MAX_PROBES}`);
  for (const [path, probe] of entries) {
    if (!PATH.test(path) || path.length > MAX_TEXT) {
      throw new Error(
        `${JSON.stringify(path)} must be /app-health/CONTAINER/ and readyz, livez or startupz, or such`,
      );
    }
    probes.set(path, readProbe(object(probe, path), path));
  }
  return probes;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`must be JSON: ${(error as Error).message}`);
  }
}

function readProbe(probe: Json, at: string): AppProbe {
  // Go's encoding/json does not look at case, and Istio's own tests have both.
  const { httpGet, tcpSocket, grpc = probe.gRPC, timeoutSeconds } = probe;
  if ([httpGet, tcpSocket, grpc].filter((action) => action !== undefined && action !== null).length !== 1) {
    throw new Error(`${at} must have exactly one of httpGet, tcpSocket and grpc`);
  }
  const timeoutMs = readTimeout(timeoutSeconds, at);
  if (httpGet !== undefined && httpGet !== null) {
    const action = object(httpGet, `${at}.httpGet`);
    const port = readPort(action.port, `${at}.httpGet`);
    const tls = readScheme(action.scheme, `${at}.httpGet.scheme`);
    return { kind: 'http', port, tls, path: readPath(action.path, `${at}.httpGet.path`), timeoutMs };
  }
  if (tcpSocket !== undefined && tcpSocket !== null) {
    const { port } = object(tcpSocket, `${at}.tcpSocket`);
    return { kind: 'tcp', port: readPort(port, `${at}.tcpSocket`), timeoutMs };
  }
  const { port, service } = object(grpc, `${at}.grpc`);
  return {
    kind: 'grpc',
    port: readPort(port, `${at}.grpc`),
    service: readText(service, `${at}.grpc.service`),
    timeoutMs,
  };
}

function readPort(port: unknown, at: string): number {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 1 && port <= 65_535) return port;
  throw new Error(`${at}.port must be a number from 1 to 65535, not ${JSON.stringify(port)}`);
}

function readScheme(scheme: unknown, at: string): boolean {
  if (scheme === 'HTTPS') return true;
  if (scheme === undefined || scheme === null || scheme === '' || scheme === 'HTTP') return false;
  throw new Error(`${at} must be HTTP or HTTPS, not ${JSON.stringify(scheme)}`);
}

/** With its query and without a fragment, as it goes into a request line. */
function readPath(value: unknown, at: string): string {
  const [path = ''] = readText(value, at).split('#', 1);
  const rooted = path.startsWith('/') ? path : `/${path}`;
  return rooted.replace(/[^\x21-\x7e]/gu, (letter) => encodeURIComponent(letter));
}

function readText(value: unknown, at: string): string {
  if (value === undefined || value === null) return '';
  if (typeof value === 'string' && value.length <= MAX_TEXT && value.isWellFormed()) return value;
  throw new Error(`${at} must be a text of at most ${MAX_TEXT} characters`);
}

function readTimeout(seconds: unknown, path: string): number {
  if (seconds === undefined || seconds === null || seconds === 0) {
    return path.startsWith('/app-lifecycle/') ? HANDLER_TIMEOUT_MS : DEFAULT_TIMEOUT_MS;
  }
  if (typeof seconds === 'number' && Number.isInteger(seconds) && seconds > 0) {
    return Math.min(seconds * 1_000, MAX_TIMEOUT_MS);
  }
  throw new Error(`${path}.timeoutSeconds must be a whole number of seconds, not ${JSON.stringify(seconds)}`);
}

function object(value: unknown, at: string): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  throw new Error(`${at} must be an object`);
}
