/** The tunnels of a thread: those to peers shared by many connections, one handshake at a time a peer; time-outs of all of them. */
import { isIP } from 'node:net';
import { performance } from 'node:perf_hooks';
import type { Limits } from '../../mesh/limits.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { EndpointTunnel } from '../../mesh/route.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import {
  addressText,
  type DialContext,
  type DialDone,
  dial,
  endpointAddress,
  type PeerTarget,
  type Reaching,
  type TunnelTarget,
  Upstream,
} from '../dial.ts';
import type { Links } from '../links.ts';
import { MESH_ALPN } from '../tls-outbound.ts';
import { register } from '../upstream-link.ts';
import { baggageOf, forwardedFor } from './baggage.ts';
import { alpnField } from './connect.ts';
import { TICK_MS } from './liveness.ts';
import type { StreamAddresses, TunnelStream } from './stream.ts';
import { type OpenDone, Tunnel, type TunnelEnd, type TunnelKeeper } from './tunnel.ts';

/** What dialling a tunnel needs to know beside what dialling does. */
export interface TunnelContext extends DialContext {
  readonly snapshot: Snapshot | null;
  /** Name of our cluster, as metrics have it. */
  readonly cluster: string;
  /** Of an outbound tunnel that the peer's fault ended. */
  tunnelBroke(peer: string, end: TunnelEnd): void;
}

/** So often a connection whose stream was lost before its answer is asked for anew. */
const MAX_TRIES = 3;

/** Somebody who wants a stream. */
class Waiting implements Reaching, OpenDone {
  readonly place: Place;
  readonly target: PeerTarget;
  readonly done: DialDone;
  readonly #owner: Tunnels;
  #tries = 0;
  #on: PeerTunnel | null = null;
  #stream: TunnelStream | null = null;
  /** Of the context when the stream was asked for: the tunnel under it may be older. */
  #generation = 0;
  over = false;
  /** `performance.now()` by which it is to have its answer. */
  #deadline: number;

  constructor(owner: Tunnels, place: Place, target: PeerTarget, done: DialDone) {
    this.#owner = owner;
    this.place = place;
    this.target = target;
    this.done = done;
    // A tunnel being made has the time-out of its own; this one is for those that have no room for anybody.
    this.#deadline = performance.now() + 2 * owner.connectTimeout;
  }

  cancel(): void {
    if (this.#settle()) this.#stream?.resetAndDestroy();
  }

  ask(on: PeerTunnel, fields: readonly (readonly [string, string])[]): void {
    this.#tries++;
    this.#deadline = performance.now() + this.#owner.connectTimeout;
    this.#on = on;
    this.#generation = this.#owner.generation;
    this.#stream = on.tunnel.open(fields, on.addresses, this);
  }

  opened(stream: TunnelStream): void {
    const on = this.#on;
    if (on === null || !this.#settle()) {
      stream.resetAndDestroy();
      return;
    }
    const upstream = new Upstream({
      stream,
      socket: stream,
      target: this.target,
      peer: on.upstream.peer,
      address: addressText(endpointAddress(this.target.endpoint)),
      generation: this.#generation,
      tunnel: on.tunnel,
    });
    register(this.#owner.links, upstream);
    this.done.connected(upstream);
  }

  refused(status: number): void {
    // 503: it is the endpoint that cannot be reached, and another one may be.
    this.fail(status === 503 ? 'connect_failed' : 'tunnel_refused', `CONNECT was answered ${status}`);
  }

  lost(detail: string, retriable: boolean): void {
    if (this.over) return;
    if (retriable && this.#tries < MAX_TRIES) this.#owner.again(this);
    else this.fail('connect_failed', detail);
  }

  tick(now: number): void {
    const left = this.#deadline - now;
    if (left < 0) this.#timedOut();
    // An answer to PING tells then whether it is the tunnel that is dead, or what is behind it that is slow.
    else if (this.#stream !== null && 2 * left < this.#owner.connectTimeout) this.#on?.tunnel.probe();
  }

  #timedOut(): void {
    const { connectTimeout } = this.#owner;
    this.fail(
      'connect_failed',
      this.#stream === null ? 'no tunnel has room' : `no answer within ${connectTimeout} ms`,
    );
    this.#stream?.resetAndDestroy();
    this.#on?.tunnel.unanswered(connectTimeout);
  }

  fail(reason: ReasonCode, detail: string): void {
    if (!this.#settle()) return;
    const { endpoint } = this.target;
    this.done.failed(reason, `${addressText(endpointAddress(endpoint))} by HBONE: ${detail}`);
  }

  #settle(): boolean {
    if (this.over) return false;
    this.over = true;
    this.#owner.left(this);
    return true;
  }
}

/** A live tunnel to a peer. */
interface PeerTunnel {
  readonly tunnel: Tunnel;
  readonly upstream: Upstream;
  readonly addresses: StreamAddresses;
}

/** One peer: address and whom we expect there. */
class Place {
  readonly key: string;
  readonly target: TunnelTarget;
  readonly live: PeerTunnel[] = [];
  waiting: Waiting[] = [];
  dialling: Reaching | null = null;

  constructor(key: string, target: TunnelTarget) {
    this.key = key;
    this.target = target;
  }
}

export class Tunnels implements TunnelKeeper {
  readonly #context: TunnelContext;
  readonly #limits: Limits;
  readonly #places = new Map<string, Place>();
  readonly #placeOf = new Map<Tunnel, Place>();
  /** All who want a stream, asked for or not. */
  readonly #waiting = new Set<Waiting>();
  /** Of either side. */
  readonly #ticking = new Set<Tunnel>();
  readonly #clock: NodeJS.Timeout;
  #stopped = false;
  /** What every CONNECT says of us, made anew with each snapshot. */
  #said: { readonly snapshot: Snapshot; readonly fields: readonly (readonly [string, string])[] } | null =
    null;

  constructor(context: TunnelContext) {
    this.#context = context;
    this.#limits = context.limits;
    this.#clock = setInterval(() => this.#tick(), TICK_MS);
    this.#clock.unref();
  }

  get generation(): number {
    return this.#context.generation;
  }

  get connectTimeout(): number {
    return this.#limits.connectTimeout;
  }

  get links(): Links {
    return this.#context.links;
  }

  /** Reaches an endpoint by a stream on a tunnel to its peer, making that where there is none with room. */
  enter(target: PeerTarget, tunnel: EndpointTunnel, done: DialDone): Reaching {
    const host = target.endpoint.address;
    const key = `${host} ${tunnel.port} ${tunnel.expectedIdentities.join(' ')}`;
    let place = this.#places.get(key);
    if (place === undefined) {
      const { port, expectedIdentities } = tunnel;
      place = new Place(key, {
        kind: 'tunnel',
        address: { host, port },
        expectedIdentities,
        protocol: 'hbone',
      });
      this.#places.set(key, place);
    }
    const waiting = new Waiting(this, place, target, done);
    this.#waiting.add(waiting);
    if (place.waiting.length >= this.#limits.maxWaitingStreams) {
      queueMicrotask(() =>
        waiting.fail('too_many_waiting', `${this.#limits.maxWaitingStreams} wait already`),
      );
    } else {
      place.waiting.push(waiting);
      this.#serve(place);
    }
    return waiting;
  }

  /** Its stream was lost unseen: it waits for another one. */
  again(waiting: Waiting): void {
    if (this.#stopped) {
      waiting.fail('connect_failed', 'stopping');
      return;
    }
    waiting.place.waiting.push(waiting);
    // The tunnel that lost it is about to say why.
    queueMicrotask(() => this.#serve(waiting.place));
  }

  /** Nobody waits for it any more. */
  left(waiting: Waiting): void {
    const { place } = waiting;
    this.#waiting.delete(waiting);
    const at = place.waiting.indexOf(waiting);
    if (at >= 0) place.waiting.splice(at, 1);
    this.#forget(place);
  }

  /** Lets a tunnel's time-outs run. */
  keep(tunnel: Tunnel): void {
    this.#ticking.add(tunnel);
  }

  release(tunnel: Tunnel): void {
    this.#ticking.delete(tunnel);
  }

  /** Tunnels of one side with their streams: a `client`'s are those to peers, a `server`'s those that peers made to us. */
  counts(role: Tunnel['role']): { readonly tunnels: number; readonly streams: number } {
    let tunnels = 0;
    let streams = 0;
    for (const tunnel of this.#ticking) {
      if (tunnel.role !== role) continue;
      tunnels++;
      streams += tunnel.size;
    }
    return { tunnels, streams };
  }

  /**
   * Credentials or trust changed: what was made under the old ones, by either side, carries what it carries, and nothing
   * new.
   */
  clear(): void {
    for (const tunnel of [...this.#ticking]) tunnel.retire();
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#clock);
    for (const tunnel of [...this.#ticking]) tunnel.abort('stopping');
    for (const place of this.#places.values()) place.dialling?.cancel();
  }

  // ---- TunnelKeeper

  addressesOf(): StreamAddresses {
    throw new Error('a peer asked for a stream on a tunnel of ours');
  }

  asked(): void {
    throw new Error('a peer asked for a stream on a tunnel of ours');
  }

  roomChanged(tunnel: Tunnel): void {
    const place = this.#placeOf.get(tunnel);
    if (place !== undefined && place.waiting.length > 0) this.#serve(place);
  }

  closed(tunnel: Tunnel, end: TunnelEnd): void {
    this.#ticking.delete(tunnel);
    const place = this.#placeOf.get(tunnel);
    this.#placeOf.delete(tunnel);
    if (place === undefined) return;
    const at = place.live.findIndex((one) => one.tunnel === tunnel);
    const [one] = at < 0 ? [] : place.live.splice(at, 1);
    if (end.fault !== null) this.#context.tunnelBroke(one?.upstream.address ?? '', end);
    this.#serve(place);
  }

  // ----

  /** Gives streams to those who wait, the fullest tunnel first: the others may fall idle and be closed. */
  #serve(place: Place): void {
    while (place.waiting.length > 0) {
      const one = roomiest(place);
      if (one === null) {
        this.#dial(place);
        return;
      }
      const waiting = place.waiting.shift();
      if (waiting !== undefined && !waiting.over) waiting.ask(one, this.#fieldsFor(waiting.target));
    }
    this.#forget(place);
  }

  /** One at a time: those that wait meanwhile share what comes of it. */
  #dial(place: Place): void {
    // At the bound those that wait get the streams that others leave.
    if (place.dialling !== null || place.live.length >= this.#limits.poolSize) return;
    // It takes nobody now (SETTINGS_MAX_CONCURRENT_STREAMS 0), and will say when it does: another would do the same.
    if (place.live.some(({ tunnel }) => tunnel.size === 0 && !tunnel.leaving)) return;
    place.dialling = dial(this.#context, place.target, {
      connected: (upstream) => {
        place.dialling = null;
        this.#made(place, upstream);
      },
      failed: (reason, detail) => {
        place.dialling = null;
        // What `fail` calls may ask again: those are for the next one.
        const refused = place.waiting;
        place.waiting = [];
        for (const waiting of refused) waiting.fail(reason, detail);
        this.#serve(place);
      },
    });
  }

  #made(place: Place, upstream: Upstream): void {
    const tunnel = new Tunnel('client', upstream.stream, this.#limits, this);
    tunnel.notAfter = this.#context.outboundTls?.credentials.notAfter ?? 0;
    const { remoteAddress = '', remotePort = 0, localAddress = '', localPort = 0 } = upstream.socket;
    const addresses = { remoteAddress, remotePort, localAddress, localPort };
    for (const other of place.live) tunnel.learnFrom(other.tunnel);
    place.live.push({ tunnel, upstream, addresses });
    this.#placeOf.set(tunnel, place);
    this.#ticking.add(tunnel);
    tunnel.start();
    this.#serve(place);
    // Made under credentials that were replaced meanwhile: it serves those who waited for it, and no more.
    if (upstream.generation !== this.#context.generation) tunnel.retire();
  }

  #forget(place: Place): void {
    if (place.live.length > 0 || place.waiting.length > 0) return;
    // Nobody waits for what is being dialled: it would lie idle.
    place.dialling?.cancel();
    place.dialling = null;
    if (this.#places.get(place.key) === place) this.#places.delete(place.key);
  }

  /** What goes through it is said in the words of the ALPN that a connection of its own would have. */
  #fieldsFor({ endpoint, protocol }: PeerTarget): readonly (readonly [string, string])[] {
    return [
      [':authority', addressText(endpointAddress(endpoint))],
      ['alpn', alpnField(MESH_ALPN[protocol][0])],
      ...this.#ourFields(),
    ];
  }

  #ourFields(): readonly (readonly [string, string])[] {
    const { snapshot, cluster } = this.#context;
    if (snapshot === null) return [];
    if (this.#said?.snapshot !== snapshot) {
      const { workload } = snapshot;
      const address = workload.addresses.find((one) => isIP(one) !== 0) ?? null;
      const fields: (readonly [string, string])[] = [['baggage', baggageOf(workload, cluster)]];
      if (address !== null) fields.push(['forwarded', forwardedFor(address)]);
      this.#said = { snapshot, fields };
    }
    return this.#said.fields;
  }

  #tick(): void {
    const now = performance.now();
    for (const place of [...this.#places.values()])
      for (const { tunnel, upstream } of [...place.live]) if (upstream.leaving) tunnel.retire();
    for (const tunnel of [...this.#ticking]) tunnel.tick(now);
    for (const waiting of [...this.#waiting]) waiting.tick(now);
  }
}

function roomiest(place: Place): PeerTunnel | null {
  let best: PeerTunnel | null = null;
  for (const one of place.live)
    if (one.tunnel.room > 0 && (best === null || one.tunnel.size > best.tunnel.size)) best = one;
  return best;
}
