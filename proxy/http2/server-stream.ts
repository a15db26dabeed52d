/** One request of an HTTP/2 downstream: judged, decided, forwarded and reported on its own. */
import { constants, type ServerHttp2Stream } from 'node:http2';
import type { Limits } from '../../mesh/limits.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { Connection } from '../connections.ts';
import type { Reached, Upstream } from '../dial.ts';
import { changeAnswer } from '../http/change-fields.ts';
import { Exchange } from '../http/exchange.ts';
import { grpcStatusOf, isGrpc } from '../http/grpc.ts';
import { type Field, HeadError, joinedValues, REPLAYABLE, valuesOf } from '../http/head.ts';
import { HeldBody, type HeldBounds } from '../http/held-body.ts';
import { type LocalAnswer, ownAnswer } from '../http/local-answer.ts';
import type { RequestCarrier } from '../http/side.ts';
import type { HttpSideBase } from '../http/side-base.ts';
import type { BodyReader, BodySink } from '../http1/body.ts';
import { AnswerWriter } from './answer-writer.ts';
import {
  type AnswerHead,
  type Http2Request,
  headBytes,
  type RawFields,
  readRequest,
  readTrailers,
  writeAnswer,
} from './head.ts';
import { Http1Exchange } from './http1-exchange.ts';
import { Http2Exchange, nameOf } from './http2-exchange.ts';
import { dataRead } from './read-memory.ts';
import { sayInterim } from './say.ts';
import { SentBody } from './sent-body.ts';
import type { Answered, Break, UpstreamExchange } from './upstream-exchange.ts';
import type { UpstreamSession } from './upstream-session.ts';

const { NGHTTP2_NO_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_CANCEL } = constants;
const END_STREAM = constants.NGHTTP2_FLAG_END_STREAM;
const NONE: readonly Field[] = [];
/** Who waited so long for an answer did want it, ms: `overload.premature_reset_min_stream_lifetime_seconds` of Envoy. */
const PREMATURE = 1_000;
/** Turns of the event loop in which an answer that can leave has left; after that it is looked at now and then. */
const MAX_TURNS = 4;

/** Who has the stream: told when it is over. */
export interface StreamOwner {
  readonly connection: Connection;
  /** @param premature it ended as soon as it was opened, and without an answer */
  streamOver(stream: ServerStream, premature: boolean): void;
}

const EMPTY = Buffer.alloc(0);

/** DATA as a body reader has it: HTTP/2 has taken the framing off. */
class FramedData implements BodyReader {
  done = false;
  readonly trailers = NONE;
  feed(bytes: Buffer, sink: BodySink): number {
    sink(bytes);
    return bytes.length;
  }
  ended(): boolean {
    return this.done;
  }
}

type Phase = 'judging' | 'dialling' | 'exchange' | 'answered' | 'over';

export class ServerStream implements RequestCarrier, Answered {
  readonly #owner: StreamOwner;
  readonly #stream: ServerHttp2Stream;
  readonly #side: HttpSideBase;
  readonly #limits: Limits;
  readonly #writer: AnswerWriter;
  readonly #exchange = new Exchange();
  #phase: Phase = 'judging';
  #head: Http2Request | null = null;
  /** All of the request has come. */
  #requestDone = false;
  #trailers: readonly Field[] = NONE;
  #held: HeldBody | null = null;
  readonly #heldData = new FramedData();
  #onHeld: ((body: HeldBody) => void) | null = null;
  #upstream: UpstreamExchange | null = null;
  #reached: Reached | null = null;
  /** What went upstream before the answer began. */
  readonly #sent = new SentBody();
  #replayed = false;
  #answerBegun = false;
  /** The answer has no body, whatever the upstream says. */
  #bodiless = false;
  /** Bytes moved since the last look, and when that was. */
  #active = true;
  #movedAt = 0;
  /** Answered; the rest of the request is to be stopped once the answer has left. */
  #stopping = false;

  constructor(owner: StreamOwner, stream: ServerHttp2Stream, side: HttpSideBase) {
    this.#owner = owner;
    this.#stream = stream;
    this.#side = side;
    this.#writer = new AnswerWriter(stream);
    this.#limits = side.limits;
    stream.on('error', ignore);
    stream.on('aborted', () => this.#aborted());
    stream.on('close', () => this.#closed());
    stream.on('drain', () => this.#upstream?.resume());
    stream.on('trailers', (_headers, _flags, raw: readonly string[]) => this.#onTrailers(raw));
  }

  /** Begins with the request's header block. */
  start(flags: number, raw: RawFields): void {
    const exchange = this.#exchange;
    exchange.protocol = 'HTTP/2';
    exchange.requestHeadBytes = headBytes(raw.flat);
    this.#requestDone = (flags & END_STREAM) !== 0;
    let head: Http2Request;
    try {
      head = readRequest(raw, this.#requestDone, this.#limits, this.#side.normalize);
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      const reason = error.status === 431 ? 'head_too_large' : 'bad_request';
      this.#refuse({ status: error.status, body: error.message, reason, detail: error.message });
      return;
    }
    this.#head = head;
    exchange.method = head.method;
    exchange.path = head.path;
    exchange.authority = head.host;
    exchange.userAgent = valuesOf(head.fields, 'user-agent')[0] ?? '';
    exchange.requestId = valuesOf(head.fields, 'x-request-id')[0] ?? '';
    exchange.forwardedFor = joinedValues(head.fields, 'x-forwarded-for') ?? '';
    exchange.grpc = isGrpc(head.fields);
    const judged = this.#side.judge(head, exchange);
    if (judged !== 'pending') this.#proceed(head, judged);
  }

  // ---- RequestCarrier

  hold(bounds: HeldBounds, done: (body: HeldBody) => void): void {
    const head = this.#head;
    if (head === null) return;
    // Data comes without framing here: `close` takes all of it.
    this.#held = new HeldBody(head.framing.kind === 'chunked' ? { kind: 'close' } : head.framing, bounds);
    this.#onHeld = done;
    if (head.headerValues('expect').length > 0) {
      // The upstream cannot be asked whether it wants the body before the body is judged: Envoy answers for it too.
      head.fields = head.fields.filter(({ key }) => key !== 'expect');
      sayInterim(this.#stream, 100, []);
    }
    this.#listen();
  }

  judged(exchange: Exchange, answer: LocalAnswer | null): void {
    const head = this.#head;
    if (exchange !== this.#exchange || this.#phase !== 'judging' || head === null) return;
    this.#guard(() => this.#proceed(head, answer));
  }

  /** Nothing moved for too long. */
  timedOut(): void {
    if (this.#onHeld !== null) {
      const detail = 'of a held body';
      this.#refuse({ status: 408, body: 'request body too slow', reason: 'request_timeout', detail });
    } else if (this.#answerBegun || this.#phase === 'answered') {
      this.#fail(NGHTTP2_CANCEL, 'idle_timeout', '');
    } else {
      // Envoy's codes (`maybeRequestTimeoutCode`): whose silence it was.
      const status = this.#requestDone ? 504 : 408;
      this.#refuse({ status, body: 'stream timeout', reason: 'idle_timeout', detail: '' });
    }
  }

  /** Looked at now and then: ends what has not moved for too long. */
  look(now: number): void {
    if (this.#stopping) this.#stop(0);
    if (this.#active) {
      this.#active = false;
      this.#movedAt = now;
      return;
    }
    const { streamIdleTimeout, handshakeTimeout } = this.#limits;
    if (now - this.#movedAt > (this.#onHeld === null ? streamIdleTimeout : handshakeTimeout)) this.timedOut();
  }

  /** The connection is closed under it. */
  abort(): void {
    this.#stream.close(NGHTTP2_CANCEL);
    this.#closed();
  }

  // ---- the request's way

  #proceed(head: Http2Request, refusal: LocalAnswer | null): void {
    if (refusal !== null) {
      this.#refuse(refusal);
      return;
    }
    this.#phase = 'dialling';
    this.#reach(head, false);
  }

  #reach(head: Http2Request, fresh: boolean): void {
    this.#side.reach(head, this.#exchange, fresh, {
      connected: (upstream) => this.#guard(() => this.#overHttp1(head, upstream)),
      entered: (session) => this.#guard(() => this.#overHttp2(head, session)),
      failed: (reason, detail) => {
        if (this.#phase !== 'dialling') return;
        this.#refuse({ status: 503, body: `upstream connect error: ${reason}`, reason, detail });
      },
    });
  }

  #overHttp1(head: Http2Request, upstream: Upstream): void {
    if (this.#phase !== 'dialling') {
      // The downstream left meanwhile: nothing was sent, so the connection is as good as new.
      this.#side.release(upstream, 0);
      return;
    }
    // What it refuses it has read: only the head could be sent again.
    this.#sent.forget();
    this.#begin(upstream);
    this.#upstream = new Http1Exchange(upstream, head, this, this.#side, this.#limits);
    this.#sendBody();
  }

  #overHttp2(head: Http2Request, session: UpstreamSession): void {
    if (this.#phase !== 'dialling') {
      session.leave();
      this.#side.dropped(session);
      return;
    }
    this.#begin(session);
    this.#reached = session;
    const ended = head.framing.kind === 'none';
    this.#upstream = new Http2Exchange(session, head, ended, this, this.#limits);
    this.#sendBody();
  }

  #begin(reached: Reached): void {
    this.#phase = 'exchange';
    this.#exchange.upstream = reached;
    this.#active = true;
  }

  /** What was held back or sent before goes first; the rest as it comes. */
  #sendBody(): void {
    const upstream = this.#upstream;
    const held = this.#held;
    if (upstream === null) return;
    const sent = this.#replayed ? this.#sent.pieces : null;
    if (sent !== null) for (const piece of sent) upstream.write(piece);
    else if (held !== null) for (const piece of held.framed(this.#heldData)) this.#pass(piece);
    held?.release();
    if (this.#head?.framing.kind === 'none') return;
    if (this.#requestDone) upstream.end(this.#trailers);
    else {
      this.#listen();
      this.#stream.resume();
    }
  }

  #listen(): void {
    if (this.#stream.listenerCount('data') > 0) return;
    this.#stream.on('data', this.#onData);
    this.#stream.on('end', () => this.#guard(() => this.#onRequestEnd()));
  }

  readonly #onData = (data: Buffer): void => {
    this.#active = true;
    const { connection } = this.#owner;
    connection.active = true;
    connection.bytesReceived += data.length;
    dataRead(data.length);
    this.#exchange.requestBodyBytes += data.length;
    if (this.#onHeld !== null) this.#hold(data);
    else this.#pass(data);
  };

  #pass(data: Buffer): void {
    this.#sent.keep(data);
    if (this.#upstream?.write(data) === false) this.#stream.pause();
  }

  #hold(data: Buffer): void {
    this.#held?.feed(data, this.#heldData);
    this.#heldMore();
  }

  #heldMore(): void {
    const held = this.#held;
    const done = this.#onHeld;
    if (held === null || done === null || !held.enough) return;
    this.#onHeld = null;
    this.#stream.pause();
    done(held);
  }

  #onTrailers(raw: readonly string[]): void {
    try {
      this.#trailers = readTrailers(raw, this.#limits);
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      // Nothing more of this request may go on, and the upstream must not take it for complete.
      this.#fail(constants.NGHTTP2_PROTOCOL_ERROR, 'bad_request', error.message);
    }
  }

  #onRequestEnd(): void {
    // A stream that is reset ends, too: `aborted` came before.
    if (this.#phase === 'over' || this.#stream.aborted) return;
    this.#requestDone = true;
    this.#active = true;
    if (this.#onHeld !== null) {
      this.#heldData.done = true;
      this.#held?.feed(EMPTY, this.#heldData);
      this.#heldMore();
    } else this.#upstream?.end(this.#trailers);
  }

  // ---- Answered: the answer's way

  onInterim(answer: AnswerHead): void {
    this.#active = true;
    sayInterim(this.#stream, answer.status, answer.fields);
  }

  onAnswer(answer: AnswerHead, ended: boolean): void {
    this.#guard(() => this.#answered(answer, ended));
  }

  #answered(answer: AnswerHead, ended: boolean): void {
    const exchange = this.#exchange;
    const stream = this.#stream;
    this.#active = true;
    this.#answerBegun = true;
    this.#sent.forget();
    exchange.upstreamFirstByte = performance.now();
    exchange.status = answer.status;
    if (exchange.grpc) exchange.grpcStatus = grpcStatusOf(answer.fields);
    if (stream.closed || stream.destroyed) return;
    const changes = exchange.answerFields;
    const told = changes === null ? answer : { ...answer, fields: changeAnswer(answer.fields, changes) };
    const raw = writeAnswer(told);
    exchange.responseHeadBytes = headBytes(raw);
    // Node resets a stream whose request nobody reads as soon as its answer is ended, even before that was said.
    if (this.#requestDone) stream.resume();
    const { status } = answer;
    this.#bodiless =
      ended || exchange.method === 'HEAD' || status === 204 || status === 205 || status === 304;
    if (this.#bodiless) this.#writer.headAlone(raw);
    else {
      this.#writer.head(raw);
      setImmediate(ServerStream.flush, this);
    }
  }

  /** The turn is over in which the answer began. */
  static flush(serving: ServerStream): void {
    if (serving.#phase === 'over') return;
    serving.#guard(() => {
      if (!serving.#writer.flush()) serving.#upstream?.pause();
    });
  }

  onData(data: Buffer): void {
    this.#active = true;
    const { connection } = this.#owner;
    connection.active = true;
    if (this.#bodiless || this.#stream.writableEnded || this.#stream.destroyed) return;
    connection.bytesSent += data.length;
    this.#exchange.responseBodyBytes += data.length;
    if (!this.#writer.data(data)) this.#upstream?.pause();
  }

  onEnd(trailers: readonly Field[]): void {
    this.#guard(() => this.#ended(trailers));
  }

  #ended(trailers: readonly Field[]): void {
    this.#active = true;
    const exchange = this.#exchange;
    if (exchange.grpc) exchange.grpcStatus ??= grpcStatusOf(trailers);
    this.#leaveUpstream();
    this.#phase = 'answered';
    if (!this.#bodiless) this.#writer.end(trailers);
    this.#stopRequest();
  }

  onRoom(): void {
    this.#active = true;
    this.#stream.resume();
  }

  onBreak(broken: Break): void {
    const head = this.#head;
    const { code, reason, detail, how } = broken;
    this.#leaveUpstream();
    if (this.#answerBegun || head === null) {
      this.#guard(() => this.#writer.flush());
      this.#fail(code, reason, detail);
      return;
    }
    if (this.#mayReplay(how, head)) {
      this.#replayed = true;
      this.#phase = 'dialling';
      this.#stream.pause();
      this.#reach(head, true);
    } else if (how === 'reset' || how === 'calm') {
      this.#fail(code, reason, detail);
    } else {
      const bad = reason === 'bad_response';
      const body = bad ? 'bad answer from upstream' : 'upstream closed without an answer';
      this.#refuse({ status: bad ? 502 : 503, body, reason, detail });
    }
  }

  /** RFC 9113 §8.7: what was refused was not looked at; what a dead connection, or a weary one, took may have been. */
  #mayReplay(how: Break['how'], head: Http2Request): boolean {
    if (this.#replayed) return false;
    if (how === 'refused') return this.#sent.pieces !== null;
    return (how === 'kept' || how === 'calm') && head.framing.kind === 'none' && REPLAYABLE.has(head.method);
  }

  // ---- endings

  /** Answers ourselves. */
  #refuse(answer: LocalAnswer): void {
    if (this.#phase === 'answered' || this.#phase === 'over') return;
    const exchange = this.#exchange;
    const stream = this.#stream;
    this.#phase = 'answered';
    this.#cancelUpstream(NGHTTP2_CANCEL);
    this.#letGo();
    exchange.reason = answer.reason;
    exchange.detail = answer.detail;
    if (stream.closed || stream.destroyed) return;
    const changes = exchange.answerFields ?? [];
    // HTTP/2 has no status above 599, and an authorizer may want one.
    const sayable = answer.status > 599 ? { ...answer, status: 403 } : answer;
    const own = ownAnswer(sayable, { method: exchange.method, changes, grpc: exchange.grpc });
    exchange.status = own.status;
    exchange.grpcStatus = own.grpcStatus;
    exchange.ownAnswer = true;
    const raw = writeAnswer(own);
    exchange.responseHeadBytes = headBytes(raw);
    exchange.responseBodyBytes = own.body.length;
    this.#owner.connection.bytesSent += own.body.length;
    const ended = own.body.length === 0;
    this.#answerBegun = true;
    const options = { endStream: ended, sendDate: false };
    stream.respond(raw, options);
    if (!ended) stream.end(own.body, 'latin1');
    this.#stopRequest();
  }

  /** Answered: whatever is still to come of the request is not wanted (RFC 9113 §8.1). */
  #stopRequest(): void {
    const stream = this.#stream;
    stream.off('data', this.#onData);
    // Unread data would keep the stream from being destroyed.
    stream.resume();
    if (this.#requestDone) return;
    this.#stopping = true;
    setImmediate(() => this.#stop(MAX_TURNS));
  }

  /**
   * RST_STREAM takes back what of the answer has not been sent: it waits for that. Nothing tells of it, but usually it
   * is a turn or two.
   */
  #stop(turns: number): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    if (stream.state.localClose === 1) stream.close(NGHTTP2_NO_ERROR);
    else if (turns > 0) setImmediate(() => this.#stop(turns - 1));
  }

  /** Gives the exchange up after its answer began, or without any: the downstream sees a reset. */
  #fail(code: number, reason: ReasonCode, detail: string): void {
    if (this.#phase === 'over') return;
    const exchange = this.#exchange;
    if (exchange.reason === null) {
      exchange.reason = reason;
      exchange.detail = detail;
    }
    this.#cancelUpstream(code);
    this.#stream.close(code === NGHTTP2_NO_ERROR ? NGHTTP2_INTERNAL_ERROR : code);
    this.#stream.resume();
    this.#closed();
  }

  /** The peer reset the stream, or its connection is gone, before the answer was complete. */
  #aborted(): void {
    if (this.#phase === 'over' || this.#phase === 'answered') return;
    const { rstCode } = this.#stream;
    // Neither is for a client to say of its own request.
    const vague = rstCode === NGHTTP2_NO_ERROR || rstCode === NGHTTP2_REFUSED_STREAM;
    this.#fail(vague ? NGHTTP2_CANCEL : rstCode, 'downstream_closed', nameOf(rstCode));
  }

  #closed(): void {
    if (this.#phase === 'over') return;
    const exchange = this.#exchange;
    const unanswered = !this.#answerBegun && exchange.reason !== 'upstream_reset';
    const premature = unanswered && performance.now() - exchange.startedTick < PREMATURE;
    // Closed with an answer that did not all leave.
    const cut = this.#phase !== 'answered' || this.#stream.rstCode !== NGHTTP2_NO_ERROR;
    if (cut && exchange.reason === null) {
      exchange.reason = 'downstream_closed';
      exchange.detail = nameOf(this.#stream.rstCode);
    }
    this.#phase = 'over';
    this.#cancelUpstream(NGHTTP2_CANCEL);
    this.#letGo();
    this.#owner.streamOver(this, premature);
    this.#side.finished(exchange);
  }

  #cancelUpstream(code: number): void {
    const upstream = this.#upstream;
    if (upstream === null) return;
    this.#leaveUpstream();
    upstream.cancel(code);
  }

  #leaveUpstream(): void {
    this.#upstream = null;
    const reached = this.#reached;
    if (reached === null) return;
    this.#reached = null;
    this.#side.dropped(reached);
  }

  #letGo(): void {
    this.#held?.release();
    this.#held = null;
    this.#onHeld = null;
    this.#sent.forget();
  }

  /** A fault of ours in one stream ends that stream, not the process. */
  #guard(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#side.broke(error as Error);
      this.#fail(NGHTTP2_INTERNAL_ERROR, 'upstream_closed', 'fault of ours');
    }
  }
}

function ignore(): void {}
