/** Writes answers to a downstream: head and first piece as one write, in the bytes they came in where nothing is changed. */
import type { Duplex } from 'node:stream';
import type { Connection } from '../connections.ts';
import { pass } from '../hear.ts';
import type { Exchange } from '../http/exchange.ts';
import { JOINED } from './request-writer.ts';
import type { AnswerOptions, Http1Response } from './response-head.ts';

const PLAIN: AnswerOptions = { close: false, plain: false, tunnel: false, changes: null };

/** One for all answers of a connection, which it counts the bytes of. */
export class AnswerWriter {
  readonly #connection: Connection;
  readonly #stream: Duplex;
  /** Its head is still to be sent: it waits for the piece of the body that came with it. */
  #unsent: Http1Response | null = null;
  #options: AnswerOptions = PLAIN;
  #corked = false;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.#stream = connection.stream;
  }

  /** Another exchange begins: what was not sent of the last answer is not sent any more. */
  begin(): void {
    this.#unsent = null;
  }

  interim(answer: Http1Response): void {
    this.#stream.write(answer.write(PLAIN, null));
  }

  /**
   * @param close the connection ends behind it
   * @param plain its body goes on without chunk framing
   */
  head(answer: Http1Response, exchange: Exchange, close: boolean, plain: boolean): void {
    const changes = exchange.answerFields;
    this.#unsent = answer;
    this.#options = !close && changes === null ? PLAIN : { close, plain, tunnel: false, changes };
  }

  /** @returns false where no more should come for now */
  piece(bytes: Buffer, exchange: Exchange): boolean {
    exchange.responseBodyBytes += bytes.length;
    if (this.#unsent !== null) return this.#send(this.#unsent, exchange, bytes);
    this.#connection.bytesSent += bytes.length;
    return pass(bytes, this.#stream);
  }

  /** What came at once is through. @returns false where no more should come for now */
  flush(exchange: Exchange | null): boolean {
    let flowing = true;
    if (this.#unsent !== null && exchange !== null) flowing = this.#send(this.#unsent, exchange, null);
    this.uncork();
    return flowing;
  }

  /** What was sent leaves, and nothing more of the answer. */
  uncork(): void {
    if (!this.#corked) return;
    this.#corked = false;
    this.#stream.uncork();
  }

  /** The 101 that opens a tunnel. */
  switching(answer: Http1Response, exchange: Exchange): void {
    const options = { close: false, plain: false, tunnel: true, changes: exchange.answerFields };
    const head = answer.write(options, null);
    exchange.status = 101;
    exchange.responseHeadBytes = head.length;
    this.#connection.bytesSent += head.length;
    this.#stream.write(head);
  }

  #send(answer: Http1Response, exchange: Exchange, piece: Buffer | null): boolean {
    this.#unsent = null;
    const stream = this.#stream;
    const whole = answer.asCame(this.#options, piece);
    const joined = piece !== null && piece.length <= JOINED;
    const bytes = whole ?? answer.write(this.#options, joined ? piece : null);
    const separate = whole === null && !joined ? piece : null;
    const body = piece === null ? 0 : piece.length;
    const headBytes = separate === null ? bytes.length - body : bytes.length;
    exchange.responseHeadBytes = headBytes;
    this.#connection.bytesSent += headBytes + body;
    if (separate === null) return stream.write(bytes);
    if (!this.#corked) {
      this.#corked = true;
      stream.cork();
    }
    stream.write(bytes);
    return stream.write(separate);
  }
}
