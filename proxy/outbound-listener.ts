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
   * @param asked Host header with or without a port, SNI, or null: nothing was said, or nothing that names a host
   * @returns null: there is no way, or none without a name
   */
  routeFor(snapshot: Snapshot | null, asked: string | null): Route | null;
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

  routeFor(snapshot: Snapshot | null, asked: string | null): Route | null {
    return chooseRoute(snapshot, this.#entry, asked);
  }

  describe(asked: string | null): string {
    return `${asked ?? this.#entry.hosts.join(', ')} port ${this.port}`;
  }
}
