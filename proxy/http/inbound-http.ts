/** The inbound side of an HTTP connection: each request judged, then handed to the app with its caller's identity. */
import type { Decision, Nearest } from '../../mesh/decision.ts';
import type { AppAddress, Snapshot } from '../../mesh/snapshot.ts';
import type { Protocol } from '../../mesh/workload.ts';
import type { Connection } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import { decideRequest, observe } from '../decide.ts';
import { type AppTarget, type Reached, upstreamVersion } from '../dial.ts';
import { maskParams } from '../mask.ts';
import type { Exchange } from './exchange.ts';
import { forwardedCert, type PeersCert } from './forwarded-cert.ts';
import { forwardedFor } from './forwarded-for.ts';
import type { RequestHead } from './head.ts';
import { Judgement } from './judgement.ts';
import type { LocalAnswer } from './local-answer.ts';
import type { Judged } from './side.ts';
import { HttpSideBase, type ReachDone } from './side-base.ts';

export class InboundHttp extends HttpSideBase {
  readonly #app: AppAddress;
  /** One for all requests that go to it in one version. */
  #target: AppTarget | null = null;
  readonly #cert: PeersCert;
  readonly #protocol: Protocol;
  /** The request at hand, and the set it is judged by. */
  #head: RequestHead | null = null;
  #snapshot: Snapshot | null = null;
  #decision: Decision | null = null;
  /** Set while a request waits for somebody we asked. */
  #judgement: Judgement | null = null;

  /**
   * @param cert the connection's
   * @param protocol as the app's port was declared
   */
  constructor(path: DataPath, connection: Connection, app: AppAddress, cert: PeersCert, protocol: Protocol) {
    super(path, connection);
    this.#app = app;
    this.#cert = cert;
    this.#protocol = protocol;
  }

  override judge(head: RequestHead, exchange: Exchange): Judged {
    const { path, connection, carrier } = this;
    const { snapshot, verifier } = path;
    const { facts } = connection;
    exchange.series = connection.series;
    exchange.cluster = connection.cluster;
    if (snapshot === null || facts === null || carrier === null) return DENIED_WITHOUT_SNAPSHOT;
    this.#head = head;
    this.#snapshot = snapshot;
    if (exchange.forwardedFor !== '') head.remoteIp = forwardedFor(head.fields);
    const how = snapshot.mesh.forwardedClientCert;
    this.addFields(
      head,
      exchange,
      forwardedCert({ how, sent: head.forwardedCert, peers: this.#cert.field(path.identity) }),
    );
    const asked = snapshot.authorization.ask(facts, head);
    if (asked === null && verifier === null) {
      if (snapshot.authorization.observe !== null) observe({ path, connection, facts, snapshot }, head);
      return decideRequest(snapshot, facts, head, exchange);
    }
    exchange.path = maskParams(head.path, path.tokenParams);
    const judgement = new Judgement({
      path,
      connection,
      facts,
      snapshot,
      verifier,
      head,
      exchange,
      carrier,
    });
    this.#judgement = judgement;
    return judgement.start(asked);
  }

  /** As for TCP: by policy alone, whoever was asked before; and by the request as the app got it. */
  override stillAllowed(exchange: Exchange): boolean {
    const { snapshot } = this.path;
    const { facts } = this.connection;
    const head = this.#head;
    this.#snapshot = snapshot;
    const refusal =
      snapshot === null || facts === null || head === null
        ? DENIED_WITHOUT_SNAPSHOT
        : decideRequest(snapshot, facts, head, exchange);
    if (refusal === null) return true;
    exchange.reason = refusal.reason;
    exchange.detail = refusal.detail;
    return false;
  }

  override reach(_head: RequestHead, exchange: Exchange, fresh: boolean, done: ReachDone): void {
    const protocol = upstreamVersion(this.#protocol, exchange.protocol);
    if (this.#target?.protocol !== protocol) this.#target = { kind: 'app', address: this.#app, protocol };
    this.connect(this.#target, fresh, exchange, done);
  }

  override finished(exchange: Exchange): void {
    this.#judgement?.abandon();
    this.#judgement = null;
    this.#decision = exchange.decision;
    super.finished(exchange);
    this.#head = null;
  }

  override explain(): Nearest | null {
    const { facts } = this.connection;
    const [head, snapshot, decision] = [this.#head, this.#snapshot, this.#decision];
    if (head === null || snapshot === null || facts === null || decision === null) return null;
    return decision.allowed ? null : snapshot.authorization.explain(facts, head, decision);
  }

  override dropped(_upstream: Reached): void {}
}

const DENIED_WITHOUT_SNAPSHOT: LocalAnswer = {
  status: 403,
  body: 'RBAC: access denied',
  reason: 'policy_denied',
  detail: 'no policy set is in force',
};
