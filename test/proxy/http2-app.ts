/** An HTTP/2 client and app for tests of the inbound side: what was said, as it was said. */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type ClientSessionOptions,
  connect,
  createServer,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  type ServerOptions,
} from 'node:http2';
import type { Test } from 'tap';
import { listen } from '../e2e/harness/apps.ts';
import { within } from '../e2e/harness/wait.ts';

export interface Http2App {
  readonly port: number;
  readonly sessions: ServerHttp2Session[];
}

/** An app of prior knowledge: `serve` does as it likes with each stream. */
export async function http2App(
  t: Test,
  serve: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
  options: ServerOptions = {},
): Promise<Http2App> {
  const server = createServer(options);
  const sessions: ServerHttp2Session[] = [];
  server.on('session', (session) => {
    sessions.push(session);
    session.on('error', () => {});
  });
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => {});
    serve(stream, headers);
  });
  const { port } = await listen(t, server as never);
  return { port, sessions };
}

export function http2Client(t: Test, port: number, options: ClientSessionOptions = {}): ClientHttp2Session {
  const session = connect(`http://127.0.0.1:${port}`, options);
  session.on('error', () => {});
  t.teardown(() => session.destroy());
  return session;
}

export interface Http2Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders | null;
  /** Interim answers, in order. */
  readonly interim: readonly number[];
  readonly body: string;
  /** The whole answer came: END_STREAM, not a reset. */
  readonly whole: boolean;
  /** Code of the reset that it ended with; 0: none. */
  readonly code: number;
}

/** What a stream hears until it is closed. */
export function heard(stream: ClientHttp2Stream): Promise<Http2Answer> {
  const answer = {
    status: 0,
    headers: {} as IncomingHttpHeaders,
    trailers: null as IncomingHttpHeaders | null,
    interim: [] as number[],
    body: '',
    whole: false,
    code: 0,
  };
  stream.on('error', () => {});
  stream.on('headers', (headers) => answer.interim.push(Number(headers[':status'])));
  stream.on('response', (headers) => {
    answer.headers = headers;
    answer.status = Number(headers[':status']);
  });
  stream.on('trailers', (trailers) => {
    answer.trailers = trailers;
  });
  stream.on('data', (chunk: Buffer) => {
    answer.body += chunk.toString('latin1');
  });
  stream.on('end', () => {
    answer.whole = answer.status > 0;
  });
  const closed = new Promise<Http2Answer>((resolve) =>
    stream.on('close', () =>
      resolve({ ...answer, whole: answer.whole && stream.rstCode === 0, code: stream.rstCode ?? 0 }),
    ),
  );
  return within('the end of a stream', closed);
}

/** A request with a whole body, and what it hears. */
export function ask(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body: string | null = null,
  trailers: OutgoingHttpHeaders | null = null,
): Promise<Http2Answer> {
  const stream = session.request(headers, { endStream: body === null, waitForTrailers: trailers !== null });
  if (trailers !== null) stream.on('wantTrailers', () => stream.sendTrailers(trailers));
  if (body !== null) stream.end(body);
  return heard(stream);
}

/** The whole body of a request, and its trailers. */
export function readAll(
  stream: ServerHttp2Stream,
): Promise<{ body: string; trailers: IncomingHttpHeaders | null }> {
  return new Promise((resolve) => {
    let body = '';
    let trailers: IncomingHttpHeaders | null = null;
    stream.on('trailers', (fields) => {
      trailers = fields;
    });
    stream.on('data', (chunk: Buffer) => {
      body += chunk.toString('latin1');
    });
    stream.on('end', () => resolve({ body, trailers }));
  });
}
