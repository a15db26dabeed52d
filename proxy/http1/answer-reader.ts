/** Reads what an upstream answers to one request: interim answers, the final one, a tunnel; in whatever pieces it comes. */
import type { Limits } from '../../mesh/limits.ts';
import { type Field, HeadError } from '../http/head.ts';
import { BodyError, type BodyReader, bodyReader, NO_BODY } from './body.ts';
import { Http1Response } from './response-head.ts';
import { HeadScan } from './scan.ts';

/** What of a request tells how its answer is to be read. */
export interface Asked {
  readonly method: string;
  /** 0: the body is passed on without chunk framing. */
  readonly minor: 0 | 1;
  /** It asks for a WebSocket. */
  readonly upgrade: boolean;
}

/** Told what was read. Each call may end the reading: `AnswerReader.stop`. */
export interface AnswerSink {
  /** A 1xx; not 101. */
  interim(answer: Http1Response): void;
  /** The final head; its body comes next, in pieces. */
  head(answer: Http1Response): void;
  piece(bytes: Buffer): void;
  /** What was read of one chunk has all been told: it may go out. */
  flush(): void;
  /** @param clean nothing came behind it: the connection may serve another request */
  over(clean: boolean): void;
  /** 101, asked for; `rest` is the tunnel's. */
  tunnel(answer: Http1Response, rest: Buffer): void;
  /** No valid answer can come of it. `begun`: its head was passed on already. */
  bad(detail: string, begun: boolean): void;
}

const NOTHING = Buffer.alloc(0);

export class AnswerReader {
  readonly #limits: Limits;
  readonly #sink: AnswerSink;
  readonly #scan: HeadScan;
  readonly #piece: (bytes: Buffer) => void;
  #request: Asked | null = null;
  #pending: Buffer = NOTHING;
  #body: BodyReader = NO_BODY;
  #interim = 0;
  /** The final head was read. */
  #begun = false;
  /** Nothing of an answer has come, not even an interim one. */
  untouched = true;

  constructor(limits: Limits, sink: AnswerSink) {
    this.#limits = limits;
    this.#sink = sink;
    this.#scan = new HeadScan('response', limits);
    this.#piece = (bytes) => sink.piece(bytes);
  }

  /** A request is going out: what is read next answers it. */
  begin(request: Asked): void {
    this.#request = request;
    this.#pending = NOTHING;
    this.#body = NO_BODY;
    this.#interim = 0;
    this.#begun = false;
    this.untouched = true;
    this.#scan.reset();
  }

  /** Nobody waits for the answer any more. */
  stop(): void {
    this.#request = null;
    this.#pending = NOTHING;
    this.#body = NO_BODY;
  }

  read(chunk: Buffer): void {
    this.untouched = false;
    let bytes = chunk;
    if (this.#pending.length > 0) {
      bytes = Buffer.concat([this.#pending, chunk]);
      this.#pending = NOTHING;
    }
    while (!this.#begun) {
      const request = this.#request;
      if (request === null) return;
      const end = this.#readHead(bytes, request);
      if (end === 0) return;
      bytes = end === bytes.length ? NOTHING : bytes.subarray(end);
    }
    if (this.#request !== null) this.#readBody(bytes);
  }

  /** The upstream ended its side. @returns true where that ends a body as it should */
  ended(): boolean {
    return this.#begun && this.#body.ended();
  }

  /** What came behind the body, once that is over. */
  get trailers(): readonly Field[] {
    return this.#body.trailers;
  }

  get begun(): boolean {
    return this.#begun;
  }

  /** @returns where the head ends; 0: it needs more, or there is nothing more to read */
  #readHead(bytes: Buffer, request: Asked): number {
    let end: number;
    let answer: Http1Response;
    try {
      end = this.#scan.scan(bytes);
      if (end === 0) {
        this.#pending = bytes;
        return 0;
      }
      answer = new Http1Response(
        end === bytes.length ? bytes : bytes.subarray(0, end),
        this.#scan,
        request.method,
      );
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      this.#sink.bad(error.message, false);
      return 0;
    }
    if (answer.status >= 200) {
      this.#begun = true;
      // HTTP/1.0 downstreams do not know chunks: their answer ends with the connection, as an undelimited one does.
      this.#body = bodyReader(answer.framing, request.minor === 0, this.#limits);
      this.#sink.head(answer);
      return end;
    }
    if (answer.status === 101) {
      if (!request.upgrade) this.#sink.bad('101 without an upgrade', false);
      else if (!answer.websocket) this.#sink.bad('101 to another protocol', false);
      else this.#sink.tunnel(answer, bytes.subarray(end));
      return 0;
    }
    if (++this.#interim > this.#limits.maxInterimAnswers) {
      this.#sink.bad('too many interim answers', false);
      return 0;
    }
    this.#sink.interim(answer);
    this.#scan.reset();
    return end;
  }

  #readBody(bytes: Buffer): void {
    const body = this.#body;
    let taken: number;
    try {
      taken = body.feed(bytes, this.#piece);
    } catch (error) {
      if (!(error instanceof BodyError)) throw error;
      this.#sink.bad(error.message, true);
      return;
    }
    this.#sink.flush();
    // Bytes behind an answer belong to nothing we asked for: such a connection is not used again.
    if (body.done && this.#request !== null) this.#sink.over(taken === bytes.length);
  }
}
