/** What gives the outbound side its routes: an egress listener, or where a captured connection was going. */
import type { Route } from '../mesh/route.ts';
import type { EgressListener, Snapshot } from '../mesh/snapshot.ts';
import type { Protocol } from '../mesh/workload.ts';
import { chooseRoute } from './choose-route.ts';

export interface OutboundListener {
  /** For log and metrics. */
  readonly port: number;
  /** What is spoken; `auto`: first bytes tell. */
  readonly protocol: Protocol;
  /** Nothing the app says changes where TCP goes. */
  readonly certain: boolean;
  /** What a request that has no route is answered. */
  readonly unroutedStatus: number;
  /**
   * The way of one HTTP request.
   * @param host its Host header, with or without a port; null: it has none
   * @returns null: there is none
   */
  requestRoute(snapshot: Snapshot | null, host: string | null): Route | null;
  /**
   * The way of what is no HTTP.
   * @param sni null: no TLS, or the app has not spoken
   * @returns null: there is none, or none without a name
   */
  tcpRoute(snapshot: Snapshot | null, sni: string | null): Route | null;
  /** Whom it was for, where there is no route. */
  describe(asked: string | null): string;
}

/** An egress entry of the Sidecar. */
export class EgressRoutes implements OutboundListener {
  readonly #entry: EgressListener;
  readonly port: number;
  readonly protocol: Protocol;
  readonly certain: boolean;
  readonly unroutedStatus = 404;

  constructor(entry: EgressListener) {
    this.#entry = entry;
    this.port = entry.port;
    this.protocol = entry.protocol;
    this.certain = entry.hosts.length === 1;
  }

  requestRoute(snapshot: Snapshot | null, host: string | null): Route | null {
    return chooseRoute(snapshot, this.#entry, host);
  }

  tcpRoute(snapshot: Snapshot | null, sni: string | null): Route | null {
    return chooseRoute(snapshot, this.#entry, sni);
  }

  describe(asked: string | null): string {
    return `${asked ?? this.#entry.hosts.join(', ')} port ${this.port}`;
  }
}
