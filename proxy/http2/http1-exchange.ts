/** One exchange with an upstream that speaks HTTP/1, for a downstream that speaks HTTP/2. */
import { constants } from 'node:http2';
import type { Limits } from '../../mesh/limits.ts';
import { type Upstream, UpstreamBroken, type UpstreamUser } from '../dial.ts';
import { type Field, HOP_BY_HOP, isTrailer, type RequestHead } from '../http/head.ts';
import { AnswerReader, type AnswerSink } from '../http1/answer-reader.ts';
import { frameChunk, lastChunk } from '../http1/body.ts';
import type { Http1Response } from '../http1/response-head.ts';
import type { AnswerHead } from './head.ts';
import type { Answered, Break, UpstreamExchange } from './upstream-exchange.ts';

const { NGHTTP2_INTERNAL_ERROR } = constants;

/** Who gets the connection back. */
export interface UpstreamOwner {
  /** It can serve another exchange. */
  release(upstream: Upstream, keepAliveMs: number): void;
  /** It is closed. */
  dropped(upstream: Upstream): void;
}

export class Http1Exchange implements UpstreamExchange, UpstreamUser, AnswerSink {
  readonly #upstream: Upstream;
  readonly #owner: UpstreamOwner;
  readonly #answered: Answered;
  readonly #reader: AnswerReader;
  readonly #chunked: boolean;
  readonly #method: string;
  #requestDone: boolean;
  #keepAliveMs = 0;
  #keepAlive = false;
  /** Nothing is told any more. */
  #over = false;

  constructor(
    upstream: Upstream,
    head: RequestHead,
    answered: Answered,
    owner: UpstreamOwner,
    limits: Limits,
  ) {
    this.#upstream = upstream;
    this.#owner = owner;
    this.#answered = answered;
    this.#method = head.method;
    this.#chunked = head.framing.kind === 'chunked';
    this.#requestDone = head.framing.kind === 'none';
    this.#reader = new AnswerReader(limits, this);
    // `minor` 0: the body's data alone, without its chunks.
    this.#reader.begin({ method: head.method, minor: 0, upgrade: false });
    upstream.use(this);
    upstream.stream.resume();
    upstream.stream.write(writeHead(head, this.#chunked), 'latin1');
  }

  write(data: Buffer): boolean {
    if (this.#over || data.length === 0) return true;
    const { stream } = this.#upstream;
    if (!this.#chunked) return stream.write(data);
    stream.cork();
    let room = true;
    for (const piece of frameChunk(data, false)) room = stream.write(piece);
    stream.uncork();
    return room;
  }

  end(trailers: readonly Field[]): void {
    if (this.#over || this.#requestDone) return;
    this.#requestDone = true;
    if (this.#chunked) this.#upstream.stream.write(lastChunk(trailers.filter(({ key }) => isTrailer(key))));
  }

  pause(): void {
    this.#upstream.stream.pause();
  }

  resume(): void {
    if (!this.#over) this.#upstream.stream.resume();
  }

  cancel(_code: number): void {
    if (!this.#over) this.#drop();
  }

  // ---- of the connection

  upstreamData(_upstream: Upstream, chunk: Buffer): void {
    this.#reader.read(chunk);
  }

  upstreamEnd(): void {
    this.#closed(null);
  }

  upstreamClosed(_upstream: Upstream, error: Error | null): void {
    this.#closed(error);
  }

  upstreamDrain(): void {
    this.#answered.onRoom();
  }

  #closed(error: Error | null): void {
    if (error === null && this.#reader.ended()) {
      this.over(false);
      return;
    }
    const broken = error instanceof UpstreamBroken ? error : null;
    const kept = this.#upstream.uses > 0 && this.#reader.untouched && broken === null;
    this.#break({
      code: NGHTTP2_INTERNAL_ERROR,
      reason: broken?.reason ?? 'upstream_closed',
      detail: error?.message ?? (this.#reader.begun ? 'answer cut short' : 'closed without an answer'),
      how: kept ? 'kept' : 'failed',
    });
  }

  // ---- of the answer

  interim(answer: Http1Response): void {
    this.#answered.onInterim(headOf(answer));
  }

  head(answer: Http1Response): void {
    if (answer.status > 599) {
      this.bad('a status that HTTP/2 cannot tell');
      return;
    }
    this.#keepAlive = answer.keepAlive;
    this.#keepAliveMs = answer.keepAliveMs;
    this.#answered.onAnswer(headOf(answer), this.#method === 'HEAD' || answer.framing.kind === 'none');
  }

  piece(bytes: Buffer): void {
    if (!this.#over) this.#answered.onData(bytes);
  }

  flush(): void {}

  over(clean: boolean): void {
    if (this.#over) return;
    const { trailers } = this.#reader;
    if (clean && this.#requestDone && this.#keepAlive) {
      this.#over = true;
      this.#reader.stop();
      this.#upstream.use(null);
      this.#owner.release(this.#upstream, this.#keepAliveMs);
    } else this.#drop();
    this.#answered.onEnd(trailers);
  }

  tunnel(): void {
    this.bad('101 without an upgrade');
  }

  bad(detail: string): void {
    this.#break({ code: NGHTTP2_INTERNAL_ERROR, reason: 'bad_response', detail, how: 'failed' });
  }

  #break(broken: Break): void {
    if (this.#over) return;
    this.#drop();
    this.#answered.onBreak(broken);
  }

  #drop(): void {
    this.#over = true;
    this.#reader.stop();
    this.#upstream.use(null);
    this.#upstream.abort();
    this.#owner.dropped(this.#upstream);
  }
}

function headOf(answer: Http1Response): AnswerHead {
  return { status: answer.status, fields: answer.fields };
}

/** @param chunked the body has no length: HTTP/1 needs its own framing for that */
function writeHead({ method, path, fields }: RequestHead, chunked: boolean): string {
  let text = `${method} ${path} HTTP/1.1\r\n`;
  for (const { name, key, value } of fields) if (!HOP_BY_HOP.has(key)) text += `${name}: ${value}\r\n`;
  return chunked ? `${text}transfer-encoding: chunked\r\n\r\n` : `${text}\r\n`;
}
