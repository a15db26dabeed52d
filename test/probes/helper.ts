/** A sidecar's metrics port with probes behind it, a kubelet that asks there, and apps of all kinds. */
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import {
  Server as GrpcServer,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import type { Test } from 'tap';
import { ProbeServer } from '../../probes/serve.ts';
import { readAppProbes } from '../../probes/table.ts';
import { defaultServerBounds } from '../../telemetry/bounded-server.ts';
import { startServers } from '../../telemetry/servers.ts';
import { TestCa } from '../e2e/harness/test-ca.ts';

export interface Answer {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

export interface Asker {
  readonly port: number;
  /** What the log would say: `PATH: failure`, or `PATH: well`. */
  readonly turned: readonly string[];
  /** Errors that are no probe's: there must be none. */
  readonly broken: readonly unknown[];
  ask(path: string, options?: AskOptions): Promise<Answer>;
}

export interface AskOptions {
  readonly method?: string;
  /** Names and values in turn; the kubelet's `Host` is added where none is given. */
  readonly headers?: readonly string[];
  readonly signal?: AbortSignal;
  /** The caller's address. */
  readonly from?: string;
}

interface SidecarOptions {
  readonly address?: string;
  readonly captured?: boolean;
  readonly idleTimeoutMs?: number;
}

/** @param table what `ISTIO_KUBE_APP_PROBERS` says */
export async function sidecar(t: Test, table: object, options: SidecarOptions = {}): Promise<Asker> {
  const turned: string[] = [];
  const broken: unknown[] = [];
  const probes = new ProbeServer({
    probes: readAppProbes(JSON.stringify(table)),
    address: options.address ?? null,
    captured: options.captured ?? false,
    turned: (path, failure) => turned.push(`${path}: ${failure ?? 'well'}`),
  });
  const servers = await startServers(
    {
      health: null,
      metrics: { host: '127.0.0.1', port: 0 },
      admin: null,
      bounds: {
        ...defaultServerBounds,
        idleTimeoutMs: options.idleTimeoutMs ?? defaultServerBounds.idleTimeoutMs,
      },
    },
    {
      readiness: () => ({ ready: true, waitingFor: [], warnings: [] }),
      metrics: async () => ({ contentType: 'text/plain', text: '' }),
      certs: async () => ({}),
      handshakes: async () => ({ total: 0, failures: [] }),
      snapshot: () => ({}),
      probes,
      drain: () => {},
      quit: () => {},
      failed: (error) => broken.push(error),
    },
  );
  t.teardown(() => servers.close());
  const port = servers.ports.metrics ?? 0;
  return { port, turned, broken, ask: (path, asked) => ask(port, path, asked) };
}

function ask(
  port: number,
  path: string,
  { method = 'GET', headers = [], signal, from }: AskOptions = {},
): Promise<Answer> {
  const host = headers.some((name, at) => at % 2 === 0 && name.toLowerCase() === 'host');
  return new Promise((resolve, reject) => {
    const asking = request(
      {
        host: '127.0.0.1',
        port,
        path,
        method,
        agent: false,
        headers: [...(host ? [] : ['Host', `127.0.0.1:${port}`]), ...headers, 'Connection', 'close'],
        ...(signal === undefined ? {} : { signal }),
        ...(from === undefined ? {} : { localAddress: from }),
      },
      (response) => {
        let body = '';
        response.setEncoding('latin1').on('data', (text: string) => {
          body += text;
        });
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body }),
        );
        response.on('error', reject);
      },
    );
    asking.on('error', reject);
    asking.end();
  });
}

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** @returns its port */
export function httpApp(t: Test, handler: Handler, host = '127.0.0.1'): Promise<number> {
  return listening(t, createServer(handler), host);
}

/** With a certificate that nobody's roots know. @param alpn what the app chooses from; null: it knows no ALPN */
export async function httpsApp(t: Test, alpn: readonly string[] | null, handler: Handler): Promise<number> {
  const { cert, key } = await (await TestCa.create()).leaf(null, { dns: ['app.example'] });
  if (alpn?.includes('h2') === true) {
    const allowHTTP1 = alpn.includes('http/1.1');
    const server = createSecureServer(
      { cert, key, allowHTTP1 },
      handler as unknown as Parameters<typeof createSecureServer>[1],
    );
    return listening(t, server, '127.0.0.1');
  }
  return listening(
    t,
    createHttpsServer({ cert, key, ...(alpn === null ? {} : { ALPNProtocols: [...alpn] }) }, handler),
    '127.0.0.1',
  );
}

export async function listening(t: Test, server: Server, host: string): Promise<number> {
  const sockets = new Set<{ destroy(): void }>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  server.on('tlsClientError', () => {});
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A port where nobody listens: it was one a moment ago. */
export async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const bytes = (value: Buffer): Buffer => value;

/** grpc.health.v1, as its .proto has it: `service` is field 1 of the request, `status` field 1 of the response. */
const health = {
  Check: {
    path: '/grpc.health.v1.Health/Check',
    requestStream: false,
    responseStream: false,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  },
};

export interface HealthApp {
  readonly port: number;
  /** What the last call named itself, and how long it would wait. */
  readonly seen: { userAgent: string; calls: number };
}

/** A server of `@grpc/grpc-js`. @param states a ServingStatus by service; null: never answers. Others are NOT_FOUND */
export async function healthApp(
  t: Test,
  states: Readonly<Record<string, number | null>>,
  host = '127.0.0.1',
): Promise<HealthApp> {
  const server = new GrpcServer();
  const seen = { userAgent: '', calls: 0 };
  server.addService(health, {
    Check: (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => {
      seen.calls++;
      seen.userAgent = String(call.metadata.get('user-agent')[0]);
      // Tag 0x0a, a length of one byte, the name.
      const service = call.request.length === 0 ? '' : call.request.subarray(2).toString();
      const state = states[service];
      if (state === undefined) answer({ code: status.NOT_FOUND, details: `unknown service ${service}` });
      else if (state !== null) answer(null, Buffer.from([0x08, state]));
    },
  });
  const port = await bound(t, server, host);
  return { port, seen };
}

/** A server that has no health service. */
export function emptyGrpcApp(t: Test): Promise<number> {
  return bound(t, new GrpcServer(), '127.0.0.1');
}

function bound(t: Test, server: GrpcServer, host: string): Promise<number> {
  t.teardown(() => server.forceShutdown());
  const at = host.includes(':') ? `[${host}]:0` : `${host}:0`;
  return new Promise((resolve, reject) => {
    server.bindAsync(at, ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) resolve(port);
      else reject(error);
    });
  });
}
