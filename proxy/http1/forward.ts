/** Carries HTTP/1.1 between two byte streams: reads heads, asks its side to judge, passes bodies on. */
import type { Duplex } from 'node:stream';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { Carrier, Connection } from '../connections.ts';
import type { Upstream } from '../dial.ts';
import { changeAnswer } from '../http/change-fields.ts';
import { Exchange } from '../http/exchange.ts';
import { HeadError, joinedValues, valuesOf } from '../http/head.ts';
import { HeldBody, type HeldBounds } from '../http/held-body.ts';
import { type LocalAnswer, writeLocalAnswer } from '../http/local-answer.ts';
import type { HttpSide, RequestCarrier } from '../http/side.ts';
import { BodyError, type BodyReader, bodyReader } from './body.ts';
import {
  type Http1Request,
  parseRequest,
  parseResponse,
  type ResponseHead,
  writeRequest,
  writeResponse,
} from './head.ts';

type Phase = 'idle' | 'head' | 'judging' | 'dialling' | 'exchange' | 'closed';

const EMPTY = Buffer.alloc(0);
const HEAD_END = Buffer.from('\r\n\r\n');
const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n';
/** RFC 9110 §9.2.2: these may be sent again when a kept connection turns out to be dead. */
const REPLAYABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);
/** Bytes of a refused request's body that are read past before the connection is given up. */
const MAX_DISCARD = 65_536;
/** Bytes taken in advance of the request they belong to (pipelining); then reading stops. */
const MAX_AHEAD = 65_536;
/** Interim answers passed on for one request. */
const MAX_INTERIM = 10;

/** One downstream connection that speaks HTTP/1.1, from its first byte to its last. */
export class HttpForwarder implements Carrier, RequestCarrier {
  readonly #stream: Duplex;
  readonly #connection: Connection;
  readonly #side: HttpSide;
  #phase: Phase = 'idle';
  #draining = false;
  /** Received and not yet consumed. */
  #pending: Buffer = EMPTY;
  /** Bytes of `#pending` already searched for the head's end: a head in tiny pieces must not be read again for each. */
  #searched = 0;
  /** RFC 9112 §2.2: one empty line before a request line is passed over. */
  #emptyLineSeen = false;
  /** `#advance` is at work: what it calls must not start it anew, or pipelined requests would pile up the stack. */
  #advancing = false;
  /** The downstream does not read its answers: nothing more is begun for it until it does. */
  #stalled = false;
  #downstreamEnded = false;
  #exchange: Exchange | null = null;
  #head: Http1Request | null = null;
  #requestBody: BodyReader = bodyReader({ kind: 'none' });
  #requestDone = true;
  /** What a judge wants to see of the body; read by `#consume` while it is not enough. */
  #held: HeldBody | null = null;
  #onHeld: ((body: HeldBody) => void) | null = null;
  /** The downstream waits for 100 (Continue) and has not been told. */
  #awaitsContinue = false;
  #upstream: Upstream | null = null;
  #answer: ResponseHead | null = null;
  #answerBody: BodyReader | null = null;
  #answerPending: Buffer = EMPTY;
  #answerStarted = false;
  #interim = 0;
  #discarded = 0;
  #closeAfter = false;
  #replayed = false;

  readonly #onUpstreamData = (chunk: Buffer): void => this.#fromUpstream(chunk);
  readonly #onUpstreamEnd = (): void => this.#upstreamEnded(null);
  readonly #onUpstreamError = (error: Error): void => this.#upstreamEnded(error);
  readonly #onUpstreamClose = (): void => this.#upstreamEnded(new Error('closed'));
  readonly #onUpstreamDrain = (): void => {
    if (!this.#requestDone) this.#stream.resume();
  };

  constructor(connection: Connection, side: HttpSide) {
    const { stream } = connection;
    this.#stream = stream;
    this.#connection = connection;
    this.#side = side;
    stream.on('data', (chunk: Buffer) => this.#fromDownstream(chunk));
    stream.on('end', () => this.#downstreamEnd());
    stream.on('error', () => this.#downstreamGone());
    stream.on('close', () => this.#downstreamGone());
    stream.on('drain', () => this.#downstreamDrained());
    side.expect('anything');
    // Whoever looked at the first bytes paused the stream: listening alone would not set it flowing again.
    stream.resume();
    // It may have ended before anyone listened: right behind its TLS handshake, say.
    if (stream.readableEnded) queueMicrotask(() => this.#downstreamEnd());
  }

  drain(): void {
    this.#draining = true;
    if (this.#phase === 'idle') this.#closeGently();
  }

  abort(): void {
    this.#end(true);
  }

  /** The connection's deadline passed: a head came too slowly, or nothing moved for too long. */
  timedOut(): void {
    if (this.#phase === 'head') {
      this.#exchange = new Exchange();
      this.#refuse(
        { status: 408, body: 'request head too slow', reason: 'request_timeout', detail: '' },
        true,
      );
    } else if (this.#onHeld !== null) {
      this.#refuse(
        { status: 408, body: 'request body too slow', reason: 'request_timeout', detail: 'of a held body' },
        true,
      );
    } else if (this.#phase === 'idle') {
      this.#closeGently();
    } else if (this.#phase === 'closed') {
      // Its last bytes are not read: what it has of them must not look like all.
      this.#connection.abort();
    } else {
      this.#fail('idle_timeout', '');
    }
  }

  // ---- the request's way

  #fromDownstream(chunk: Buffer): void {
    if (this.#phase === 'closed') return;
    this.#connection.active = true;
    this.#connection.bytesReceived += chunk.length;
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    this.#advance();
  }

  /** A fault of ours in one connection ends that connection, not the process. */
  #broke(error: unknown): void {
    this.#side.broke(error as Error);
    this.#end(true);
  }

  #downstreamDrained(): void {
    this.#upstream?.stream.resume();
    if (!this.#stalled) return;
    this.#stalled = false;
    this.#stream.resume();
    this.#advance();
  }

  /** Consumes what it can of the received bytes, request by request. */
  #advance(): void {
    if (this.#advancing) return;
    this.#advancing = true;
    try {
      this.#consume();
    } catch (error) {
      this.#broke(error);
    } finally {
      this.#advancing = false;
    }
  }

  #consume(): void {
    while (this.#pending.length > 0) {
      if (this.#phase === 'idle' && this.#stream.writableNeedDrain) {
        this.#stalled = true;
        this.#stream.pause();
        return;
      }
      if (this.#phase === 'idle' || this.#phase === 'head') {
        if (!this.#readHead()) return;
      } else if (!this.#requestDone && (this.#phase === 'exchange' || this.#onHeld !== null)) {
        if (!this.#readBody()) return;
      } else {
        if (this.#pending.length > MAX_AHEAD) this.#stream.pause();
        return;
      }
    }
  }

  /** @returns false when it needs more bytes or the connection is over */
  #readHead(): boolean {
    const { limits } = this.#side;
    if (this.#phase === 'idle') {
      this.#side.expect('head');
      if (!this.#emptyLineSeen && this.#pending[0] === 0x0d) {
        if (this.#pending.length === 1) return false;
        if (this.#pending[1] === 0x0a) {
          this.#emptyLineSeen = true;
          this.#pending = this.#pending.subarray(2);
          if (this.#pending.length === 0) return false;
        }
      }
      this.#phase = 'head';
    }
    const searched = this.#searched;
    const end = this.#pending.indexOf(HEAD_END, Math.max(0, searched - 3));
    this.#searched = end < 0 ? this.#pending.length : 0;
    if (end < 0 || end > limits.maxHeadBytes) {
      if (end > limits.maxHeadBytes || this.#pending.length > limits.maxHeadBytes) {
        this.#exchange = new Exchange();
        this.#refuse(
          { status: 431, body: 'request head too large', reason: 'head_too_large', detail: '' },
          true,
        );
      } else if (hasBareLf(this.#pending, searched)) {
        // Without this a client that ends its lines with LF alone would wait for the time-out.
        this.#exchange = new Exchange();
        this.#refuse(
          { status: 400, body: 'bad request', reason: 'bad_request', detail: 'bare LF in the head' },
          true,
        );
      }
      return false;
    }
    const exchange = new Exchange();
    this.#exchange = exchange;
    const text = this.#pending.toString('latin1', 0, end);
    this.#pending = this.#pending.subarray(end + 4);
    let head: Http1Request;
    try {
      head = parseRequest(text, { maxFields: limits.maxHeadFields }, this.#side.normalize);
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      const reason = error.status === 431 ? 'head_too_large' : 'bad_request';
      this.#refuse({ status: error.status, body: error.message, reason, detail: error.message }, true);
      return false;
    }
    exchange.requestHeadBytes = end + 4;
    this.#begin(head, exchange);
    return this.#phase !== ('closed' as Phase);
  }

  #begin(head: Http1Request, exchange: Exchange): void {
    this.#side.expect('anything');
    this.#emptyLineSeen = false;
    this.#head = head;
    exchange.method = head.method;
    exchange.path = head.path;
    exchange.authority = head.host;
    exchange.protocol = `HTTP/1.${head.minor}`;
    exchange.userAgent = valuesOf(head.fields, 'user-agent')[0] ?? '';
    exchange.requestId = valuesOf(head.fields, 'x-request-id')[0] ?? '';
    exchange.forwardedFor = joinedValues(head.fields, 'x-forwarded-for') ?? '';
    this.#requestBody = bodyReader(head.framing);
    this.#requestDone = this.#requestBody.done;
    this.#answer = null;
    this.#answerBody = null;
    this.#answerPending = EMPTY;
    this.#answerStarted = false;
    this.#interim = 0;
    this.#discarded = 0;
    this.#replayed = false;
    this.#awaitsContinue = head.expectsContinue && !this.#requestDone;
    this.#closeAfter = !head.keepAlive || this.#draining || this.#side.draining;
    const judged = this.#side.judge(head, exchange);
    if (judged !== 'pending') this.#proceed(head, exchange, judged);
    else if (this.#phase !== 'closed') this.#phase = 'judging';
  }

  /**
   * Tells what became of a pending judgement. Safe to call when nobody waits for it any more.
   * @param answer null lets the request pass
   */
  judged(exchange: Exchange, answer: LocalAnswer | null): void {
    const head = this.#head;
    if (this.#exchange !== exchange || this.#phase !== 'judging' || head === null) return;
    try {
      this.#proceed(head, exchange, answer);
    } catch (error) {
      this.#broke(error);
    }
  }

  /**
   * Holds the body of the request under judgement back until there is enough of it to judge by. Called by `judge`.
   * @param done called once, later, unless the request is over before
   */
  hold(bounds: HeldBounds, done: (body: HeldBody) => void): void {
    const head = this.#head;
    if (head === null) return;
    this.#held = new HeldBody(head.framing, bounds);
    this.#onHeld = done;
    this.#side.expect('held-body');
    if (!this.#awaitsContinue) return;
    // The upstream cannot be asked whether it wants the body before the body is judged: Envoy answers for it too.
    this.#awaitsContinue = false;
    head.fields = head.fields.filter(({ key }) => key !== 'expect');
    this.#stream.write(CONTINUE, 'latin1');
  }

  #proceed(head: Http1Request, exchange: Exchange, refusal: LocalAnswer | null): void {
    this.#onHeld = null;
    if (refusal !== null) {
      // A client that waits for 100 (Continue) may never send the body: the connection cannot be kept.
      this.#refuse(refusal, this.#awaitsContinue);
      return;
    }
    this.#phase = 'dialling';
    if (!this.#requestDone) this.#stream.pause();
    this.#reach(head, exchange, false);
  }

  #reach(head: Http1Request, exchange: Exchange, fresh: boolean): void {
    this.#side.reach(head, exchange, fresh, {
      connected: (upstream) => this.#connected(upstream, head, exchange),
      failed: (reason, detail) => {
        if (this.#exchange !== exchange || this.#phase === 'closed') return;
        const body = `upstream connect error: ${reason}`;
        this.#refuse({ status: 503, body, reason, detail }, this.#awaitsContinue);
      },
    });
  }

  #connected(upstream: Upstream, head: Http1Request, exchange: Exchange): void {
    if (this.#exchange !== exchange || this.#phase === 'closed') {
      // The downstream left meanwhile: nothing was sent, so the connection is as good as new.
      this.#side.release(upstream);
      return;
    }
    this.#upstream = upstream;
    this.#phase = 'exchange';
    exchange.upstreamAddress = upstream.address;
    exchange.upstreamLocalAddress = upstream.localAddress;
    exchange.upstreamPrincipal = upstream.peer?.identity.uri ?? '';
    const { stream } = upstream;
    stream.on('data', this.#onUpstreamData);
    stream.on('end', this.#onUpstreamEnd);
    stream.on('error', this.#onUpstreamError);
    stream.on('close', this.#onUpstreamClose);
    stream.on('drain', this.#onUpstreamDrain);
    stream.resume();
    if (stream.readableEnded) {
      this.#upstreamEnded(null);
      return;
    }
    // Head and the part of the body that came with it leave as one write.
    stream.cork();
    stream.write(writeRequest(head), 'latin1');
    const held = this.#held;
    // Its room is free as soon as it has left, however long the answer takes.
    for (const piece of held?.framed() ?? []) stream.write(piece, () => held?.release());
    this.#stream.resume();
    this.#advance();
    stream.uncork();
    this.#checkCutShort();
  }

  /** @returns false when it needs more bytes or the connection is over */
  #readBody(): boolean {
    const exchange = this.#exchange;
    const bytes = this.#pending;
    let taken: number;
    try {
      taken =
        this.#onHeld !== null && this.#held !== null
          ? this.#held.feed(bytes, this.#requestBody)
          : this.#requestBody.feed(bytes, this.#passOn);
    } catch (error) {
      if (!(error instanceof BodyError)) throw error;
      // Nothing more of this request may go on, and the upstream must not take it for complete.
      this.#dropUpstream();
      const answer = {
        status: 400,
        body: error.message,
        reason: 'bad_request',
        detail: error.message,
      } as const;
      if (!this.#answerStarted) this.#refuse(answer, true);
      else if (this.#refusedAlready) this.#closeBehindAnswer();
      else this.#fail('bad_request', error.message);
      return false;
    }
    this.#pending = taken === bytes.length ? EMPTY : bytes.subarray(taken);
    if (exchange !== null) exchange.requestBodyBytes += taken;
    if (this.#onHeld !== null) return this.#heldMore();
    if (this.#upstream === null) {
      this.#discarded += taken;
      if (this.#discarded > MAX_DISCARD) {
        this.#closeBehindAnswer();
        return false;
      }
    }
    if (this.#requestBody.done) {
      this.#requestDone = true;
      this.#exchangeOver();
    }
    return this.#phase !== 'closed';
  }

  readonly #passOn = (piece: Buffer): void => {
    const upstream = this.#upstream;
    if (upstream !== null && !upstream.stream.write(piece)) this.#stream.pause();
  };

  /** More of a held body has come. @returns false when the connection is over */
  #heldMore(): boolean {
    const held = this.#held;
    const done = this.#onHeld;
    if (this.#requestBody.done) this.#requestDone = true;
    if (held === null || done === null || !held.enough) return true;
    this.#onHeld = null;
    this.#side.expect('anything');
    done(held);
    return this.#phase !== 'closed';
  }

  #downstreamEnd(): void {
    this.#downstreamEnded = true;
    if (this.#phase === 'idle') this.#end(false);
    else if (this.#phase === 'head') this.#end(true);
    // What came before the end may be all of it: see when it is read.
    else if (this.#phase === 'judging' && this.#pending.length > 0) return;
    else this.#checkCutShort();
  }

  /** A request cut short is aborted; one that is complete still gets its answer (half-close). */
  #checkCutShort(): void {
    if (!this.#downstreamEnded || this.#requestDone || this.#phase === 'closed') return;
    if (this.#refusedAlready) this.#closeBehindAnswer();
    else this.#fail('downstream_closed', 'request body cut short');
  }

  #downstreamGone(): void {
    if (this.#phase === 'closed') return;
    if (this.#exchange !== null) this.#fail('downstream_closed', '');
    else this.#end(true);
  }

  // ---- the answer's way

  #fromUpstream(chunk: Buffer): void {
    const exchange = this.#exchange;
    if (exchange === null) return;
    try {
      this.#readAnswer(chunk, exchange);
    } catch (error) {
      this.#broke(error);
    }
  }

  #readAnswer(chunk: Buffer, exchange: Exchange): void {
    this.#connection.active = true;
    if (exchange.upstreamFirstByte === 0) exchange.upstreamFirstByte = performance.now();
    let bytes = this.#answerPending.length === 0 ? chunk : Buffer.concat([this.#answerPending, chunk]);
    this.#answerPending = EMPTY;
    while (this.#answerBody === null) {
      const rest = this.#readAnswerHead(bytes);
      if (rest === null) return;
      bytes = rest;
    }
    this.#answerBytes(bytes);
  }

  /** @returns the bytes after the head; null when it needs more or gave up */
  #readAnswerHead(bytes: Buffer): Buffer | null {
    const { limits } = this.#side;
    const head = this.#head;
    if (head === null) return null;
    const end = bytes.indexOf(HEAD_END);
    if (end < 0 || end > limits.maxHeadBytes) {
      if (bytes.length > limits.maxHeadBytes) this.#badAnswer('answer head too large');
      else if (!beginsAsHttp(bytes) || hasBareLf(bytes, 0)) this.#badAnswer('no HTTP/1 answer');
      else this.#answerPending = bytes;
      return null;
    }
    let answer: ResponseHead;
    try {
      answer = parseResponse(
        bytes.toString('latin1', 0, end),
        { maxFields: limits.maxHeadFields },
        head.method,
      );
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      this.#badAnswer(error.message);
      return null;
    }
    const rest = bytes.subarray(end + 4);
    if (answer.status < 200) {
      // Nobody asked for an upgrade: it was stripped from the request.
      if (answer.status === 101) this.#badAnswer('101 without an upgrade');
      else if (++this.#interim > MAX_INTERIM) this.#badAnswer('too many interim answers');
      else {
        if (head.minor === 1) this.#stream.write(writeResponse(answer, false), 'latin1');
        return rest;
      }
      return null;
    }
    this.#startAnswer(answer);
    return rest;
  }

  #startAnswer(answer: ResponseHead): void {
    // HTTP/1.0 downstreams do not know chunks: their answer ends with the connection, as an undelimited one does.
    const plain = this.#head?.minor === 0 && answer.framing.kind === 'chunked';
    this.#answer = answer;
    this.#answerBody = bodyReader(answer.framing, plain);
    this.#answerStarted = true;
    if (answer.framing.kind === 'close' || plain || this.#draining || this.#side.draining)
      this.#closeAfter = true;
    const exchange = this.#exchange;
    const added = exchange?.answerFields ?? null;
    const told = added === null ? answer : { ...answer, fields: changeAnswer(answer.fields, added) };
    const text = writeResponse(told, this.#closeAfter, plain);
    if (exchange !== null) {
      exchange.status = answer.status;
      exchange.responseHeadBytes = text.length;
    }
    this.#connection.bytesSent += text.length;
    this.#stream.cork();
    this.#stream.write(text, 'latin1');
  }

  #answerBytes(bytes: Buffer): void {
    const body = this.#answerBody;
    const exchange = this.#exchange;
    if (body === null || exchange === null) return;
    let taken: number;
    try {
      taken = body.feed(bytes, (piece) => {
        this.#connection.bytesSent += piece.length;
        if (!this.#stream.write(piece)) this.#upstream?.stream.pause();
      });
    } catch (error) {
      if (!(error instanceof BodyError)) throw error;
      this.#stream.uncork();
      this.#fail('bad_response', error.message);
      return;
    }
    exchange.responseBodyBytes += taken;
    this.#stream.uncork();
    if (!body.done) return;
    // Bytes after an answer belong to nothing we asked for: such a connection is not used again.
    this.#answerOver(taken === bytes.length);
  }

  #answerOver(clean: boolean): void {
    const upstream = this.#upstream;
    if (upstream !== null && this.#requestDone && clean && this.#answer?.keepAlive === true) {
      this.#detach(upstream);
      this.#upstream = null;
      this.#side.release(upstream);
    } else {
      // Answered before the request was complete, or not to be kept.
      this.#dropUpstream(this.#requestDone);
    }
    this.#answerBody = DONE;
    this.#exchangeOver();
  }

  #upstreamEnded(error: Error | null): void {
    const head = this.#head;
    const exchange = this.#exchange;
    const upstream = this.#upstream;
    if (upstream === null || exchange === null || head === null) return;
    if (this.#answerBody !== null) {
      if (error === null && this.#answerBody.ended()) this.#answerOver(false);
      else this.#fail('upstream_closed', error?.message ?? 'answer cut short');
      return;
    }
    this.#dropUpstream();
    // A kept connection may have died while idle: a request that changes nothing goes again, on a fresh one.
    const unused = exchange.upstreamFirstByte === 0 && this.#interim === 0 && head.framing.kind === 'none';
    if (upstream.uses > 0 && unused && !this.#replayed && REPLAYABLE.has(head.method)) {
      this.#replayed = true;
      this.#phase = 'dialling';
      this.#reach(head, exchange, true);
      return;
    }
    const detail = error?.message ?? 'closed without an answer';
    this.#refuse(
      { status: 503, body: 'upstream closed without an answer', reason: 'upstream_closed', detail },
      false,
    );
  }

  #badAnswer(detail: string): void {
    this.#dropUpstream();
    this.#refuse({ status: 502, body: 'bad answer from upstream', reason: 'bad_response', detail }, false);
  }

  // ---- endings

  /** Answers ourselves. `close`: what follows on this connection cannot be trusted or is not wanted. */
  #refuse(answer: LocalAnswer, close: boolean): void {
    const exchange = this.#exchange;
    if (exchange === null || this.#phase === 'closed') return;
    exchange.status = answer.status;
    exchange.reason = answer.reason;
    exchange.detail = answer.detail;
    if (close || answer.close === true || this.#draining) this.#closeAfter = true;
    const { head, body } = writeLocalAnswer(answer, {
      method: this.#head?.method ?? '',
      changes: exchange.answerFields ?? [],
      close: this.#closeAfter,
    });
    if (typeof body === 'string') this.#stream.write(head + body, 'latin1');
    else {
      this.#stream.cork();
      this.#stream.write(head, 'latin1');
      this.#stream.write(body);
      this.#stream.uncork();
    }
    exchange.responseHeadBytes = head.length;
    exchange.responseBodyBytes = body.length;
    this.#connection.bytesSent += head.length + body.length;
    this.#letGo();
    this.#answerStarted = true;
    this.#answerBody = DONE;
    this.#phase = 'exchange';
    if (close) this.#requestDone = true;
    this.#stream.resume();
    this.#exchangeOver();
    // Its body may have come while it was judged: nothing else would read past it.
    this.#advance();
  }

  /** The request at hand has its answer from us: whatever becomes of the rest of it, that is the reason. */
  get #refusedAlready(): boolean {
    return this.#exchange !== null && this.#exchange.reason !== null;
  }

  /** The rest of an answered request cannot be read past: the connection ends behind the answer. */
  #closeBehindAnswer(): void {
    this.#closeAfter = true;
    this.#exchangeOver();
  }

  /** Request and answer both over: log, and go on to the next request or close. */
  #exchangeOver(): void {
    const exchange = this.#exchange;
    if (exchange === null || this.#answerBody?.done !== true) return;
    if (!this.#requestDone) {
      // Answered early. What is announced of the body is read past (bounded), or the connection closes.
      if (this.#closeAfter || this.#downstreamEnded) this.#requestDone = true;
      else return;
    }
    this.#letGo();
    this.#exchange = null;
    this.#head = null;
    this.#answerBody = null;
    this.#phase = 'idle';
    this.#side.finished(exchange);
    if (this.#closeAfter || this.#downstreamEnded) {
      this.#closeGently();
      return;
    }
    this.#side.expect('anything');
    this.#stream.resume();
    if (this.#pending.length > 0) this.#advance();
  }

  /** Gives an exchange up after its answer began, or without any: the downstream sees a cut. A refusal keeps its reason. */
  #fail(reason: ReasonCode, detail: string): void {
    const exchange = this.#exchange;
    if (exchange !== null && !this.#refusedAlready) {
      exchange.reason = reason;
      exchange.detail = detail;
    }
    this.#end(true);
  }

  /** Sends FIN and reads on for a moment, so that the answer is not lost to a reset (RFC 9112 §9.6). */
  #closeGently(): void {
    if (this.#phase === 'closed') return;
    const stream = this.#stream;
    this.#phase = 'closed';
    this.#pending = EMPTY;
    endThenLinger(stream);
    stream.resume();
  }

  #letGo(): void {
    this.#held?.release();
    this.#held = null;
    this.#onHeld = null;
  }

  #end(abort: boolean): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    const exchange = this.#exchange;
    this.#exchange = null;
    this.#letGo();
    this.#dropUpstream();
    if (abort) this.#connection.abort();
    else endThenLinger(this.#stream);
    if (exchange !== null) this.#side.finished(exchange);
  }

  #detach(upstream: Upstream): void {
    const { stream } = upstream;
    stream.off('data', this.#onUpstreamData);
    stream.off('end', this.#onUpstreamEnd);
    stream.off('error', this.#onUpstreamError);
    stream.off('close', this.#onUpstreamClose);
    stream.off('drain', this.#onUpstreamDrain);
  }

  /** @param gently with a FIN: all that was to be said was said */
  #dropUpstream(gently = false): void {
    const upstream = this.#upstream;
    if (upstream === null) return;
    this.#upstream = null;
    this.#detach(upstream);
    // Someone has to hear what a dying socket still says.
    upstream.stream.on('error', ignore);
    if (gently) {
      upstream.stream.end();
      upstream.stream.destroy();
    } else upstream.abort();
    this.#side.dropped(upstream);
  }
}

const DONE: BodyReader = { done: true, feed: () => 0, ended: () => true };

const LINGER_MS = 1_000;

/** Ends a stream; the moment begins when all that was written has left, however slowly it is read. */
function endThenLinger(stream: Duplex): void {
  stream.end(() => {
    if (stream.destroyed) return;
    const timer = setTimeout(() => stream.destroy(), LINGER_MS);
    stream.once('close', () => clearTimeout(timer));
  });
}

function ignore(): void {}

const VERSION = Buffer.from('HTTP/1.');

/** False as soon as no status line can come of it: an app that speaks something else must not be waited for. */
function beginsAsHttp(bytes: Buffer): boolean {
  const length = Math.min(bytes.length, VERSION.length);
  return bytes.compare(VERSION, 0, length, 0, length) === 0;
}

/** True where an LF at or after `from` stands without its CR: such a head never ends by our rules. */
function hasBareLf(bytes: Buffer, from: number): boolean {
  for (let at = bytes.indexOf(0x0a, from); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    if (at === 0 || bytes[at - 1] !== 0x0d) return true;
  }
  return false;
}
