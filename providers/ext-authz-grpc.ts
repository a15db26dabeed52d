/** External authorization over gRPC (`envoyExtAuthzGrpc`): unary calls on one HTTP/2 connection a service. */
import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { CheckAnswer } from '../mesh/ext-authz.ts';
import { allowed, changesOf, denialFields, denied, errorFields } from './check-changes.ts';
import { CHECK, type CheckResponse, decodeCheckResponse, encodeCheckRequest } from './check-messages.ts';
import { type Asker, MAX_ANSWER_BYTES, type Question } from './ext-authz-asker.ts';

/** Envoy's for its HTTP/2 connections. */
const IDLE_MS = 3_600_000;
/** A connection that lets a check run out of time must answer a PING by then, or it is given up. */
const PING_MS = 2_000;
/** gRPC's frame: whether it is compressed, and its length. */
const FRAME_HEAD = 5;

/** The server has not looked at it: asking again is safe (RFC 9113 §8.7). */
class NotProcessed extends Error {}

/** An HTTP/2 session and what it runs over. */
interface Line {
  readonly session: ClientHttp2Session;
  readonly stream: Duplex;
}

/** The stream too: a session that is destroyed waits for what it wrote last, for good where nothing moves. */
function cut({ session, stream }: Line): void {
  session.destroy();
  stream.destroy();
}

/** @param open a new connection to the service */
export function grpcAsker(open: () => Promise<Duplex>): Asker {
  let line: Line | null = null;
  let connecting: Promise<Line> | null = null;
  let closed = false;

  async function newLine(): Promise<Line> {
    const stream = await open();
    if (closed) {
      stream.destroy();
      throw new Error('no more checks are made');
    }
    const session = connect('http://provider', {
      createConnection: () => stream,
      settings: { enablePush: false },
    });
    // Calls report what happened to them; without a listener the process would end.
    session.on('error', ignore);
    session.on('close', () => stream.destroy());
    session.setTimeout(IDLE_MS, () => session.close());
    line = { session, stream };
    return line;
  }

  /** All who wait share one attempt. */
  function current(): Promise<Line> {
    if (line !== null && !line.session.closed && !line.session.destroyed) return Promise.resolve(line);
    connecting ??= newLine().finally(() => {
      connecting = null;
    });
    return connecting;
  }

  async function attempt(question: Question, signal: AbortSignal): Promise<CheckAnswer> {
    const at = await current();
    signal.throwIfAborted();
    const message = await call(at, question, signal);
    return answerOf(decodeCheckResponse(message), question);
  }

  return {
    async ask(question, signal) {
      try {
        return await attempt(question, signal);
      } catch (error) {
        if (!(error instanceof NotProcessed) || signal.aborted) throw error;
        return attempt(question, signal);
      }
    },
    close() {
      closed = true;
      if (line !== null) cut(line);
    },
  };
}

function ignore(): void {}

/** One unary call: the answer's message. */
function call(line: Line, question: Question, signal: AbortSignal): Promise<Buffer> {
  const { provider } = question;
  let stream: ClientHttp2Stream;
  try {
    stream = line.session.request({
      ':method': 'POST',
      ':scheme': 'http',
      ':path': CHECK,
      ':authority': provider.service.slice(provider.service.indexOf('/') + 1),
      te: 'trailers',
      'content-type': 'application/grpc',
      'grpc-timeout': grpcTimeout(provider.timeout),
      'x-envoy-internal': 'true',
      'x-envoy-expected-rq-timeout-ms': String(provider.timeout),
    });
  } catch (error) {
    // The connection ended between being chosen and being used.
    return Promise.reject(new NotProcessed((error as Error).message));
  }
  stream.end(framed(encodeCheckRequest(question)));
  return new Promise((resolve, reject) => {
    const stop = () => {
      reject(signal.reason);
      stream.close(constants.NGHTTP2_CANCEL);
      probe(line);
    };
    signal.addEventListener('abort', stop, { once: true });
    const chunks: Buffer[] = [];
    let length = 0;
    let status = 0;
    let grpcStatus: string | undefined;
    let fault: Error | null = null;
    stream.on('response', (headers) => {
      status = headers[':status'] ?? 0;
      grpcStatus = headers['grpc-status'] as string | undefined;
    });
    stream.on('trailers', (trailers) => {
      grpcStatus = trailers['grpc-status'] as string | undefined;
    });
    stream.on('data', (chunk: Buffer) => {
      length += chunk.length;
      chunks.push(chunk);
      if (length <= MAX_ANSWER_BYTES + FRAME_HEAD) return;
      fault = new Error(`its answer is longer than ${MAX_ANSWER_BYTES} bytes`);
      stream.close(constants.NGHTTP2_CANCEL);
    });
    stream.on('error', (error) => {
      fault ??= error;
    });
    stream.on('close', () => {
      signal.removeEventListener('abort', stop);
      const refused =
        stream.rstCode === constants.NGHTTP2_REFUSED_STREAM || (status === 0 && stream.id === undefined);
      if (refused) reject(new NotProcessed('it refused the call'));
      else if (fault !== null) reject(fault);
      else if (status === 0) reject(new Error('it closed without an answer'));
      else if (status !== 200) reject(new Error(`it answered HTTP ${status} to gRPC`));
      else if (grpcStatus !== '0') reject(new Error(`it answered gRPC status ${grpcStatus ?? 'none'}`));
      else resolve(Buffer.concat(chunks, length));
    });
  }).then((bytes) => unframed(bytes as Buffer));
}

/** Gives up a connection on which nothing moves any more. */
function probe(line: Line): void {
  const { session } = line;
  if (session.closed || session.destroyed) return;
  const timer = setTimeout(() => cut(line), PING_MS);
  timer.unref();
  if (!session.ping(() => clearTimeout(timer))) clearTimeout(timer);
}

/** gRPC over HTTP/2: "Timeout" is at most eight digits and a unit. */
function grpcTimeout(ms: number): string {
  return ms < 100_000_000 ? `${ms}m` : `${Math.ceil(ms / 1000)}S`;
}

function framed(message: Uint8Array): Buffer {
  const frame = Buffer.alloc(FRAME_HEAD + message.length);
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, FRAME_HEAD);
  return frame;
}

/** @throws Error unless it is one message, whole and not compressed: we asked for no other. */
function unframed(bytes: Buffer): Buffer {
  if (bytes.length < FRAME_HEAD) throw new Error('its answer holds no message');
  if (bytes[0] !== 0) throw new Error('its answer is compressed');
  if (bytes.readUInt32BE(1) !== bytes.length - FRAME_HEAD)
    throw new Error('its answer is not one whole message');
  return bytes.subarray(FRAME_HEAD);
}

/** "Status OK allows the request. Any other status indicates the request should be denied." */
function answerOf(response: CheckResponse, { provider, check }: Question): CheckAnswer {
  const { code, ok, error } = response;
  if (code === 0)
    return ok === null || check.request === null ? ALLOWED : allowed(changesOf(ok, check.request));
  if (error !== null) {
    // An error of its own: failOpen counts; else its answer does, with our status where it names none.
    if (provider.failOpen) throw new Error(`it answered with an error, code ${code}`);
    return denied(
      error.status === 0 ? provider.statusOnError : error.status,
      errorFields(error.headers),
      error.body,
    );
  }
  if (response.denied === null) return denied(403, [], new Uint8Array());
  const { status, headers, body } = response.denied;
  return denied(status, denialFields(headers), body);
}

const ALLOWED: CheckAnswer & { readonly kind: 'allowed' } = {
  kind: 'allowed',
  remove: [],
  set: [],
  path: null,
  answerFields: [],
};
