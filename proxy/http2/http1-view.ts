/** Makes one stream of an HTTP/2 session look like an HTTP/1.1 connection to an upstream, for a downstream that speaks HTTP/1. */
import { STATUS_CODES } from 'node:http';
import { constants } from 'node:http2';
import { Duplex } from 'node:stream';
import type { Limits } from '../../mesh/limits.ts';
import { Upstream, UpstreamBroken } from '../dial.ts';
import { type Field, HeadError } from '../http/head.ts';
import { BodyError, type BodyReader, bodyReader, CRLF, lastChunk } from '../http1/body.ts';
import type { Told } from '../told.ts';
import type { AnswerHead } from './head.ts';
import { Http2Exchange } from './http2-exchange.ts';
import { SentBody } from './sent-body.ts';
import type { Answered, Break } from './upstream-exchange.ts';
import type { UpstreamSession } from './upstream-session.ts';
import type { UpstreamSessions } from './upstream-sessions.ts';
import { readWrittenHead, type WrittenHead } from './written-head.ts';

const HEAD_END = Buffer.from('\r\n\r\n');
/** A head goes with the data behind it, and a chunk with its framing, as one buffer up to so much: each would be a write of its own. */
const JOINED = 32_768;
const EMPTY = Buffer.alloc(0);

/**
 * @param session that promised a stream
 * @param sessions where another is found if it refuses the request
 */
export function viewAsHttp1(session: UpstreamSession, sessions: UpstreamSessions, limits: Limits): Upstream {
  return new ViewedUpstream(session, new Http1View(session, sessions, limits));
}

/** Serves one exchange: its answers say `close`. */
class ViewedUpstream extends Upstream {
  /** Of the session: what is worked out for its peer once holds for all its streams. */
  override readonly told: Told;
  readonly #view: Http1View;

  constructor(session: UpstreamSession, view: Http1View) {
    const { socket, target, peer, address } = session.upstream;
    // Of no generation: a pool would keep the stream's place for nothing.
    super({ stream: view, socket, target, peer, address, generation: -1 });
    this.told = session.told;
    this.#view = view;
    this.uses = session.uses;
  }

  /** Its stream alone: the session is others', too. */
  override abort(): void {
    this.#view.destroy();
  }
}

/** What is written to it is read as an HTTP/1 request, strictly; what is read from it is the answer, in HTTP/1. */
class Http1View extends Duplex implements Answered {
  #session: UpstreamSession;
  readonly #sessions: UpstreamSessions;
  readonly #limits: Limits;
  /** Null before the request, and while another session is looked for. */
  #exchange: Http2Exchange | null = null;
  #head: WrittenHead | null = null;
  #body: BodyReader = bodyReader({ kind: 'none' });
  #pending: Buffer = EMPTY;
  /** The request has a body. */
  #hasBody = false;
  #requestEnded = false;
  readonly #sent = new SentBody();
  #replayed = false;
  /** Goes on with writing once the stream has room. */
  #onRoom: (() => void) | null = null;
  #chunked = false;
  /** The answer's head, until it is known what goes with it. */
  #unsaid = '';
  #answered = false;

  constructor(session: UpstreamSession, sessions: UpstreamSessions, limits: Limits) {
    super({ allowHalfOpen: true });
    this.#session = session;
    this.#sessions = sessions;
    this.#limits = limits;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    try {
      if (this.#readRequest(chunk)) done();
      else this.#onRoom = done;
    } catch (error) {
      if (!(error instanceof HeadError) && !(error instanceof BodyError)) throw error;
      done(error);
    }
  }

  override _read(): void {
    this.#exchange?.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (this.#head === null) this.#session.leave();
    else if (!this.#answered) this.#exchange?.cancel(constants.NGHTTP2_CANCEL);
    done(error);
  }

  /** @returns false: no more until there is room */
  #readRequest(chunk: Buffer): boolean {
    let bytes = chunk;
    if (this.#head === null) {
      bytes = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
      const end = bytes.indexOf(HEAD_END);
      if (end < 0) {
        this.#pending = bytes;
        return true;
      }
      this.#pending = EMPTY;
      const headEnd = end + HEAD_END.length;
      this.#begin(bytes.subarray(0, headEnd));
      bytes = bytes.subarray(headEnd);
    }
    let room = true;
    this.#body.feed(bytes, (data) => {
      this.#sent.keep(data);
      room = this.#exchange?.write(data) ?? false;
    });
    if (this.#body.done && !this.#requestEnded) {
      this.#requestEnded = true;
      this.#exchange?.end(this.#body.trailers);
    }
    return room;
  }

  #begin(bytes: Buffer): void {
    const head = readWrittenHead(bytes, this.#limits);
    this.#head = head;
    this.#body = bodyReader(head.framing, true, this.#limits);
    this.#requestEnded = this.#body.done;
    this.#hasBody = !this.#requestEnded;
    this.#exchange = new Http2Exchange(this.#session, head, this.#requestEnded, this, this.#limits);
  }

  /** Says again what another session refused (RFC 9113 §8.7). */
  #again(session: UpstreamSession): void {
    const pieces = this.#sent.pieces;
    if (this.destroyed || this.#head === null || pieces === null) {
      session.leave();
      this.destroy(new Error('refused, and too long to be sent again'));
      return;
    }
    this.#session = session;
    const exchange = new Http2Exchange(session, this.#head, !this.#hasBody, this, this.#limits);
    this.#exchange = exchange;
    for (const piece of pieces) exchange.write(piece);
    if (this.#hasBody && this.#requestEnded) exchange.end(this.#body.trailers);
    this.onRoom();
  }

  // ---- the answer

  onInterim(answer: AnswerHead): void {
    this.#sent.forget();
    this.push(textOf(answer, answer.fields), 'latin1');
  }

  onAnswer(answer: AnswerHead, ended: boolean): void {
    this.#sent.forget();
    const { status, fields } = answer;
    const bodiless = this.#head?.method === 'HEAD' || status === 204 || status === 304;
    const length = fields.some(({ key }) => key === 'content-length');
    this.#chunked = !bodiless && !length && !ended;
    const more: Field[] = [{ name: 'connection', key: 'connection', value: 'close' }];
    if (this.#chunked) more.push({ name: 'transfer-encoding', key: 'transfer-encoding', value: 'chunked' });
    else if (ended && !bodiless && !length) {
      more.push({ name: 'content-length', key: 'content-length', value: '0' });
    }
    this.#unsaid = textOf(answer, [...fields, ...more]);
    if (ended || bodiless) this.#sayHead();
    // Data that came with it is told in this turn.
    else setImmediate(Http1View.sayHead, this);
  }

  #sayHead(): void {
    const head = this.#unsaid;
    if (head === '') return;
    this.#unsaid = '';
    this.push(head, 'latin1');
  }

  onData(data: Buffer): void {
    // An empty chunk would be the last one.
    if (data.length === 0) return;
    const before = this.#chunked ? `${this.#unsaid}${data.length.toString(16)}\r\n` : this.#unsaid;
    const after = this.#chunked ? CRLF : EMPTY;
    this.#unsaid = '';
    let room: boolean;
    if (before === '') room = this.push(data);
    else if (data.length <= JOINED) room = this.push(joined(before, data, after));
    else {
      this.push(before, 'latin1');
      room = this.push(data);
      if (this.#chunked) room = this.push(CRLF);
    }
    if (!room) this.#exchange?.pause();
  }

  onEnd(trailers: readonly Field[]): void {
    this.#answered = true;
    this.#sayHead();
    if (this.#chunked) this.push(lastChunk(trailers));
    this.push(null);
    this.onRoom();
  }

  onRoom(): void {
    const done = this.#onRoom;
    this.#onRoom = null;
    done?.();
  }

  static sayHead(view: Http1View): void {
    if (!view.destroyed) view.#sayHead();
  }

  /** A cut stays a cut. */
  onBreak({ reason, detail, how }: Break): void {
    if (how === 'refused' && !this.#replayed && this.#sent.pieces !== null) {
      this.#replayed = true;
      this.#exchange = null;
      this.#sessions.enterAnother(this.#session, {
        entered: (session) => this.#again(session),
        failed: (reason, detail) => this.destroy(new UpstreamBroken(reason, detail, false)),
      });
      return;
    }
    this.#answered = true;
    this.#sayHead();
    this.destroy(new UpstreamBroken(reason, detail, how === 'kept' || how === 'calm'));
  }
}

function joined(before: string, data: Buffer, after: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(before.length + data.length + after.length);
  bytes.write(before, 0, 'latin1');
  bytes.set(data, before.length);
  bytes.set(after, before.length + data.length);
  return bytes;
}

function textOf({ status }: AnswerHead, fields: readonly Field[]): string {
  let text = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n`;
  for (const { name, value } of fields) text += `${name}: ${value}\r\n`;
  return `${text}\r\n`;
}
