/** Where a captured connection of the app's goes: as its original destination says, and names where that does not tell. */
import type { Route } from '../mesh/route.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import { hostPort } from '../mesh/text.ts';
import type { Protocol } from '../mesh/workload.ts';
import { askedName, passthroughRoute, routeAsAsked } from './choose-route.ts';
import type { OutboundListener } from './outbound-listener.ts';
import type { OriginalDestination } from './setup/original-destination.ts';

/** A Host header that may become a label of metrics: a name or an address. */
const HOST_LABEL = /^[a-z0-9._:[\]-]{1,253}$/;

/**
 * The routes of one captured connection. In this order: the service that has the address and port for itself, by name
 * where several do; whoever is at that very address; the service that the app names; the TCP service that has the port
 * whatever the address; and what nobody knows, passed through or refused as outboundTrafficPolicy says.
 */
export class CapturedRoutes implements OutboundListener {
  readonly #original: OriginalDestination;
  readonly protocol: Protocol;
  readonly certain: boolean;
  /** As Istio's `block_all` answers. */
  readonly unroutedStatus = 502;
  /** What all below was learned of. */
  #snapshot: Snapshot | null = null;
  /** Of the services that have the address for themselves. */
  #hosts: readonly string[] = [];
  /** The route whatever is asked; null: that decides. */
  #fixed: Route | null = null;
  /** The host last asked for and its route: requests of one connection mostly ask for the same. Undefined: none yet. */
  #asked: string | null | undefined;
  #route: Route | null = null;

  constructor(snapshot: Snapshot | null, original: OriginalDestination) {
    this.#original = original;
    if (snapshot !== null) this.#learn(snapshot);
    this.protocol = snapshot === null ? 'auto' : this.#protocolBy(snapshot);
    this.certain = this.#fixed !== null || (this.protocol === 'tcp' && this.#hosts.length === 0);
  }

  get port(): number {
    return this.#original.port;
  }

  requestRoute(snapshot: Snapshot | null, host: string | null): Route | null {
    if (snapshot === null) return null;
    if (snapshot !== this.#snapshot) this.#learn(snapshot);
    if (this.#fixed !== null) return this.#fixed;
    if (this.#asked === undefined || host !== this.#asked) {
      this.#asked = host;
      this.#route = this.#choose(snapshot, host, true);
    }
    return this.#route;
  }

  tcpRoute(snapshot: Snapshot | null, sni: string | null): Route | null {
    if (snapshot === null) return null;
    if (snapshot !== this.#snapshot) this.#learn(snapshot);
    return this.#fixed ?? this.#choose(snapshot, sni, false);
  }

  describe(asked: string | null): string {
    const { address, port } = this.#original;
    return asked === null ? hostPort(address, port) : `${asked} at ${hostPort(address, port)}`;
  }

  #learn(snapshot: Snapshot): void {
    const { address, port } = this.#original;
    const { captured } = snapshot;
    this.#snapshot = snapshot;
    this.#hosts = captured.hostsAt(address, port);
    const [only] = this.#hosts;
    if (only === undefined) this.#fixed = this.#asOriginal(captured.routeAt(address, port), null);
    else if (this.#hosts.length > 1 || only.startsWith('*')) this.#fixed = null;
    else this.#fixed = this.#asOriginal(snapshot.route(only, port), only);
    this.#asked = undefined;
  }

  /** Of a route that is not fixed: what all that share the address have declared; else it must be looked at. */
  #protocolBy(snapshot: Snapshot): Protocol {
    if (this.#fixed !== null) return this.#fixed.protocol;
    const { port } = this.#original;
    if (this.#hosts.length === 0) return snapshot.captured.namesAt(port) ? 'auto' : 'tcp';
    const [first, ...others] = this.#hosts.map((host) => snapshot.route(host, port)?.protocol ?? 'auto');
    return others.every((protocol) => protocol === first) ? (first ?? 'auto') : 'auto';
  }

  #choose(snapshot: Snapshot, asked: string | null, http: boolean): Route | null {
    const { captured } = snapshot;
    const name = asked === null ? null : askedName(asked);
    const hostOf = http ? captured.hostNamed : captured.hostOfSni;
    const named = name === null ? null : hostOf(name, this.port);
    const [oldest] = this.#hosts;
    if (oldest !== undefined) {
      const host = this.#hosts.find((one) => one === named || covers(one, name)) ?? oldest;
      return this.#to(snapshot, host, name);
    }
    // Where requests are looked at, they name whom they mean: only other bytes go by the port.
    const host = named ?? (http ? null : captured.hostAnywhere(this.port));
    const route = host === null ? null : this.#to(snapshot, host, name);
    // Istio's label is the Host header's too; of other bytes it says nothing.
    const told = http && name !== null && HOST_LABEL.test(name) ? name : 'unknown';
    return route ?? passthroughRoute(snapshot, told, this.#original);
  }

  /** @param name that was asked for: what a wildcard's host is called there */
  #to(snapshot: Snapshot, host: string, name: string | null): Route | null {
    const meant = host.startsWith('*') && covers(host, name) ? name : host;
    return this.#asOriginal(snapshot.route(meant, this.#original.port), meant);
  }

  #asOriginal(route: Route | null, name: string | null): Route | null {
    return route === null ? null : routeAsAsked(route, name, this.#original.address);
  }
}

/** True for the host itself, and for what its wildcard stands for. */
function covers(host: string, name: string | null): name is string {
  if (name === null) return false;
  return host.startsWith('*') ? name.endsWith(host.slice(1)) : host === name;
}
