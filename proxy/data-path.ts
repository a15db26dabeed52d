/** What both sides of the data path share: the snapshot and credentials in force, the live connections, one way to refuse. */
import type { Logger } from 'pino';
import type { Credentials } from '../mesh/credentials.ts';
import { RevocationLists } from '../mesh/crl.ts';
import type { Nearest } from '../mesh/decision.ts';
import type { ExtAuthz } from '../mesh/ext-authz.ts';
import type { RequestFacts } from '../mesh/facts.ts';
import type { Identity } from '../mesh/identity.ts';
import type { Limits } from '../mesh/limits.ts';
import type { NameResolver } from '../mesh/name-resolver.ts';
import { type ReasonCode, reasons } from '../mesh/reasons.ts';
import type { RouteTls } from '../mesh/route.ts';
import type { MeshSettings, Mode, Snapshot } from '../mesh/snapshot.ts';
import { hostPort } from '../mesh/text.ts';
import type { TokenRules, TokenVerifier } from '../mesh/tokens.ts';
import { isSecretHeader } from '../policy/secret-header.ts';
import type { AccessLog } from '../telemetry/access-log.ts';
import { FlightRecorder } from '../telemetry/flight-recorder.ts';
import type { MeshMetrics } from '../telemetry/mesh-metrics.ts';
import { RefusalLimit } from '../telemetry/refusal-limit.ts';
import {
  type Connection,
  type ConnectionSocket,
  Connections,
  type Direction,
  reset,
  unmapped,
} from './connections.ts';
import type { DialFailure } from './dial.ts';
import { Handshakes } from './handshakes.ts';
import type { TunnelEnd } from './hbone/tunnel.ts';
import { type TunnelContext, Tunnels } from './hbone/tunnels.ts';
import { HeldRoom } from './http/held-body.ts';
import { UpstreamSessions } from './http2/upstream-sessions.ts';
import { Links } from './links.ts';
import { maskNearest, maskParams } from './mask.ts';
import {
  type HandshakeCounts,
  type MeshTlsParts,
  nobodyShunned,
  nobodyVerified,
  tlsPolicyOf,
} from './mesh-tls.ts';
import type { AskedTls } from './outbound-handshake.ts';
import { type ModeSwitch, PortModes } from './port-modes.ts';
import type { BindFrom } from './setup/bound-socket.ts';
import type { TlsFiles } from './tls-external.ts';
import { InboundTls } from './tls-inbound.ts';
import { OutboundTls } from './tls-outbound.ts';
import { Trust, type TrustAdditions } from './trust.ts';
import { UpstreamPool } from './upstream-pool.ts';
import { judgeAgain } from './verify-peer.ts';

export interface DataPathOptions {
  readonly limits: Limits;
  readonly log: Logger;
  readonly accessLog: AccessLog | null;
  readonly metrics: MeshMetrics;
  /** Reads a DestinationRule's certificate files; throws where it cannot. */
  readonly readTlsFiles: (tls: RouteTls) => TlsFiles;
  /** Resolves endpoints that are host names. */
  readonly names: NameResolver;
  /** Verifies by a workload's rules; called once a snapshot, and not where there are none. */
  readonly verifierOf: (rules: TokenRules) => TokenVerifier;
  /** Asks external authorizers. */
  readonly extAuthz: ExtAuthz;
}

/** Inbound refusals before anybody was let in: what the flight recorder keeps. */
const HANDSHAKE_REASONS: ReadonlySet<ReasonCode> = new Set([
  'plaintext_to_strict',
  'plaintext_to_hbone',
  'tls_not_istio',
  'no_first_byte',
  'bad_client_hello',
  'tls_handshake_timeout',
  'tls_handshake_failed',
  'too_many_handshakes',
  'shunned',
  'no_peer_certificate',
  'untrusted_issuer',
  'expired',
  'revoked',
  'bad_certificate',
  'bad_spiffe_id',
  'untrusted_trust_domain',
  'resumption_refused',
  'no_credentials',
]);

/** Who is refused: a connection, or a socket turned away before it became one. */
export type RefusedPeer = Pick<
  Connection,
  'direction' | 'port' | 'remoteAddress' | 'remotePort' | 'peer' | 'sni' | 'handshake'
>;

/** What can be said of a refusal beyond its reason. */
export interface RefusalFacts {
  readonly detail?: string;
  readonly policy?: string | null;
  readonly peer?: string | null;
  /** `METHOD /path` where it was a request. */
  readonly request?: string | null;
  readonly explainer?: Explainer | null;
}

/** Whoever can explain the refusal at hand: asked only where its line is written. */
export interface Explainer {
  explain(): Nearest | null;
}

/** `address:port`; the kernel has forgotten it where the peer reset the connection before we looked. */
export function remoteOf({
  remoteAddress,
  remotePort,
}: Pick<Connection, 'remoteAddress' | 'remotePort'>): string {
  return remoteAddress === '' ? 'unknown' : hostPort(remoteAddress, remotePort);
}

export class DataPath implements TunnelContext {
  readonly limits: Limits;
  readonly log: Logger;
  /** Becomes another when mesh config asks for another. */
  accessLog: AccessLog | null;
  readonly metrics: MeshMetrics;
  readonly connections: Connections;
  /** Those of them, and of upstreams, that rest on a peer's certificate. */
  readonly links = new Links();
  /** A flood of refusals gets few lines; counters stay exact. */
  readonly refusalLines: RefusalLimit;
  /** Of inbound ports, switches and all. */
  readonly modes: PortModes;
  readonly pool: UpstreamPool;
  readonly sessions: UpstreamSessions;
  readonly tunnels: Tunnels;
  readonly readTlsFiles: (tls: RouteTls) => TlsFiles;
  readonly names: NameResolver;
  /** Null until the first set arrived. */
  snapshot: Snapshot | null = null;
  /** Of that set; null: tokens are ignored. */
  verifier: TokenVerifier | null = null;
  /** Query parameters that carry tokens: never logged. */
  tokenParams: ReadonlySet<string> = new Set();
  /** Headers that carry tokens, by whatever name. */
  #tokenHeaders: ReadonlySet<string> = new Set();
  readonly extAuthz: ExtAuthz;
  /** Of request bodies held back for it. */
  readonly heldRoom: HeldRoom;
  readonly #verifierOf: (rules: TokenRules) => TokenVerifier;
  /** Set where connections are captured. */
  bindFrom: BindFrom | null = null;
  inboundTls: InboundTls | null = null;
  outboundTls: OutboundTls | null = null;
  /** What both were made with. */
  trust: Trust | null = null;
  #verified: MeshTlsParts['verified'];
  #additions: TrustAdditions = { fetched: new Map(), revoked: RevocationLists.none };
  readonly handshakes: Handshakes;
  readonly #shunned = nobodyShunned();
  /** The handshakes that failed last. */
  readonly flights = new FlightRecorder();
  /** That side stops: its answers say so, and nothing of it is kept for later. */
  readonly draining: Record<Direction, boolean> = { inbound: false, outbound: false };

  get cluster(): string {
    return this.metrics.cluster;
  }

  get handshakeCounts(): HandshakeCounts {
    return this.metrics.handshakes.outbound;
  }

  /** Connections dialled under an older one are not used again. */
  get generation(): number {
    return this.pool.generation;
  }
  /** Exchanges and connections under way by endpoint, `address:port`: what "least requests" compares. */
  readonly loads = new Map<string, number>();

  constructor(options: DataPathOptions) {
    this.limits = options.limits;
    this.log = options.log;
    this.accessLog = options.accessLog;
    this.metrics = options.metrics;
    this.readTlsFiles = options.readTlsFiles;
    this.names = options.names;
    this.#verifierOf = options.verifierOf;
    this.extAuthz = options.extAuthz;
    this.heldRoom = new HeldRoom(options.limits.maxHeldTotal);
    this.refusalLines = new RefusalLimit({ log: options.log, now: () => performance.now() });
    this.connections = new Connections(options.limits.maxConnections, options.metrics.openConnections);
    this.modes = new PortModes(options.limits.modeGrace, () => this.#rejudge());
    this.pool = new UpstreamPool(options.limits);
    this.sessions = new UpstreamSessions(this);
    this.tunnels = new Tunnels(this);
    this.#verified = nobodyVerified(options.limits);
    this.handshakes = new Handshakes(options.limits.maxHandshakes, options.limits.handshakeTimeout);
  }

  /**
   * Puts a new set of credentials in force: new handshakes use it at once, live connections stay as long as its trust
   * covers their peers.
   * @throws where OpenSSL cannot use it; the old set stays then
   */
  applyCredentials(credentials: Credentials): void {
    this.#secure({ credentials, mesh: this.#mesh });
  }

  /**
   * Puts other revocation lists, or roots that were fetched, in force: live connections of those who are no longer
   * trusted are closed.
   */
  applyTrust(additions: TrustAdditions): void {
    this.#additions = additions;
    if (this.credentials !== null) this.#secure({ credentials: this.credentials, mesh: this.#mesh });
  }

  /**
   * Makes TLS anew of what it is made of. Sessions made before are not resumed; peers whom the new trust refuses lose
   * their connections.
   */
  #secure({ credentials, mesh }: { credentials: Credentials; mesh: MeshSettings | null }): void {
    const fresh = new Trust({ credentials, mesh, ...this.#additions });
    const before = this.trust;
    // Our own renewal changes nothing in whom we trust: what was verified by it stays verified.
    const trust = before?.equals(fresh) ? before : fresh;
    const verified = trust === before ? this.#verified : nobodyVerified(this.limits);
    const parts = {
      credentials,
      trust,
      verified,
      policy: tlsPolicyOf(mesh),
      limits: this.limits,
      counts: this.metrics.handshakes,
      shunned: this.#shunned,
    };
    const outbound = new OutboundTls(parts);
    const inbound = new InboundTls(parts, this.handshakes);
    this.outboundTls = outbound;
    const former = this.credentials;
    this.inboundTls = inbound;
    this.trust = trust;
    this.#verified = verified;
    // Let new requests be made with the new certificate. Other lists or roots are no reason to make all anew, of the
    // whole mesh at the same moment: whom they refuse is closed by name.
    if (credentials !== former || !sameTls(this.#mesh, mesh)) {
      this.#retireUpstreams();
      this.tunnels.clear();
    }
    if (trust !== before) this.links.judge((peer) => judgeAgain(peer, trust, Date.now()));
  }

  /** Puts a new snapshot in force and judges the live connections again by it. */
  applySnapshot(snapshot: Snapshot): void {
    const { credentials } = this;
    // First: what OpenSSL does not take keeps the whole set out of force.
    if (credentials !== null && !sameTls(this.#mesh, snapshot.mesh))
      this.#secure({ credentials, mesh: snapshot.mesh });
    for (const change of this.modes.replace(this.snapshot, snapshot)) this.#modeSwitched(change);
    this.snapshot = snapshot;
    const { tokens } = snapshot;
    this.verifier = tokens.rules.length === 0 ? null : this.#verifierOf(tokens);
    this.tokenParams = new Set(tokens.rules.flatMap(({ fromParams }) => ['access_token', ...fromParams]));
    this.#tokenHeaders = new Set(
      tokens.rules.flatMap(({ fromHeaders }) => fromHeaders.map(({ name }) => name)),
    );
    this.#retireUpstreams();
    this.#rejudge();
  }

  #rejudge(): void {
    for (const connection of this.connections.list()) connection.rejudge?.();
  }

  #modeSwitched({ port, from, to }: ModeSwitch): void {
    const { modeGrace } = this.limits;
    const until = modeGrace === 0 ? null : new Date(Date.now() + modeGrace).toISOString();
    const policy = to.source;
    this.log.info({ port, from, to: to.mode, policy, until }, SWITCHED[to.mode]);
  }

  /** Resets a socket that may not even become a connection. */
  turnAway(
    socket: ConnectionSocket,
    direction: Direction,
    port: number,
    reason: ReasonCode,
    detail = '',
  ): void {
    const { remoteAddress = '', remotePort = 0 } = socket;
    const address = unmapped(remoteAddress);
    this.refused(
      { direction, port, remoteAddress: address, remotePort, peer: null, sni: null, handshake: null },
      reason,
      { detail },
    );
    reset(socket);
  }

  /** One way to report a refusal: one counter, one line naming reason, peer, policy and what would have to change. */
  refused(connection: RefusedPeer, reason: ReasonCode, facts: RefusalFacts = {}): void {
    const { sentence, hint } = reasons[reason];
    this.metrics.refused(reason, connection.direction);
    // The caller gave up: the access log has it, there is nothing to mend.
    if (reason === 'downstream_closed') return;
    // With a peer its handshake is long over: what is live may be closed for the same reasons.
    const { direction, peer } = connection;
    if (direction === 'inbound' && peer === null && HANDSHAKE_REASONS.has(reason))
      this.#recordInbound(connection, reason, facts.detail ?? '');
    if (!this.refusalLines.admits(reason, connection.peer?.uri ?? connection.remoteAddress)) return;
    this.log.info(
      {
        reason,
        direction: connection.direction,
        port: connection.port,
        peer: facts.peer ?? connection.peer?.uri ?? null,
        remote: remoteOf(connection),
        request: facts.request ?? null,
        sni: connection.sni,
        policy: facts.policy ?? null,
        detail: facts.detail ?? '',
        ...explained(facts, this.#tokenHeaders),
        hint,
      },
      sentence,
    );
  }

  #recordInbound(connection: RefusedPeer, reason: ReasonCode, detail: string): void {
    const { port, sni, handshake } = connection;
    this.flights.record({
      at: Date.now(),
      direction: 'inbound',
      port,
      remote: remoteOf(connection),
      reason,
      detail,
      openssl: handshake?.openssl ?? null,
      sni: handshake?.sni ?? sni,
      alpn: handshake?.alpn ?? [],
      firstBytes: handshake?.firstBytes ?? null,
      chain: handshake?.chain ?? [],
      expectedIdentities: [],
    });
  }

  handshakeFailed(remote: string, tls: AskedTls, { reason, detail, facts }: DialFailure): void {
    this.flights.record({
      at: Date.now(),
      direction: 'outbound',
      port: Number(remote.slice(remote.lastIndexOf(':') + 1)) || 0,
      remote,
      reason,
      detail,
      openssl: facts?.openssl ?? null,
      sni: tls.sni,
      alpn: facts?.alpn ?? [],
      firstBytes: null,
      chain: facts?.chain ?? [],
      expectedIdentities: tls.expectedIdentities,
    });
  }

  /** A dry-run policy would have denied it: one line, like a refusal's, so that it can be seen before it holds. */
  wouldDeny(connection: Connection, policy: string, request: RequestFacts | null): void {
    if (!this.refusalLines.admits('dry_run_denied', policy)) return;
    this.log.info(
      {
        reason: 'dry_run_denied',
        direction: connection.direction,
        port: connection.port,
        peer: connection.peer?.uri ?? null,
        remote: remoteOf(connection),
        request:
          request === null
            ? null
            : `${request.method} ${maskParams(request.path, this.tokenParams)}`.slice(0, 512),
        policy,
      },
      'a dry-run AuthorizationPolicy would have denied it',
    );
  }

  /** An external authorizer could not be asked, and its failOpen lets what it was to judge go on. */
  failedOpen(connection: Connection, detail: string): void {
    if (!this.refusalLines.admits('ext_authz_failed_open', detail)) return;
    this.log.warn(
      { reason: 'ext_authz_failed_open', port: connection.port, remote: remoteOf(connection), detail },
      'an external authorizer could not be asked: its failOpen lets requests pass without it',
    );
  }

  /** Who we are: what the certificate says, which files may give another than the resources. */
  get identity(): Identity | null {
    return this.outboundTls?.credentials.identity ?? this.snapshot?.identity ?? null;
  }

  /** An endpoint could not be reached and the next one is tried: the request may well succeed, the endpoint is dead. */
  endpointFailed(reason: ReasonCode, detail: string): void {
    this.metrics.refused(reason, 'outbound');
    if (this.refusalLines.admits(reason, detail))
      this.log.info({ reason, detail }, 'an endpoint failed, trying the next');
  }

  /** True for a request header whose value no log shows. */
  hidesHeader(name: string): boolean {
    return isSecretHeader(name) || this.#tokenHeaders.has(name);
  }

  /** A peer's tunnel of ours was closed for what it did. */
  tunnelBroke(peer: string, { detail }: TunnelEnd): void {
    this.metrics.refused('tunnel_broken', 'outbound');
    if (!this.refusalLines.admits('tunnel_broken', peer)) return;
    this.log.warn(
      { reason: 'tunnel_broken', peer, detail, hint: reasons.tunnel_broken.hint },
      reasons.tunnel_broken.sentence,
    );
  }

  loadOf(address: string): number {
    return this.loads.get(address) ?? 0;
  }

  /** Counts an exchange or connection of an endpoint as begun (+1) or over (-1). */
  addLoad(address: string, step: 1 | -1): void {
    const load = this.loadOf(address) + step;
    if (load > 0) this.loads.set(address, load);
    else this.loads.delete(address);
  }

  stop(): void {
    this.refusalLines.flush();
    this.connections.stop();
    this.links.stop();
    this.modes.stop();
    this.pool.stop();
    this.sessions.stop();
    this.tunnels.stop();
    this.handshakes.stop();
  }

  /** What was connected before credentials or routes changed serves what it serves, and nothing new. */
  #retireUpstreams(): void {
    this.pool.clear();
    this.sessions.clear();
  }

  /** Of a trust domain that the set now in force trusts: its own, an alias, or one that roots were given for. */
  trusts({ trustDomain }: Identity): boolean {
    return this.trust?.knows(trustDomain) ?? false;
  }

  /** Those in force, expired or not; null before the first. */
  get credentials(): Credentials | null {
    return this.inboundTls?.credentials ?? null;
  }

  get #mesh(): MeshSettings | null {
    return this.snapshot?.mesh ?? null;
  }
}

/** Until when the old mode is honoured is in the line's `until`; null: it is not. */
const SWITCHED: Readonly<Record<Mode, string>> = {
  STRICT: "a port's mode has become STRICT: what comes in plaintext is taken until then, and closed after it",
  PERMISSIVE: "a port's mode has become PERMISSIVE",
  DISABLE: "a port's mode has become DISABLE: mesh mTLS is terminated until then, and closed after it",
};

/** True where nothing has changed that TLS is made of. */
function sameTls(one: MeshSettings | null, other: MeshSettings | null): boolean {
  const parts = ({ trustDomain, trustDomainAliases, caCertificates, meshTls }: MeshSettings): string =>
    JSON.stringify([trustDomain, trustDomainAliases, caCertificates, meshTls]);
  if (one === null || other === null) return one === other;
  return parts(one) === parts(other);
}

/** Worked out only for a line that is really written. */
function explained({ explainer }: RefusalFacts, tokenHeaders: ReadonlySet<string>): { nearest?: Nearest } {
  const nearest = explainer?.explain() ?? null;
  return nearest === null ? {} : { nearest: maskNearest(nearest, tokenHeaders) };
}
