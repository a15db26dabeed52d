/** The three small HTTP servers beside the data path: health, metrics and admin. They know nobody; answers come from providers. */

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { appSource } from '../mesh/app-source.ts';
import {
  bind,
  closeServer,
  createBoundedServer,
  defaultServerBounds,
  type Listen,
  type ServerBounds,
} from './bounded-server.ts';
import { type FlightLog, handshakesView } from './flight-recorder.ts';

/** Null turns a server off. */
export interface ServersOptions {
  readonly health: Listen | null;
  readonly metrics: Listen | null;
  readonly admin: Listen | null;
  readonly bounds?: ServerBounds;
}

export interface Readiness {
  readonly ready: boolean;
  /** What is missing, for people: `credentials`, `a valid snapshot`, `listener 15006`. */
  readonly waitingFor: readonly string[];
  /** What is wrong though we are ready, e.g. that a broken file keeps an older set in force. */
  readonly warnings: readonly string[];
}

/** What the servers ask. A provider that throws becomes a 500 and a call of `failed`. */
export interface ServerHandlers {
  readonly readiness: () => Readiness;
  readonly metrics: () => Promise<{ readonly contentType: string; readonly text: string | Buffer }>;
  /** Plain data; Maps become objects, and text with a private key is struck out whatever the provider does. */
  readonly certs: () => Promise<unknown>;
  /** The handshakes that failed, newest first, of all threads. */
  readonly handshakes: () => Promise<FlightLog>;
  readonly snapshot: () => unknown;
  /** The app's probes, which the kubelet asks for at the metrics port; null: there are none. */
  readonly probes: ProbeSource | null;
  /** `POST /drain`: we are about to leave, and callers are to be told. */
  readonly drain: () => void;
  /** `POST /quitquitquit`: called once the answer is sent. */
  readonly quit: () => void;
  readonly failed: (error: unknown, path: string) => void;
}

/** Asks an app in the kubelet's place. */
export interface ProbeSource {
  /** What can be asked for; nothing else is served. */
  readonly paths: readonly string[];
  /** Answers within a time of its own. `gone` aborts once whoever asked is. */
  readonly ask: (
    path: string,
    request: IncomingMessage,
    gone: AbortSignal,
  ) => Promise<{ readonly status: number; readonly body: Buffer | string }>;
}

export type ServerName = 'health' | 'metrics' | 'admin';

export interface Servers {
  /** The ports bound; null where a server is off. */
  readonly ports: Readonly<Record<ServerName, number | null>>;
  /** Stops listening, lets answers under way finish for half a second, then closes the rest. */
  close(): Promise<void>;
}

/**
 * Starts those of the three that have an address; all or none.
 * @throws Error naming the port and its flag where one cannot be bound, or an admin host that is not loopback
 */
export async function startServers(options: ServersOptions, handlers: ServerHandlers): Promise<Servers> {
  const bounds = options.bounds ?? defaultServerBounds;
  const routers = { health: healthRoutes, metrics: metricsRoutes, admin: adminRoutes } as const;
  const started: Server[] = [];
  const ports: Record<ServerName, number | null> = { health: null, metrics: null, admin: null };
  try {
    for (const name of ['health', 'metrics', 'admin'] as const) {
      const listen = options[name];
      if (listen === null) continue;
      const routes = routers[name](handlers, bounds);
      const server = createBoundedServer(bounds, (request, response) => {
        respond(request, response, routes, name === 'admin').catch((error: unknown) => {
          handlers.failed(error, request.url ?? '');
          send(request, response, json(500, { error: 'internal error, see the log' }));
        });
      });
      await bind(server, name, name === 'admin' ? loopbackOnly(listen) : listen);
      started.push(server);
      ports[name] = (server.address() as AddressInfo).port;
    }
  } catch (error) {
    await Promise.all(started.map(closeServer));
    throw error;
  }
  return {
    ports,
    close: async () => {
      await Promise.all(started.map(closeServer));
    },
  };
}

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string | Buffer;
}

/** A path's methods. HEAD goes where GET does. */
type Route = Readonly<
  Record<string, (request: IncomingMessage, response: ServerResponse) => Answer | Promise<Answer>>
>;
type Routes = ReadonlyMap<string, Route>;

function healthRoutes(handlers: ServerHandlers): Routes {
  return new Map([['/healthz/ready', readyRoute(handlers)]]);
}

function metricsRoutes(handlers: ServerHandlers, bounds: ServerBounds): Routes {
  let rendering: Promise<Answer> | null = null;
  const scrape = (): Promise<Answer> => {
    // One rendering serves all who ask meanwhile: a text of megabytes is not made twice at once.
    rendering ??= handlers
      .metrics()
      .then(({ contentType, text }) => ({ status: 200, contentType, body: text }))
      .finally(() => {
        rendering = null;
      });
    return rendering;
  };
  return new Map<string, Route>([
    ['/metrics', { GET: scrape }],
    ['/stats/prometheus', { GET: scrape }],
    ['/healthz/ready', readyRoute(handlers)],
    ['/drain', { POST: (request) => drain(request, handlers) }],
    ['/quitquitquit', { POST: (request, response) => quit(request, response, handlers) }],
    ...probeRoutes(handlers.probes, bounds),
  ]);
}

function probeRoutes(source: ProbeSource | null, { idleTimeoutMs }: ServerBounds): [string, Route][] {
  if (source === null) return [];
  const ask = async (path: string, request: IncomingMessage, response: ServerResponse): Promise<Answer> => {
    const gone = new AbortController();
    const left = (): void => gone.abort(new Error('who asked has left'));
    response.once('close', left);
    // The app may be given longer than an idle connection is: the probe has its own end.
    request.socket.setTimeout(0);
    const { status, body } = await source.ask(path, request, gone.signal);
    response.off('close', left);
    request.socket.setTimeout(idleTimeoutMs);
    response.setHeader('connection', 'close');
    return { status, contentType: 'text/plain; charset=utf-8', body };
  };
  return source.paths.map((path) => [path, { GET: (request, response) => ask(path, request, response) }]);
}

function adminRoutes(handlers: ServerHandlers): Routes {
  const list = {
    '/certs': 'our certificate and its renewal, the roots we trust, the certificates of our peers; no keys',
    '/handshakes': 'the last TLS handshakes that failed: who came, with which certificate, and why not',
    '/snapshot': 'the resources in force as this workload sees them',
    '/healthz/ready': 'whether we are ready, and if not, for what we wait',
  };
  return new Map<string, Route>([
    ['/', { GET: () => json(200, list) }],
    ['/certs', { GET: async () => json(200, await handlers.certs()) }],
    ['/handshakes', { GET: async () => json(200, handshakesView(await handlers.handshakes())) }],
    ['/snapshot', { GET: () => json(200, handlers.snapshot()) }],
    ['/healthz/ready', readyRoute(handlers)],
  ]);
}

function readyRoute(handlers: ServerHandlers): Route {
  return {
    GET: () => {
      const { ready, waitingFor, warnings } = handlers.readiness();
      if (!ready) return json(503, { ready, waitingFor, warnings });
      return json(200, warnings.length === 0 ? { ready } : { ready, warnings });
    },
  };
}

function drain(request: IncomingMessage, handlers: ServerHandlers): Answer {
  if (!maySteer(request)) return FOREIGN;
  handlers.drain();
  return json(200, { draining: true });
}

function quit(request: IncomingMessage, response: ServerResponse, handlers: ServerHandlers): Answer {
  if (!maySteer(request)) return FOREIGN;
  response.once('finish', handlers.quit);
  return json(200, { quitting: true });
}

const FOREIGN = json(403, { error: 'only from this machine, and not from a web page' });

/** A page in a browser on this machine comes from loopback too; it cannot help sending Origin. */
function maySteer(request: IncomingMessage): boolean {
  return isFromHere(request) && request.headers.origin === undefined;
}

/** True for 127.0.0.0/8 and ::1, also as IPv4 mapped into IPv6. */
export function isLoopback(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127(\.\d{1,3}){3}$/i.test(address);
}

/** What the sidecar carries comes from its address to the app: such a caller may be anywhere. */
function isFromHere({ socket: { remoteAddress = '' } }: IncomingMessage): boolean {
  return isLoopback(remoteAddress) && !remoteAddress.endsWith(appSource[4]);
}

/** DNS rebinding: a page of `evil.com` whose name was pointed at 127.0.0.1 still sends its own name. */
export function isLocalHostHeader(host: string | undefined): boolean {
  return host !== undefined && /^(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?$/i.test(host);
}

function json(status: number, value: unknown): Answer {
  return {
    status,
    contentType: 'application/json; charset=utf-8',
    body: `${JSON.stringify(value, printable)}\n`,
  };
}

/** JSON.stringify's replacer: Maps as objects, and no private key whatever a provider hands over. */
function printable(_name: string, value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries(value);
  if (typeof value === 'string' && value.includes('PRIVATE KEY')) return '[redacted]';
  return value;
}

async function respond(
  request: IncomingMessage,
  response: ServerResponse,
  routes: Routes,
  admin: boolean,
): Promise<void> {
  if (admin && !(isLocalHostHeader(request.headers.host) && isFromHere(request))) {
    return send(request, response, json(403, { error: 'Host must be localhost, 127.0.0.1 or [::1]' }));
  }
  const [path = ''] = (request.url ?? '').split('?', 1);
  const route = routes.get(path);
  if (route === undefined) return send(request, response, json(404, { error: 'not found' }));
  const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '');
  const handle = Object.hasOwn(route, method) ? route[method] : undefined;
  if (handle === undefined) {
    const allowed = Object.keys(route).flatMap((name) => (name === 'GET' ? ['GET', 'HEAD'] : [name]));
    response.setHeader('allow', allowed.join(', '));
    return send(request, response, json(405, { error: `use ${allowed.join(' or ')}` }));
  }
  send(request, response, await handle(request, response));
}

function send(request: IncomingMessage, response: ServerResponse, answer: Answer): void {
  if (response.headersSent || response.destroyed) return;
  // Nobody reads a request's body here, so the connection cannot be used again after one.
  if (request.method !== 'GET' && request.method !== 'HEAD') response.setHeader('connection', 'close');
  response.writeHead(answer.status, {
    'content-type': answer.contentType,
    // RFC 9110 §8.6: no Content-Length with a 204.
    ...(answer.status === 204 ? {} : { 'content-length': Buffer.byteLength(answer.body) }),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(answer.body);
}

function loopbackOnly(listen: Listen): Listen {
  const host = listen.host ?? '127.0.0.1';
  if (host !== 'localhost' && !isLoopback(host)) {
    throw new Error(`admin listens on loopback only, not on ${host}`);
  }
  return { host, port: listen.port };
}
