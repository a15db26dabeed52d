/** Providers that write down what they are asked and answer what a test tells them, over HTTP/1.1 and gRPC. */
import { createServer as createHttpServer } from 'node:http';
import {
  createServer as createGrpcServer,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo, Socket } from 'node:net';
import type { Test } from 'tap';
import { decodeCheckRequest, encodeCheckResponse, type Message } from './check-protocol.ts';

/** What a provider over HTTP was sent. */
export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  /** Names in lower case, in order. */
  readonly fields: readonly (readonly [string, string])[];
  readonly body: string;
}

export interface HttpReply {
  readonly status: number;
  /** Name and value in turn. */
  readonly fields?: readonly string[];
  readonly body?: string;
}

export interface HttpProvider {
  readonly port: number;
  readonly seen: SeenRequest[];
  /** Connections accepted so far. */
  readonly connections: Set<Socket>;
  /** Null: never answer. */
  answer: (request: SeenRequest) => HttpReply | null | Promise<HttpReply>;
  /** Closes the port and its connections. */
  stop(): Promise<void>;
}

/** Starts a provider that allows everything. `port` 0: any. */
export async function httpProvider(t: Test, port = 0): Promise<HttpProvider> {
  const seen: SeenRequest[] = [];
  const connections = new Set<Socket>();
  const server = createHttpServer({ maxHeaderSize: 200_000 }, async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const fields: [string, string][] = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) {
      fields.push([request.rawHeaders[i]?.toLowerCase() ?? '', request.rawHeaders[i + 1] ?? '']);
    }
    const one = {
      method: request.method ?? '',
      path: request.url ?? '',
      fields,
      body: Buffer.concat(chunks).toString('latin1'),
    };
    seen.push(one);
    const reply = await provider.answer(one);
    if (reply === null) return;
    response.sendDate = false;
    response.writeHead(reply.status, [...(reply.fields ?? [])]);
    response.end(reply.body ?? '');
  });
  server.on('connection', (socket) => connections.add(socket));
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const provider: HttpProvider = {
    port: (server.address() as AddressInfo).port,
    seen,
    connections,
    answer: () => ({ status: 200 }),
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  t.teardown(() => (server.listening ? provider.stop() : undefined));
  return provider;
}

export type GrpcReply =
  | { readonly message: Message }
  /** Instead of a message. */
  | { readonly grpcStatus: number }
  | { readonly httpStatus: number }
  /** The stream is reset with this code. */
  | { readonly reset: number }
  /** As they are, after the frame's five bytes. */
  | { readonly bytes: Buffer }
  /** Whole DATA frames' content. */
  | { readonly raw: Buffer };

export interface GrpcProvider {
  readonly port: number;
  readonly seen: { readonly headers: Readonly<Record<string, unknown>>; readonly message: Message }[];
  readonly sessions: Set<ServerHttp2Session>;
  answer: (message: Message) => GrpcReply | null | Promise<GrpcReply | null>;
  stop(): Promise<void>;
}

/** Starts a provider that allows everything, HTTP/2 without TLS. */
export async function grpcProvider(t: Test, port = 0, settings = {}): Promise<GrpcProvider> {
  const seen: GrpcProvider['seen'] = [];
  const sessions = new Set<ServerHttp2Session>();
  const server = createGrpcServer({ settings });
  server.on('session', (session) => {
    sessions.add(session);
    session.on('error', () => session.destroy());
    session.on('close', () => sessions.delete(session));
  });
  server.on('stream', async (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => undefined);
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of stream) chunks.push(chunk as Buffer);
    } catch {
      return;
    }
    const message = decodeCheckRequest(Buffer.concat(chunks).subarray(5));
    seen.push({ headers: { ...headers }, message });
    const reply = await provider.answer(message);
    if (reply !== null && !stream.destroyed) send(stream, reply);
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const provider: GrpcProvider = {
    port: (server.address() as AddressInfo).port,
    seen,
    sessions,
    answer: () => ({ message: { status: {} } }),
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const session of sessions) session.destroy();
      }),
  };
  t.teardown(() => (server.listening ? provider.stop() : undefined));
  return provider;
}

function send(stream: ServerHttp2Stream, reply: GrpcReply): void {
  const type = { 'content-type': 'application/grpc' };
  if ('reset' in reply) {
    stream.close(reply.reset);
  } else if ('httpStatus' in reply) {
    stream.respond({ ':status': reply.httpStatus });
    stream.end();
  } else if ('grpcStatus' in reply) {
    stream.respond({ ':status': 200, ...type, 'grpc-status': String(reply.grpcStatus) }, { endStream: true });
  } else {
    stream.respond({ ':status': 200, ...type }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(
      'raw' in reply
        ? reply.raw
        : framed('bytes' in reply ? reply.bytes : encodeCheckResponse(reply.message)),
    );
  }
}

/** A gRPC message with its head: not compressed, its length. */
export function framed(bytes: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}
