/** Which service an outbound connection or request is for, and which of its endpoints gets it. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Endpoint, Route, RouteTls } from '../mesh/route.ts';
import type { EgressListener, Snapshot } from '../mesh/snapshot.ts';
import type { DataPath } from './data-path.ts';
import {
  addressText,
  dial,
  endpointAddress,
  type PeerTarget,
  poolKey,
  type Reached,
  type Reaching,
  type Upstream,
} from './dial.ts';
import { knownEndpoints, resolveEndpoints } from './endpoints.ts';
import type { UpstreamSession } from './http2/upstream-session.ts';
import type { UpstreamProtocol } from './tls-outbound.ts';

/**
 * The route an egress listener gives. One host: that, whatever the app asks for (CLI.md). Several, or a wildcard: the
 * one that the Host header or SNI names, fully or by its Kubernetes short forms, before a wildcard that covers it.
 * @param asked Host header with or without a port, SNI, or null
 */
export function chooseRoute(
  snapshot: Snapshot | null,
  listener: EgressListener,
  asked: string | null,
): Route | null {
  if (snapshot === null) return null;
  const [only] = listener.hosts;
  if (listener.hosts.length === 1 && only !== undefined && !only.startsWith('*')) {
    return routeTo(snapshot, only, listener.port);
  }
  if (asked === null) return null;
  const wanted = askedName(asked);
  for (const host of listener.hosts) {
    if (host === wanted || isShortForm(host, wanted)) return routeTo(snapshot, host, listener.port);
  }
  const wildcard = listener.hosts.some((host) => host.startsWith('*') && wanted.endsWith(host.slice(1)));
  if (!wildcard || !HOST_NAME.test(wanted)) return null;
  const route = snapshot.route(wanted, listener.port);
  return route === null ? null : routeAsAsked(route, wanted, wanted);
}

/** The name in a Host header or SNI, as names are compared: without its port, lower case. */
export function askedName(asked: string): string {
  return asked.replace(/:[0-9]+$/, '').toLowerCase();
}

/** What may become a destination by a wildcard: letters, digits, dashes, dots, nothing else. */
const HOST_NAME = /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/;

/**
 * The route of a host the listener names. One that nobody defines is passed through under ALLOW_ANY, bytes untouched,
 * to where DNS says it is; under REGISTRY_ONLY there is no route (MeshConfig outboundTrafficPolicy).
 */
function routeTo(snapshot: Snapshot, host: string, port: number): Route | null {
  const known = snapshot.route(host, port);
  if (known !== null) return routeAsAsked(known, host, host);
  return passthroughRoute(snapshot, host, { address: host, port });
}

/**
 * The way to what the registry does not know: under ALLOW_ANY there, bytes untouched; else none (MeshConfig
 * outboundTrafficPolicy).
 * @param host what it is called, for metrics
 */
export function passthroughRoute(
  snapshot: Snapshot,
  host: string,
  { address, port }: { readonly address: string; readonly port: number },
): Route | null {
  if (snapshot.mesh.outboundTrafficPolicy !== 'ALLOW_ANY') return null;
  const endpoint = { address, port, tls: 'DISABLE', weight: 1, workload: null, tunnel: null } as const;
  return unknownRoute(PASSTHROUGH, host, port, [endpoint]);
}

/** What is counted and logged where there is no way. */
export function blackHole(host: string, port: number): Route {
  return unknownRoute(BLACK_HOLE, host, port, []);
}

function unknownRoute(name: string, host: string, port: number, endpoints: readonly Endpoint[]): Route {
  const service = { host, name, namespace: 'unknown' };
  return { service, port, protocol: 'auto', tls: PLAINTEXT, endpoints, ownPort: null, warnings: [] };
}

/**
 * A route as it is for what was asked for. Envoy's ORIGINAL_DST takes the captured connection's address; without
 * capture the host is what the caller named, so DNS says where that is. Behind a wildcard that host is also the
 * server name and the name the certificate must bear (Istio: auto_sni, auto_san_validation).
 * @param name that was asked for; null: none was
 * @param address where the caller means to go
 * @returns null where only a name could tell whom to expect, and none was asked for
 */
export function routeAsAsked(route: Route, name: string, address: string): Route;
export function routeAsAsked(route: Route, name: string | null, address: string): Route | null;
export function routeAsAsked(route: Route, name: string | null, address: string): Route | null {
  const { tls, ownPort, service } = route;
  const wild = service.host.startsWith('*') && (tls.mode === 'SIMPLE' || tls.mode === 'MUTUAL');
  if (ownPort === null && !wild) return route;
  const named = wild && tls.sni === null;
  const expects = named && tls.expectedIdentities.length === 0 && !tls.insecureSkipVerify;
  if (named && (name === null || name.startsWith('*'))) return null;
  const expectedIdentities = expects && name !== null ? [name] : tls.expectedIdentities;
  return {
    ...route,
    tls: named ? { ...tls, sni: name, expectedIdentities } : tls,
    endpoints:
      ownPort === null
        ? route.endpoints
        : [{ address, port: ownPort, tls: tls.mode, weight: 1, workload: null, tunnel: null }],
  };
}

/** Istio's clusters of what the registry does not know. */
const PASSTHROUGH = 'PassthroughCluster';
const BLACK_HOLE = 'BlackHoleCluster';

const PLAINTEXT: RouteTls = {
  mode: 'DISABLE',
  auto: true,
  sni: null,
  expectedIdentities: [],
  source: null,
  clientCertificate: null,
  privateKey: null,
  caCertificates: null,
  caCrl: null,
  credentialName: null,
  insecureSkipVerify: false,
};

/** Istio's name of the route, as logs show it. */
export function clusterName(route: Route): string {
  const { name } = route.service;
  if (name === PASSTHROUGH || name === BLACK_HOLE) return name;
  return `outbound|${route.port}||${route.service.host}`;
}

/** `orders`, `orders.shop`, `orders.shop.svc` for `orders.shop.svc.cluster.local`. */
function isShortForm(host: string, wanted: string): boolean {
  if (!host.startsWith(`${wanted}.`)) return false;
  const labels = wanted.split('.').length;
  return host.split('.')[2] === 'svc' && labels <= 3;
}

/** At most so many endpoints are tried for one request. */
const MAX_ATTEMPTS = 3;

export interface ReachDone {
  connected(upstream: Upstream, endpoint: Endpoint): void;
  /** Of `http2` alone: a stream is promised on a shared session. */
  entered?(session: UpstreamSession, endpoint: Endpoint): void;
  failed(reason: ReasonCode, detail: string): void;
}

export interface ReachTarget {
  readonly route: Route;
  readonly protocol: UpstreamProtocol;
  /** Take no connection from the pool. */
  readonly fresh: boolean;
  /** Who lost or refused the request: another HTTP/2 session is to get it. */
  readonly lost: Reached | null;
}

/** Each endpoint's target as it was last asked for. */
const targets = new WeakMap<Endpoint, PeerTarget>();

/** One object for all requests that go there in one way. */
function peerTarget(endpoint: Endpoint, tls: RouteTls, protocol: UpstreamProtocol): PeerTarget {
  const known = targets.get(endpoint);
  if (known !== undefined && known.tls === tls && known.protocol === protocol) return known;
  const target = { kind: 'peer', endpoint, tls, protocol } as const;
  targets.set(endpoint, target);
  return target;
}

/**
 * The way nearly every HTTP/1 request goes: an idle connection to an endpoint of the route.
 * @returns null where there is none to that endpoint, or names must be resolved first: `reachEndpoint` does it
 */
export function idleUpstream(path: DataPath, route: Route): Upstream | null {
  const endpoints = knownEndpoints(route);
  if (endpoints === null || endpoints.length === 0) return null;
  return path.pool.take(poolKey(peerTarget(pickEndpoint(path, endpoints, []), route.tls, 'http1')));
}

/** Connects to an endpoint of the route; the next one when one does not accept the connection. */
export function reachEndpoint(path: DataPath, target: ReachTarget, done: ReachDone): Reaching {
  const reaching = new EndpointReaching(path, target, done);
  reaching.start();
  return reaching;
}

class EndpointReaching implements Reaching {
  readonly #path: DataPath;
  readonly #target: ReachTarget;
  readonly #done: ReachDone;
  /** The route's, with names resolved. */
  #endpoints: readonly Endpoint[] = [];
  readonly #tried: Endpoint[] = [];
  #dial: Reaching | null = null;
  #over = false;

  constructor(path: DataPath, target: ReachTarget, done: ReachDone) {
    this.#path = path;
    this.#target = target;
    this.#done = done;
  }

  start(): void {
    const { route } = this.#target;
    if (route.endpoints.length === 0) {
      this.#done.failed('no_endpoint', `${route.service.host} port ${route.port}`);
      return;
    }
    resolveEndpoints(this.#path.names, route, {
      found: (endpoints) => {
        this.#endpoints = endpoints;
        if (!this.#over) this.#attempt();
      },
      unresolved: (detail) => {
        if (!this.#over) this.#done.failed('connect_failed', detail);
      },
    });
  }

  /** A session that others may share goes on being made. */
  cancel(): void {
    this.#over = true;
    this.#dial?.cancel();
  }

  #attempt(): void {
    const path = this.#path;
    const done = this.#done;
    const { route, protocol, fresh, lost } = this.#target;
    const endpoint = pickEndpoint(path, this.#endpoints, this.#tried);
    const dialTarget = peerTarget(endpoint, route.tls, protocol);
    const failed = (reason: ReasonCode, detail: string): void => this.#failed(endpoint, reason, detail);
    if (protocol === 'http2') {
      const entered = (session: UpstreamSession): void => done.entered?.(session, endpoint);
      path.sessions.enter(dialTarget, lost?.told ?? null, { entered, failed });
      return;
    }
    const pooled = fresh ? null : path.pool.take(poolKey(dialTarget));
    const connected = (upstream: Upstream): void => done.connected(upstream, endpoint);
    if (pooled !== null) connected(pooled);
    else this.#dial = dial(path, dialTarget, { connected, failed });
  }

  #failed(endpoint: Endpoint, reason: ReasonCode, detail: string): void {
    this.#tried.push(endpoint);
    const more = this.#tried.length < Math.min(this.#endpoints.length, MAX_ATTEMPTS);
    // Nothing was said to it yet, in both cases.
    if (more && (reason === 'connect_failed' || reason === 'shunned')) {
      this.#path.endpointFailed(reason, detail);
      this.#attempt();
    } else this.#done.failed(reason, detail);
  }
}

/** Least requests of two random ones, drawn by weight. */
export function pickEndpoint(
  path: DataPath,
  endpoints: readonly Endpoint[],
  tried: readonly Endpoint[],
): Endpoint {
  const left = tried.length === 0 ? endpoints : endpoints.filter((endpoint) => !tried.includes(endpoint));
  const first = draw(left);
  if (left.length === 1) return first;
  const second = draw(left.filter((endpoint) => endpoint !== first));
  return load(path, second) < load(path, first) ? second : first;
}

function load(path: DataPath, endpoint: Endpoint): number {
  return path.loadOf(addressText(endpointAddress(endpoint))) / endpoint.weight;
}

function draw(endpoints: readonly Endpoint[]): Endpoint {
  let total = 0;
  for (const endpoint of endpoints) total += endpoint.weight;
  let at = Math.random() * total;
  for (const endpoint of endpoints) {
    at -= endpoint.weight;
    if (at < 0) return endpoint;
  }
  const last = endpoints[endpoints.length - 1];
  if (last === undefined) throw new RangeError('no endpoint to choose from');
  return last;
}
