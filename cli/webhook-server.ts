/** The webhook's HTTPS server: `POST /inject` answers AdmissionReviews, `GET /healthz` whether it is ready. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { HostPort } from '../ca-client/address.ts';
import { answerReview } from '../inject/admission.ts';
import type { InjectConfig } from '../inject/inject-config.ts';
import { InjectError } from '../inject/inject-error.ts';
import type { Json } from '../inject/json.ts';
import { boundConnections } from '../telemetry/connection-places.ts';
import type { Logger } from '../telemetry/log.ts';
import type { ServerKeys } from './webhook-certificate.ts';

export interface WebhookServerOptions {
  readonly listen: HostPort;
  readonly keys: ServerKeys;
  readonly config: () => InjectConfig;
  /** Whether the API server can trust us by now. */
  readonly ready: () => boolean;
  readonly log: Logger;
}

export interface WebhookServer {
  readonly address: HostPort;
  /** For handshakes from now on. @throws Error where they do not fit together */
  use(keys: ServerKeys): void;
  /** Lets running answers finish, for a second at most. */
  close(): Promise<void>;
}

/** What etcd takes is 1.5 MiB, and the API server sends an object with little about it. */
const MAX_BODY_BYTES = 3 * 1024 * 1024;
/** Each API server keeps a few open; whoever holds more loses the oldest of his own. */
const PLACES = { maxConnections: 256, maxConnectionsPerAddress: 64 } as const;
/** Its own patience is 10 s (timeoutSeconds). */
const REQUEST_MS = 10_000;
const HANDSHAKE_MS = 5_000;
const IDLE_MS = 60_000;
const CLOSE_GRACE_MS = 1_000;

/** Starts it. @throws Error where the address cannot be bound, or key and certificate do not fit together */
export async function startWebhookServer(options: WebhookServerOptions): Promise<WebhookServer> {
  const { listen, keys } = options;
  const server = createServer({
    ...keys,
    minVersion: 'TLSv1.2',
    handshakeTimeout: HANDSHAKE_MS,
    requestTimeout: REQUEST_MS,
    headersTimeout: REQUEST_MS,
    keepAliveTimeout: IDLE_MS,
    connectionsCheckingInterval: 1_000,
  });
  boundConnections(server, PLACES);
  server.on('request', (request, response) => {
    serve(request, response, options).catch((error: Error) => {
      options.log.error({ event: 'webhook', error: error.message }, 'a request failed');
      if (!response.headersSent) send(response, 500, { error: 'the webhook failed; see its log' });
    });
  });
  await listening(server, listen);
  const { port } = server.address() as AddressInfo;
  return {
    address: { host: listen.host, port },
    use: (next) => server.setSecureContext({ ...next, minVersion: 'TLSv1.2' }),
    close: () => closed(server),
  };
}

function listening(server: Server, { host, port }: HostPort): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    // Without a host Node takes all addresses of the families there are.
    server.listen({ port, ...(host === '::' ? {} : { host }) }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const force = setTimeout(() => server.closeAllConnections(), CLOSE_GRACE_MS);
    server.close(() => {
      clearTimeout(force);
      resolve();
    });
    server.closeIdleConnections();
  });
}

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  options: WebhookServerOptions,
): Promise<void> {
  const [path = ''] = (request.url ?? '').split('?');
  if (path === '/healthz') {
    const ready = options.ready();
    send(response, ready ? 200 : 503, { ready });
    return;
  }
  const config = configFor(path, options.config());
  if (config === null) send(response, 404, { error: 'there are POST /inject and GET /healthz' });
  else if (request.method !== 'POST')
    send(response, 405, { error: 'reviews are sent by POST' }, { allow: 'POST' });
  else if (!/^application\/json(?:;|$)/.test(request.headers['content-type'] ?? '')) {
    send(response, 415, { error: 'the body must be application/json' });
  } else await inject(request, response, config, options.log);
}

/** Istio's form of a path that says more: `/inject/cluster/NAME`. */
function configFor(path: string, config: InjectConfig): InjectConfig | null {
  if (path === '/inject' || path === '/inject/') return config;
  const [, cluster] = /^\/inject\/cluster\/([\w.-]{1,253})\/?$/.exec(path) ?? [];
  return cluster === undefined ? null : { ...config, clusterId: cluster };
}

async function inject(
  request: IncomingMessage,
  response: ServerResponse,
  config: InjectConfig,
  log: Logger,
): Promise<void> {
  const text = await bodyOf(request);
  if (text === null) {
    send(
      response,
      413,
      { error: `the body is longer than ${MAX_BODY_BYTES} bytes` },
      { connection: 'close' },
    );
    return;
  }
  try {
    const { review, outcome, pod, error } = answerReview(JSON.parse(text) as Json, config);
    const line = { event: 'admission', outcome, pod, ...(error === null ? {} : { error }) };
    if (outcome === 'refused') log.warn(line, 'pod refused');
    else log.info(line, `pod ${outcome}`);
    send(response, 200, review);
  } catch (error) {
    if (!(error instanceof InjectError || error instanceof SyntaxError)) throw error;
    send(response, 400, { error: error instanceof InjectError ? error.message : 'the body is no JSON' });
  }
}

/** @returns null where it is too long */
async function bodyOf(request: IncomingMessage): Promise<string | null> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function send(
  response: ServerResponse,
  status: number,
  value: object,
  headers: Record<string, string> = {},
): void {
  const body = JSON.stringify(value);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    ...headers,
  });
  response.end(body);
}
