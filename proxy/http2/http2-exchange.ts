/** One exchange with an upstream that speaks HTTP/2: a stream of a shared session. */
import { type ClientHttp2Stream, constants } from 'node:http2';
import type { Limits } from '../../mesh/limits.ts';
import { type Field, HeadError, joinedValues } from '../http/head.ts';
import {
  type AnswerHead,
  type Asked,
  asRaw,
  type RawFields,
  readAnswer,
  readTrailers,
  writeRequest,
} from './head.ts';
import { dataRead } from './read-memory.ts';
import { sayTrailers } from './say.ts';
import type { Answered, Break, UpstreamExchange } from './upstream-exchange.ts';
import type { UpstreamSession } from './upstream-session.ts';

const END_STREAM = constants.NGHTTP2_FLAG_END_STREAM;
const { NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_ENHANCE_YOUR_CALM } =
  constants;
const NONE: readonly Field[] = [];
/** For END_STREAM behind the last byte of an answer, ms: usually it comes with it. */
const END_GRACE = 1_000;

/** Begins an exchange on a session that promised a stream. The promise is kept or given back by it. */
export class Http2Exchange implements UpstreamExchange {
  readonly #session: UpstreamSession;
  readonly #stream: ClientHttp2Stream;
  readonly #answered: Answered;
  readonly #limits: Limits;
  readonly #kept: boolean;
  #requestTrailers: readonly Field[] = NONE;
  #trailers: readonly Field[] = NONE;
  #answerBegun = false;
  /** END_STREAM came: then the answer is all there. */
  #complete = false;
  /** The answer has no body, whatever its fields say. */
  readonly #headAlone: boolean;
  /** Bytes of the answer that are still to come, by its Content-Length; NaN: it tells none. */
  #left = Number.NaN;
  #interim = 0;
  /** Nothing is told any more: all was, or nobody waits. */
  #over = false;

  /** @param ended the request has no body */
  constructor(session: UpstreamSession, head: Asked, ended: boolean, answered: Answered, limits: Limits) {
    this.#session = session;
    this.#answered = answered;
    this.#limits = limits;
    this.#kept = session.uses > 0;
    this.#headAlone = head.method === 'HEAD';
    const stream = session.request(writeRequest(head), ended);
    this.#stream = stream;
    this.#watchEnd();
    stream.on('headers', (headers, _flags, raw: readonly string[]) => this.#onInterim(asRaw(raw, headers)));
    stream.on('response', (headers, flags, raw: readonly string[]) =>
      this.#onAnswer(asRaw(raw, headers), flags),
    );
    stream.on('trailers', (_headers, _flags, raw: readonly string[]) => this.#onTrailers(raw));
    stream.on('wantTrailers', () => sayTrailers(stream, this.#requestTrailers));
    stream.on('drain', () => {
      if (!this.#over) answered.onRoom();
    });
    stream.on('end', () => this.#onEnd());
    stream.on('error', ignore);
    stream.on('close', () => this.#onClose());
  }

  /**
   * RST_STREAM with NO_ERROR ends the stream for its reader just as END_STREAM does, and nothing in `node:http2` tells
   * which it was. But a reset closes the stream before it ends it, and then has it destroyed at its end: a listener
   * that END_STREAM does without.
   */
  #watchEnd(): void {
    const stream = this.#stream;
    const { push } = stream;
    stream.push = (chunk: unknown, encoding?: BufferEncoding): boolean => {
      if (chunk === null && !stream.destroyed) {
        this.#complete ||= !stream.closed || !stream.listeners('end').includes(stream.destroy);
      }
      return push.call(stream, chunk, encoding);
    };
  }

  write(data: Buffer): boolean {
    // What nobody reads any more is let go: its answer says what there is to say.
    if (this.#stream.writableEnded || this.#stream.destroyed) return true;
    return this.#stream.write(data);
  }

  end(trailers: readonly Field[]): void {
    this.#requestTrailers = trailers;
    if (!this.#stream.writableEnded && !this.#stream.destroyed) this.#stream.end();
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  cancel(code: number): void {
    this.#over = true;
    const stream = this.#stream;
    // All is there but END_STREAM, if that. A reset would tell the peer of a failure, and peers count those.
    if (this.#left === 0 && stream.writableEnded) this.#awaitEnd(code);
    else this.#reset(code);
    // Unread data would keep the stream from being destroyed.
    stream.resume();
  }

  #awaitEnd(code: number): void {
    const stream = this.#stream;
    if (stream.destroyed) return;
    const timer = setTimeout(() => this.#reset(code), END_GRACE);
    stream.once('close', () => clearTimeout(timer));
  }

  #reset(code: number): void {
    const stream = this.#stream;
    if (stream.closed || stream.destroyed) return;
    stream.close(code);
    this.#session.reset(this.#answerBegun ? this.#left : 0);
  }

  #onInterim(raw: RawFields): void {
    if (this.#over) return;
    try {
      const answer = readAnswer(raw, this.#limits);
      if (answer.status === 101) throw new HeadError(400, '101 without an upgrade');
      if (++this.#interim > this.#limits.maxInterimAnswers)
        throw new HeadError(400, 'too many interim answers');
      this.#answered.onInterim(answer);
    } catch (error) {
      this.#bad(error);
    }
  }

  #onAnswer(raw: RawFields, flags: number): void {
    if (this.#over) return;
    try {
      const answer = readAnswer(raw, this.#limits);
      if (answer.status < 200) throw new HeadError(400, 'an interim answer that ends the stream');
      this.#answerBegun = true;
      const ended = (flags & END_STREAM) !== 0;
      this.#left = ended || this.#headAlone ? 0 : bodyLength(answer);
      this.#answered.onAnswer(answer, ended);
      if (!this.#over) this.#stream.on('data', this.#onData);
    } catch (error) {
      this.#bad(error);
    }
  }

  readonly #onData = (data: Buffer): void => {
    this.#left -= data.length;
    dataRead(data.length);
    if (!this.#over) this.#answered.onData(data);
  };

  #onTrailers(raw: readonly string[]): void {
    if (this.#over) return;
    try {
      this.#trailers = readTrailers(raw, this.#limits);
    } catch (error) {
      this.#bad(error);
    }
  }

  #onEnd(): void {
    // A stream that is reset ends, too.
    // `node:http2` servers may reset with NO_ERROR what they ended, before they said so; the length proves it then.
    if (this.#over || !this.#answerBegun || !(this.#complete || this.#left === 0)) return;
    this.#over = true;
    // Answered before the request was complete: the rest of it has no reader.
    if (!this.#stream.writableEnded) this.#reset(NGHTTP2_NO_ERROR);
    this.#answered.onEnd(this.#trailers);
  }

  #onClose(): void {
    this.#session.leave();
    if (this.#over) return;
    this.#over = true;
    this.#answered.onBreak(this.#break());
  }

  #break(): Break {
    const { rstCode } = this.#stream;
    const { gone } = this.#session;
    const { broken } = this.#session.upstream;
    if (broken !== null) {
      const { reason, message } = broken;
      return { code: NGHTTP2_INTERNAL_ERROR, reason, detail: message, how: 'failed' };
    }
    const detail = gone ? 'its connection closed' : nameOf(rstCode);
    if (rstCode === NGHTTP2_REFUSED_STREAM || this.#session.passedOver(this.#stream)) {
      return { code: NGHTTP2_REFUSED_STREAM, reason: 'upstream_reset', detail, how: 'refused' };
    }
    if (gone) {
      const how = this.#kept ? 'kept' : 'failed';
      return { code: NGHTTP2_INTERNAL_ERROR, reason: 'upstream_closed', detail, how };
    }
    if (rstCode === NGHTTP2_ENHANCE_YOUR_CALM && this.#session.ofApp && this.#kept) {
      // What the app says of the connection, another sidecar only passes on.
      this.#session.retire();
      return { code: rstCode, reason: 'upstream_reset', detail, how: 'calm' };
    }
    // NO_ERROR without an answer, or before its end: no clean end is made of it.
    const code = rstCode === NGHTTP2_NO_ERROR ? NGHTTP2_INTERNAL_ERROR : rstCode;
    return { code, reason: 'upstream_reset', detail, how: 'reset' };
  }

  #bad(error: unknown): void {
    if (!(error instanceof HeadError)) throw error;
    this.cancel(constants.NGHTTP2_PROTOCOL_ERROR);
    this.#answered.onBreak({
      code: NGHTTP2_INTERNAL_ERROR,
      reason: 'bad_response',
      detail: error.message,
      how: 'failed',
    });
  }
}

/** NaN: it does not tell. */
function bodyLength({ status, fields }: AnswerHead): number {
  if (status === 204 || status === 304) return 0;
  return Number(joinedValues(fields, 'content-length') ?? Number.NaN);
}

/** RFC 9113 §7, by code. */
const NAMES = [
  'NO_ERROR',
  'PROTOCOL_ERROR',
  'INTERNAL_ERROR',
  'FLOW_CONTROL_ERROR',
  'SETTINGS_TIMEOUT',
  'STREAM_CLOSED',
  'FRAME_SIZE_ERROR',
  'REFUSED_STREAM',
  'CANCEL',
  'COMPRESSION_ERROR',
  'CONNECT_ERROR',
  'ENHANCE_YOUR_CALM',
  'INADEQUATE_SECURITY',
  'HTTP_1_1_REQUIRED',
] as const;

/** An error code in words. */
export function nameOf(code: number): string {
  return NAMES[code] ?? `error code ${code}`;
}

function ignore(): void {}
