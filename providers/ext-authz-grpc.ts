/** External authorization over gRPC (`envoyExtAuthzGrpc`): unary calls on as few HTTP/2 connections as hold them. */
import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { CheckAnswer } from '../mesh/ext-authz.ts';
import { allowed, changesOf, denialFields, denied, errorFields } from './check-changes.ts';
import { CHECK, type CheckResponse, decodeCheckResponse, encodeCheckRequest } from './check-messages.ts';
import {
  ALL_BUSY,
  type Asker,
  MAX_ANSWER_BYTES,
  MAX_CONNECTIONS,
  NotAsked,
  orAbort,
  type Question,
} from './ext-authz-asker.ts';

/** Envoy's for its HTTP/2 connections. */
const IDLE_MS = 3_600_000;
/** A connection that lets a check run out of time must answer a PING by then, or it is given up. */
const PING_MS = 2_000;
/** As Istio's time-out for a connection: without the server's SETTINGS it is none yet. */
const SETTINGS_MS = 10_000;
/** gRPC's frame: whether it is compressed, and its length. */
const FRAME_HEAD = 5;

/** The server has not looked at it: asking again is safe (RFC 9113 §8.7). */
class NotProcessed extends Error {}

/** An HTTP/2 session and what it runs over. */
interface Session {
  readonly session: ClientHttp2Session;
  readonly stream: Duplex;
}

/** A connection, there or on its way. */
interface Line {
  readonly ready: Promise<Session>;
  at: Session | null;
  /** Whether the server said how many calls it takes. */
  settled: boolean;
  /** On it, or waiting for it. */
  calls: number;
}

/** The stream too: a session that is destroyed waits for what it wrote last, for good where nothing moves. */
function cut({ session, stream }: Session): void {
  session.destroy();
  stream.destroy();
}

/** @param open a new connection to the service */
export function grpcAsker(open: () => Promise<Duplex>): Asker {
  const lines = new Set<Line>();
  /** Calls that the server takes on one connection, as it said last: a guess for a connection on its way. */
  let usual = Number.POSITIVE_INFINITY;
  let closed = false;

  /** One that takes no call at all gets one, and its time to answer. */
  function room({ at, settled }: Line): number {
    if (at === null || !settled) return usual;
    return Math.max(1, at.session.remoteSettings.maxConcurrentStreams ?? Number.POSITIVE_INFINITY);
  }

  async function connected(line: Line): Promise<Session> {
    const stream = await open();
    if (closed) {
      stream.destroy();
      throw new Error('no more checks are made');
    }
    const session = connect('http://provider', {
      createConnection: () => stream,
      settings: { enablePush: false },
    });
    session.on('close', () => {
      lines.delete(line);
      stream.destroy();
    });
    session.setTimeout(IDLE_MS, () => session.close());
    // It is cut soon: calls under way finish, and the next one takes another connection.
    stream.once('leaving', () => session.close());
    line.at = { session, stream };
    // Before them we would not know how many calls it takes, and the rest would wait for one another.
    await settingsOf(line.at);
    line.settled = true;
    usual = room(line);
    return line.at;
  }

  function newLine(): Line {
    if (lines.size >= MAX_CONNECTIONS) throw new NotAsked(ALL_BUSY);
    const line: Line = {
      // Later, when the line is there.
      ready: Promise.resolve().then(() => connected(line)),
      at: null,
      settled: false,
      calls: 0,
    };
    lines.add(line);
    line.ready.catch(() => lines.delete(line));
    return line;
  }

  function lineWithRoom(): Line {
    for (const line of lines) {
      const session = line.at?.session;
      if (!session?.closed && !session?.destroyed && line.calls < room(line)) return line;
    }
    return newLine();
  }

  async function attempt(question: Question, signal: AbortSignal): Promise<CheckAnswer> {
    const message = messageOf(question);
    for (;;) {
      const line = lineWithRoom();
      line.calls++;
      try {
        const at = await orAbort(line.ready, signal);
        // It takes fewer than was guessed.
        if (line.calls > room(line)) continue;
        return answerOf(decodeCheckResponse(await call(at, message, question, signal)), question);
      } finally {
        line.calls--;
      }
    }
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
      for (const { at } of lines) if (at !== null) cut(at);
    },
  };
}

/** The first thing a server sends (RFC 9113 §3.4). */
function settingsOf(at: Session): Promise<void> {
  const { session } = at;
  return new Promise((resolve, reject) => {
    const settled = later(SETTINGS_MS, () => cut(at));
    session.once('remoteSettings', () => {
      settled();
      resolve();
    });
    // Calls report what happens to them later; without a listener the process would end.
    session.on('error', reject);
    session.once('close', () => {
      settled();
      reject(new Error('it closed without an answer'));
    });
  });
}

/**
 * Does something after a while, but reads first what came meanwhile: a pause of ours is no silence of the other side.
 * @returns calls it off
 */
function later(ms: number, act: () => void): () => void {
  let off = false;
  const timer = setTimeout(() => {
    setImmediate(() => {
      if (!off) act();
    });
  }, ms);
  timer.unref();
  return () => {
    off = true;
    clearTimeout(timer);
  };
}

/** @throws NotAsked */
function messageOf(question: Question): Buffer {
  try {
    return framed(encodeCheckRequest(question));
  } catch (error) {
    throw new NotAsked((error as Error).message);
  }
}

/** One unary call: the answer's message. */
function call(at: Session, message: Buffer, question: Question, signal: AbortSignal): Promise<Buffer> {
  const { provider } = question;
  let stream: ClientHttp2Stream;
  try {
    stream = at.session.request({
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
    const { message: why } = error as Error;
    // The connection may have ended between being chosen and being used.
    const ended = at.session.closed || at.session.destroyed;
    return Promise.reject(ended ? new NotProcessed(why) : new NotAsked(why));
  }
  stream.end(message);
  return new Promise((resolve, reject) => {
    const stop = () => {
      reject(signal.reason);
      stream.close(constants.NGHTTP2_CANCEL);
      probe(at);
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
function probe(at: Session): void {
  const { session } = at;
  if (session.closed || session.destroyed) return;
  const answered = later(PING_MS, () => cut(at));
  if (!session.ping(answered)) answered();
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
