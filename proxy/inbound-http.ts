/** The inbound side of an HTTP connection: each request judged by policy, then handed to the app with its caller's identity. */
import type { AppAddress } from '../mesh/snapshot.ts';
import type { Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import type { DialDone, Upstream } from './dial.ts';
import { HttpSideBase } from './http-side.ts';
import type { Exchange } from './http1/exchange.ts';
import type { LocalAnswer } from './http1/forward.ts';
import type { RequestHead } from './http1/head.ts';
import type { VerifiedPeer } from './verify-peer.ts';

export class InboundHttp extends HttpSideBase {
  readonly #app: AppAddress;
  readonly #peer: VerifiedPeer | null;

  constructor(path: DataPath, connection: Connection, app: AppAddress, peer: VerifiedPeer | null) {
    super(path, connection);
    this.#app = app;
    this.#peer = peer;
  }

  override judge(head: RequestHead, exchange: Exchange): LocalAnswer | null {
    const { snapshot } = this.path;
    const { facts } = this.connection;
    exchange.series = this.connection.series;
    exchange.cluster = this.connection.cluster;
    if (snapshot === null || facts === null) return DENIED_WITHOUT_SNAPSHOT;
    const decision = snapshot.authorization.decideRequest(facts, head);
    exchange.decision = decision;
    if (decision.allowed) return null;
    return { status: 403, body: 'RBAC: access denied', reason: 'policy_denied', detail: decision.detail };
  }

  override reach(_head: RequestHead, _exchange: Exchange, fresh: boolean, done: DialDone): void {
    this.connect({ kind: 'app', address: this.#app }, fresh, done);
  }

  /** Envoy's `forward_client_cert_details: SANITIZE_SET`: the network's copies were dropped, ours is set on mTLS. */
  override fieldsFor(_head: RequestHead): string {
    const peer = this.#peer;
    const own = this.path.identity?.uri;
    if (peer === null || own === undefined) return '';
    return `x-forwarded-client-cert: By=${own};Hash=${peer.hash};Subject="";URI=${peer.identity.uri}\r\n`;
  }

  override dropped(_upstream: Upstream): void {}
}

const DENIED_WITHOUT_SNAPSHOT: LocalAnswer = {
  status: 403,
  body: 'RBAC: access denied',
  reason: 'policy_denied',
  detail: 'no policy set is in force',
};
