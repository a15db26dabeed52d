/** Says an answer on a stream of a downstream session: what has come of it in one turn of the event loop goes out as one. */
import type { ServerHttp2Stream } from 'node:http2';
import type { Field } from '../http/head.ts';
import { sayTrailers } from './say.ts';

const NONE: readonly Field[] = [];
/** Bytes that may wait for the turn to end. */
const MAX_EARLY = 65_536;

/** Once the stream is closed all of it is let go. */
export class AnswerWriter {
  readonly #stream: ServerHttp2Stream;
  /**
   * The header block, while it waits. An answer that is all there once the turn is over is known to have no trailers:
   * `node:http2` can say its END_STREAM with its last data then, and need not ask for them in a turn of their own.
   */
  #unsaid: string[] | null = null;
  readonly #early: Buffer[] = [];
  #earlyBytes = 0;
  #trailers: readonly Field[] = NONE;

  constructor(stream: ServerHttp2Stream) {
    this.#stream = stream;
    stream.on('wantTrailers', () => sayTrailers(stream, this.#trailers));
  }

  /** Nothing follows. */
  headAlone(raw: string[]): void {
    this.#respond(raw, true, false);
  }

  /** @param raw the header block; `flush` is to be called when the turn is over */
  head(raw: string[]): void {
    this.#unsaid = raw;
  }

  /** @returns false: no more until the stream drains */
  data(data: Buffer): boolean {
    if (this.#unsaid === null) return this.#write(data);
    this.#early.push(data);
    this.#earlyBytes += data.length;
    return this.#earlyBytes <= MAX_EARLY || this.flush();
  }

  /** The answer is complete. */
  end(trailers: readonly Field[]): void {
    const raw = this.#unsaid;
    if (raw === null || trailers.length > 0) {
      this.flush();
      this.#trailers = trailers;
    } else {
      this.#unsaid = null;
      this.#respond(raw, this.#early.length === 0, false);
      this.#writeEarly();
    }
    if (this.#open()) this.#stream.end();
  }

  /** Says what waits. @returns false: no more until the stream drains */
  flush(): boolean {
    const raw = this.#unsaid;
    if (raw === null) return true;
    this.#unsaid = null;
    this.#respond(raw, false, true);
    return this.#writeEarly();
  }

  /** Node has the answer to HEAD ended from the beginning. */
  #open(): boolean {
    const stream = this.#stream;
    return !stream.destroyed && !stream.closed && !stream.writableEnded;
  }

  #respond(raw: string[], endStream: boolean, waitForTrailers: boolean): void {
    const stream = this.#stream;
    const options = { endStream, waitForTrailers, sendDate: false };
    if (!stream.destroyed && !stream.closed) stream.respond(raw, options);
  }

  #writeEarly(): boolean {
    let room = true;
    for (const data of this.#early.splice(0)) room = this.#write(data);
    return room;
  }

  #write(data: Buffer): boolean {
    return !this.#open() || this.#stream.write(data);
  }
}
