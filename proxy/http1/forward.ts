/** Carries HTTP/1 from a downstream to its upstreams: reads heads, asks its side to judge, passes bodies on as they come. */
import { Buffer } from 'node:buffer';
import { performance } from 'node:perf_hooks';
import type { Limits } from '../../mesh/limits.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { Carrier, Connection } from '../connections.ts';
import { type DialDone, type Upstream, UpstreamBroken, type UpstreamUser } from '../dial.ts';
import { Exchange } from '../http/exchange.ts';
import { grpcStatusOf, isGrpcType } from '../http/grpc.ts';
import { HeadError, REPLAYABLE } from '../http/head.ts';
import { HeldBody, type HeldBounds } from '../http/held-body.ts';
import { type LocalAnswer, writeLocalAnswer } from '../http/local-answer.ts';
import type { HttpSide, RequestCarrier } from '../http/side.ts';
import { AnswerReader, type AnswerSink } from './answer-reader.ts';
import { AnswerWriter } from './answer-writer.ts';
import { BodyError, type BodyReader, bodyReader, NO_BODY } from './body.ts';
import { Downstream, type DownstreamUser } from './downstream.ts';
import { Http1Request, LastRequest } from './request-head.ts';
import { RequestWriter } from './request-writer.ts';
import type { Http1Response } from './response-head.ts';
import { HeadScan } from './scan.ts';
import { openTunnel } from './tunnel.ts';

type Phase = 'idle' | 'head' | 'judging' | 'dialling' | 'exchange' | 'tunnel' | 'closed';

const NOTHING = Buffer.alloc(0);
const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n';
const CR = 0x0d;
const LF = 0x0a;

/** One downstream connection that speaks HTTP/1, from its first byte to its last. */
export class HttpForwarder
  implements Carrier, RequestCarrier, DialDone, DownstreamUser, UpstreamUser, AnswerSink
{
  readonly #downstream: Downstream;
  readonly #connection: Connection;
  readonly #side: HttpSide;
  readonly #limits: Limits;
  #phase: Phase = 'idle';
  #draining = false;
  /** Received and not yet consumed; while a head is read it begins with that head. */
  #pending: Buffer = NOTHING;
  readonly #scan: HeadScan;
  readonly #last = new LastRequest();
  /** RFC 9112 §2.2: one empty line before a request line is passed over. */
  #emptyLineSeen = false;
  /** The head's own deadline runs: not all of it came at once. */
  #headAwaited = false;
  /** `#advance` is at work: what it calls must not start it anew, or pipelined requests would pile up the stack. */
  #advancing = false;
  /** The downstream does not read its answers: nothing more is begun for it until it does. */
  #stalled = false;
  #downstreamEnded = false;
  #exchange: Exchange | null = null;
  #request: Http1Request | null = null;
  readonly #toUpstream = new RequestWriter();
  #requestBody: BodyReader = NO_BODY;
  #requestDone = true;
  /** What a judge wants to see of the body; read by `#consume` while it is not enough. */
  #held: HeldBody | null = null;
  #onHeld: ((body: HeldBody) => void) | null = null;
  /** The request's chunks were taken apart to be held: they are framed anew. */
  #reframed = false;
  /** The downstream waits for 100 (Continue) and has not been told. */
  #awaitsContinue = false;
  #upstream: Upstream | null = null;
  readonly #reader: AnswerReader;
  readonly #toDownstream: AnswerWriter;
  #answerStarted = false;
  #answerDone = false;
  #upstreamKept = false;
  #keepAliveMs = 0;
  #unread = 0;
  #closeAfter = false;
  #replayed = false;

  readonly #passOn = (piece: Buffer): void => {
    if (!this.#toUpstream.piece(piece)) this.#downstream.pause();
  };

  constructor(connection: Connection, side: HttpSide) {
    this.#connection = connection;
    this.#side = side;
    this.#limits = side.limits;
    this.#scan = new HeadScan('request', side.limits);
    this.#reader = new AnswerReader(side.limits, this);
    this.#toDownstream = new AnswerWriter(connection);
    side.expect('idle');
    this.#downstream = new Downstream(connection.stream, this);
  }

  drain(): void {
    this.#draining = true;
    if (this.#phase === 'idle') this.#closeGently();
  }

  abort(): void {
    if (this.#phase === 'closed') this.#connection.abort();
    else this.#end(true);
  }

  /** The connection's deadline passed: a head came too slowly, or nothing moved for too long. */
  timedOut(): void {
    if (this.#phase === 'head') {
      this.#exchange = new Exchange();
      this.#refuse(tooSlow('request head too slow', ''), true);
    } else if (this.#onHeld !== null) {
      this.#refuse(tooSlow('request body too slow', 'of a held body'), true);
    } else if (this.#phase === 'idle') {
      this.#closeGently();
    } else if (this.#phase === 'closed') {
      // Its last bytes are not read: what it has of them must not look like all.
      this.#connection.abort();
    } else if (this.#downstreamEnded && !this.#answerStarted) {
      this.#fail('downstream_closed', 'ended its side and was not answered in time');
    } else if (this.#exchange !== null && !this.#answerStarted) {
      // Envoy's codes (`maybeRequestTimeoutCode`): whose silence it was.
      const status = this.#requestDone ? 504 : 408;
      this.#dropUpstream();
      this.#refuse({ status, body: 'stream timeout', reason: 'idle_timeout', detail: '' }, true);
    } else {
      this.#fail('idle_timeout', '');
    }
  }

  // ---- the request's way

  downstreamData(chunk: Buffer): void {
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

  downstreamDrain(): void {
    const stream = this.#upstream?.stream;
    if (stream?.isPaused() === true) stream.resume();
    if (!this.#stalled) return;
    this.#stalled = false;
    this.#downstream.resume();
    this.#advance();
  }

  /** Consumes what it can of the received bytes, request by request. */
  #advance(): void {
    if (this.#advancing) return;
    this.#advancing = true;
    try {
      this.#consume();
      // Nothing of its body was there to go with it.
      if (!this.#toUpstream.flush() && !this.#requestDone) this.#downstream.pause();
    } catch (error) {
      this.#broke(error);
    } finally {
      this.#advancing = false;
    }
  }

  #consume(): void {
    while (this.#pending.length > 0) {
      if (this.#phase === 'idle' && this.#downstream.stream.writableNeedDrain) {
        this.#stalled = true;
        this.#downstream.pause();
        return;
      }
      if (this.#phase === 'idle' || this.#phase === 'head') {
        if (!this.#readHead()) return;
      } else if (!this.#requestDone && (this.#phase === 'exchange' || this.#onHeld !== null)) {
        if (!this.#readBody()) return;
      } else {
        if (this.#pending.length > this.#limits.maxAhead) this.#downstream.pause();
        return;
      }
    }
  }

  /** @returns false when it needs more bytes or the connection is over */
  #readHead(): boolean {
    if (this.#phase === 'idle') {
      if (!this.#skipEmptyLine()) {
        // It ended its side behind an empty line: no request begins here any more.
        if (this.#downstreamEnded) this.#end(false);
        return false;
      }
      this.#phase = 'head';
    }
    const bytes = this.#pending;
    let request: Http1Request;
    let end: number;
    try {
      end = this.#scan.scan(bytes);
      if (end === 0) {
        if (this.#downstreamEnded) this.#end(true);
        else this.#awaitHead();
        return false;
      }
      const head = end === bytes.length ? bytes : bytes.subarray(0, end);
      request = new Http1Request(head, this.#scan, this.#side.normalize, this.#last);
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      this.#refuseHead(error);
      return false;
    }
    this.#pending = end === bytes.length ? NOTHING : bytes.subarray(end);
    const exchange = new Exchange();
    exchange.requestHeadBytes = end;
    this.#begin(request, exchange);
    return this.#phase !== ('closed' as Phase);
  }

  /** @returns false where more bytes must tell */
  #skipEmptyLine(): boolean {
    const bytes = this.#pending;
    if (this.#emptyLineSeen || bytes[0] !== CR) return true;
    if (bytes.length === 1) {
      this.#awaitHead();
      return false;
    }
    if (bytes[1] !== LF) return true;
    this.#emptyLineSeen = true;
    this.#pending = bytes.subarray(2);
    return this.#pending.length > 0;
  }

  #awaitHead(): void {
    if (this.#headAwaited) return;
    this.#headAwaited = true;
    this.#side.expect('head');
  }

  #refuseHead({ status, message }: HeadError): void {
    const reason = status === 431 ? 'head_too_large' : 'bad_request';
    this.#exchange = new Exchange();
    this.#refuse({ status, body: message, reason, detail: message }, true);
  }

  #begin(request: Http1Request, exchange: Exchange): void {
    this.#headAwaited = false;
    this.#side.expect('exchange');
    this.#emptyLineSeen = false;
    this.#exchange = exchange;
    this.#request = request;
    exchange.method = request.method;
    exchange.path = request.path;
    exchange.authority = request.host;
    exchange.protocol = request.minor === 1 ? 'HTTP/1.1' : 'HTTP/1.0';
    exchange.userAgent = request.userAgent;
    exchange.requestId = request.requestId;
    exchange.forwardedFor = request.forwardedFor;
    exchange.grpc = isGrpcType(request.contentType);
    this.#requestBody = bodyReader(request.framing, false, this.#limits);
    this.#requestDone = this.#requestBody.done;
    this.#reframed = false;
    this.#toDownstream.begin();
    this.#answerStarted = false;
    this.#answerDone = false;
    this.#unread = 0;
    this.#replayed = false;
    this.#awaitsContinue = request.expectsContinue && !this.#requestDone;
    this.#closeAfter = !request.keepAlive || this.#draining || this.#side.draining;
    const judged = this.#side.judge(request, exchange);
    if (judged !== 'pending') this.#proceed(request, exchange, judged);
    else if (this.#phase !== 'closed') this.#phase = 'judging';
  }

  judged(exchange: Exchange, answer: LocalAnswer | null): void {
    const request = this.#request;
    if (this.#exchange !== exchange || this.#phase !== 'judging' || request === null) return;
    try {
      this.#proceed(request, exchange, answer);
    } catch (error) {
      this.#broke(error);
    }
  }

  hold(bounds: HeldBounds, done: (body: HeldBody) => void): void {
    const request = this.#request;
    if (request === null) return;
    this.#held = new HeldBody(request.framing, bounds);
    this.#onHeld = done;
    this.#reframed = request.framing.kind === 'chunked';
    if (this.#reframed) this.#requestBody = bodyReader(request.framing, true, this.#limits);
    this.#side.expect('held-body');
    if (!this.#awaitsContinue) return;
    // The upstream cannot be asked whether it wants the body before the body is judged: Envoy answers for it too.
    this.#awaitsContinue = false;
    request.dropExpect();
    this.#downstream.stream.write(CONTINUE, 'latin1');
  }

  #proceed(request: Http1Request, exchange: Exchange, refusal: LocalAnswer | null): void {
    this.#onHeld = null;
    if (refusal !== null) {
      // A client that waits for 100 (Continue) may never send the body: the connection cannot be kept.
      this.#refuse(refusal, this.#awaitsContinue);
      return;
    }
    this.#phase = 'dialling';
    this.#side.reach(request, exchange, false, this);
  }

  failed(reason: ReasonCode, detail: string): void {
    if (this.#phase !== 'dialling') return;
    const body = `upstream connect error: ${reason}`;
    this.#refuse({ status: 503, body, reason, detail }, this.#awaitsContinue);
  }

  connected(upstream: Upstream): void {
    const exchange = this.#exchange;
    const request = this.#request;
    if (this.#phase !== 'dialling' || exchange === null || request === null) {
      // The downstream left meanwhile: nothing was sent, so the connection is as good as new.
      this.#side.release(upstream, 0);
      return;
    }
    this.#upstream = upstream;
    this.#phase = 'exchange';
    exchange.upstream = upstream;
    this.#reader.begin(request);
    upstream.use(this);
    if (this.#held === null) this.#toUpstream.begin(upstream, request);
    else this.#toUpstream.beginHeld(upstream, request, this.#held, this.#requestBody, this.#reframed);
    this.#downstream.resume();
    this.#advance();
    if (this.#phase === 'exchange') this.#checkCutShort();
  }

  /** @returns false when it needs more bytes or the connection is over */
  #readBody(): boolean {
    const bytes = this.#pending;
    const held = this.#onHeld === null ? null : this.#held;
    let taken: number;
    try {
      taken =
        held === null ? this.#requestBody.feed(bytes, this.#passOn) : held.feed(bytes, this.#requestBody);
    } catch (error) {
      if (!(error instanceof BodyError)) throw error;
      this.#brokenBody(error.message);
      return false;
    }
    this.#pending = taken === bytes.length ? NOTHING : bytes.subarray(taken);
    if (this.#exchange !== null) this.#exchange.requestBodyBytes += taken;
    if (held !== null) return this.#heldMore(held);
    if (this.#upstream === null) {
      this.#unread += taken;
      if (this.#unread > this.#limits.maxUnreadBody) {
        this.#closeBehindAnswer();
        return false;
      }
    }
    if (this.#requestBody.done) {
      this.#toUpstream.end(this.#requestBody);
      this.#requestDone = true;
      this.#exchangeOver();
    }
    return this.#phase !== 'closed';
  }

  /** Nothing more of this request may go on, and the upstream must not take it for complete. */
  #brokenBody(detail: string): void {
    this.#dropUpstream();
    if (!this.#answerStarted)
      this.#refuse({ status: 400, body: detail, reason: 'bad_request', detail }, true);
    else if (this.#refusedAlready()) this.#closeBehindAnswer();
    else this.#fail('bad_request', detail);
  }

  /** More of a held body has come. @returns false when the connection is over */
  #heldMore(held: HeldBody): boolean {
    const done = this.#onHeld;
    if (this.#requestBody.done) this.#requestDone = true;
    if (done === null || !held.enough) return true;
    this.#onHeld = null;
    this.#side.expect('exchange');
    done(held);
    return this.#phase !== 'closed';
  }

  downstreamEnd(): void {
    this.#downstreamEnded = true;
    if (this.#phase === 'idle') this.#end(false);
    else if (this.#phase === 'head') this.#end(true);
    // What came before the end may be all of it: see when it is read.
    else if (
      (this.#phase === 'judging' || this.#phase === 'dialling') &&
      !this.#requestDone &&
      this.#pending.length > 0
    )
      return;
    else this.#checkCutShort();
  }

  /** A request cut short is aborted; one that is complete still gets its answer, if that comes soon (half-close). */
  #checkCutShort(): void {
    if (!this.#downstreamEnded || this.#phase === 'closed') return;
    if (this.#requestDone) {
      if (!this.#answerStarted) this.#side.expect('half-closed');
    } else if (this.#refusedAlready()) this.#closeBehindAnswer();
    else this.#fail('downstream_closed', 'request body cut short');
  }

  downstreamGone(): void {
    if (this.#phase === 'closed') return;
    if (this.#exchange !== null) this.#fail('downstream_closed', '');
    else this.#end(true);
  }

  // ---- the answer's way

  upstreamData(upstream: Upstream, chunk: Buffer): void {
    const exchange = this.#exchange;
    if (exchange === null || upstream !== this.#upstream) return;
    this.#connection.active = true;
    if (exchange.upstreamFirstByte === 0) exchange.upstreamFirstByte = performance.now();
    try {
      this.#reader.read(chunk);
    } catch (error) {
      this.#broke(error);
    }
  }

  upstreamDrain(): void {
    if (!this.#requestDone) this.#downstream.resume();
  }

  interim(answer: Http1Response): void {
    if (answer.status === 100) this.#awaitsContinue = false;
    if (this.#request?.minor === 1) this.#toDownstream.interim(answer);
  }

  head(answer: Http1Response): void {
    const exchange = this.#exchange;
    const request = this.#request;
    if (exchange === null || request === null) return;
    const old = request.minor === 0;
    // Who was never told to go on may never send its body, nor may we wait for it (RFC 9110 §10.1.1).
    const unsure = this.#awaitsContinue && !this.#requestDone;
    if (answer.framing.kind === 'close' || old || unsure || this.#draining || this.#side.draining)
      this.#closeAfter = true;
    exchange.status = answer.status;
    if (exchange.grpc) exchange.grpcStatus = grpcStatusOf(answer.fields);
    this.#upstreamKept = answer.keepAlive;
    this.#keepAliveMs = answer.keepAliveMs;
    if (this.#downstreamEnded) this.#side.expect('exchange');
    this.#answerStarted = true;
    this.#toDownstream.head(answer, exchange, this.#closeAfter, old);
  }

  piece(bytes: Buffer): void {
    const exchange = this.#exchange;
    if (exchange !== null && !this.#toDownstream.piece(bytes, exchange)) this.#upstream?.stream.pause();
  }

  flush(): void {
    if (!this.#toDownstream.flush(this.#exchange)) this.#upstream?.stream.pause();
  }

  over(clean: boolean): void {
    const upstream = this.#upstream;
    if (upstream !== null && this.#requestDone && clean && this.#upstreamKept) {
      this.#upstream = null;
      this.#toUpstream.stop();
      upstream.use(null);
      this.#side.release(upstream, this.#keepAliveMs);
    } else {
      // Answered before the request was complete, or not to be kept.
      this.#dropUpstream(this.#requestDone);
    }
    if (this.#exchange?.grpc === true) {
      this.#exchange.grpcStatus = grpcStatusOf(this.#reader.trailers) ?? this.#exchange.grpcStatus;
    }
    this.#reader.stop();
    this.#answerDone = true;
    this.#exchangeOver();
  }

  bad(detail: string, begun: boolean): void {
    if (begun) {
      this.#toDownstream.uncork();
      this.#fail('bad_response', detail);
      return;
    }
    this.#dropUpstream();
    this.#refuse({ status: 502, body: 'bad answer from upstream', reason: 'bad_response', detail }, false);
  }

  tunnel(answer: Http1Response, rest: Buffer): void {
    const exchange = this.#exchange;
    const upstream = this.#upstream;
    if (exchange === null || upstream === null) return;
    this.#toDownstream.switching(answer, exchange);
    this.#phase = 'tunnel';
    this.#upstream = null;
    this.#toUpstream.stop();
    upstream.use(null);
    this.#reader.stop();
    const ahead = this.#pending;
    this.#pending = NOTHING;
    this.#downstream.leave();
    openTunnel({ connection: this.#connection, side: this.#side, exchange, upstream, ahead, rest });
  }

  upstreamEnd(upstream: Upstream): void {
    this.#upstreamEnded(upstream, null);
  }

  upstreamClosed(upstream: Upstream, error: Error | null): void {
    this.#upstreamEnded(upstream, error ?? new Error('closed'));
  }

  #upstreamEnded(upstream: Upstream, error: Error | null): void {
    const request = this.#request;
    const exchange = this.#exchange;
    if (upstream !== this.#upstream || exchange === null || request === null) return;
    const broken = error instanceof UpstreamBroken ? error : null;
    const reason = broken?.reason ?? 'upstream_closed';
    if (this.#reader.begun) {
      if (error === null && this.#reader.ended()) this.over(false);
      else this.#fail(reason, error?.message ?? 'answer cut short');
      return;
    }
    const unused = this.#reader.untouched && request.framing.kind === 'none' && !request.upgrade;
    const stale = broken === null ? upstream.uses > 0 : broken.stale;
    this.#dropUpstream();
    // A kept connection may have died while idle: a request that may be repeated goes again, on a fresh one.
    if (stale && unused && !this.#replayed && REPLAYABLE.has(request.method)) {
      this.#replayed = true;
      this.#phase = 'dialling';
      this.#side.reach(request, exchange, true, this);
      return;
    }
    const detail = error?.message ?? 'closed without an answer';
    const body = 'upstream closed without an answer';
    this.#refuse({ status: 503, body, reason, detail }, false);
  }

  // ---- endings

  /** Answers ourselves. `close`: what follows on this connection cannot be trusted or is not wanted. */
  #refuse(answer: LocalAnswer, close: boolean): void {
    const exchange = this.#exchange;
    if (exchange === null || this.#phase === 'closed') return;
    exchange.reason = answer.reason;
    exchange.detail = answer.detail;
    if (close || answer.close === true || this.#draining) this.#closeAfter = true;
    const written = writeLocalAnswer(answer, {
      method: this.#request?.method ?? '',
      grpc: exchange.grpc,
      changes: exchange.answerFields ?? [],
      close: this.#closeAfter,
    });
    const { head, body } = written;
    exchange.status = written.status;
    exchange.grpcStatus = written.grpcStatus;
    exchange.ownAnswer = true;
    const text = typeof body === 'string';
    this.#downstream.stream.write(
      text ? Buffer.from(head + body, 'latin1') : Buffer.concat([Buffer.from(head, 'latin1'), body]),
    );
    exchange.responseHeadBytes = head.length;
    exchange.responseBodyBytes = body.length;
    this.#connection.bytesSent += head.length + body.length;
    this.#letGo();
    this.#toUpstream.stop();
    this.#answerStarted = true;
    this.#answerDone = true;
    this.#phase = 'exchange';
    if (close) this.#requestDone = true;
    this.#downstream.resume();
    this.#exchangeOver();
    // Its body may have come while it was judged: nothing else would read past it.
    this.#advance();
  }

  /** The request at hand has its answer from us: whatever becomes of the rest of it, that is the reason. */
  #refusedAlready(): boolean {
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
    if (exchange === null || !this.#answerDone) return;
    if (!this.#requestDone) {
      // Answered early. What is announced of the body is read past (bounded), or the connection closes.
      if (this.#closeAfter || this.#downstreamEnded) this.#requestDone = true;
      else {
        this.#downstream.resume();
        return;
      }
    }
    this.#letGo();
    this.#exchange = null;
    this.#request = null;
    this.#answerDone = false;
    this.#phase = 'idle';
    this.#side.finished(exchange);
    // Until here the request could still be read: a refusal explains itself by it.
    this.#scan.reset();
    if (this.#closeAfter || (this.#downstreamEnded && this.#pending.length === 0)) {
      this.#closeGently();
      return;
    }
    this.#side.expect('idle');
    this.#downstream.resume();
    if (this.#pending.length > 0) this.#advance();
  }

  /** Gives an exchange up after its answer began, or without any: the downstream sees a cut. A refusal keeps its reason. */
  #fail(reason: ReasonCode, detail: string): void {
    const exchange = this.#exchange;
    if (exchange !== null && !this.#refusedAlready()) {
      exchange.reason = reason;
      exchange.detail = detail;
    }
    this.#end(true);
  }

  /** Sends FIN and reads on for a moment, so that the answer is not lost to a reset (RFC 9112 §9.6). */
  #closeGently(): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    this.#pending = NOTHING;
    this.#downstream.endThenLinger();
    this.#downstream.stream.resume();
  }

  #letGo(): void {
    this.#held?.release();
    this.#held = null;
    this.#onHeld = null;
  }

  #end(abort: boolean): void {
    if (this.#phase === 'closed' || this.#phase === 'tunnel') return;
    this.#phase = 'closed';
    const exchange = this.#exchange;
    this.#exchange = null;
    this.#pending = NOTHING;
    this.#letGo();
    this.#dropUpstream();
    if (abort) this.#connection.abort();
    else this.#downstream.endThenLinger();
    if (exchange !== null) this.#side.finished(exchange);
  }

  /** @param gently with a FIN: all that was to be said was said */
  #dropUpstream(gently = false): void {
    const upstream = this.#upstream;
    if (upstream === null) return;
    this.#upstream = null;
    this.#toUpstream.stop();
    this.#reader.stop();
    upstream.use(null);
    if (gently) {
      upstream.stream.end();
      upstream.stream.destroy();
    } else upstream.abort();
    this.#side.dropped(upstream);
  }
}

function tooSlow(body: string, detail: string): LocalAnswer {
  return { status: 408, body, reason: 'request_timeout', detail };
}
