/** The endpoints of a route with their host names resolved: each address of a name is an endpoint. */
import { isIP } from 'node:net';
import type { NameResolver } from '../mesh/name-resolver.ts';
import type { Endpoint, Route } from '../mesh/route.ts';

/** What a route's names came to, and of which answers. */
interface Expanded {
  readonly version: number;
  readonly endpoints: readonly Endpoint[];
}

const NO_NAMES: readonly string[] = [];
const names = new WeakMap<Route, readonly string[]>();
const expansions = new WeakMap<NameResolver, WeakMap<Route, Expanded>>();

export interface EndpointsDone {
  /** At least one. */
  found(endpoints: readonly Endpoint[]): void;
  /** No name of the route has an address. */
  unresolved(detail: string): void;
}

/** The route's endpoints where none of them is a name: most routes, and no need to wait. */
export function knownEndpoints(route: Route): readonly Endpoint[] | null {
  return namesOf(route).length === 0 ? route.endpoints : null;
}

/**
 * Hands on the endpoints of `route`, within this call where their names are known. A name that cannot be resolved
 * is passed over while others can.
 */
export function resolveEndpoints(resolver: NameResolver, route: Route, done: EndpointsDone): void {
  const hosts = namesOf(route);
  if (hosts.length === 0) {
    done.found(route.endpoints);
    return;
  }
  const before = expansionsOf(resolver).get(route);
  const known = hosts.map((host) => resolver.known(host));
  if (before?.version === resolver.version && !known.includes(null)) {
    done.found(before.endpoints);
    return;
  }
  new Waiting(resolver, route, hosts, done).start();
}

function namesOf(route: Route): readonly string[] {
  let found = names.get(route);
  if (found === undefined) {
    const hosts = new Set<string>();
    for (const { address } of route.endpoints) if (isName(address)) hosts.add(address);
    found = hosts.size === 0 ? NO_NAMES : [...hosts];
    names.set(route, found);
  }
  return found;
}

function isName(address: string): boolean {
  return isIP(address) === 0 && !address.startsWith('unix://');
}

function expansionsOf(resolver: NameResolver): WeakMap<Route, Expanded> {
  let found = expansions.get(resolver);
  if (found === undefined) {
    found = new WeakMap();
    expansions.set(resolver, found);
  }
  return found;
}

/** One route's names on their way. */
class Waiting {
  readonly #resolver: NameResolver;
  readonly #route: Route;
  readonly #hosts: readonly string[];
  readonly #done: EndpointsDone;
  readonly #addresses = new Map<string, readonly string[]>();
  readonly #failures: string[] = [];

  constructor(resolver: NameResolver, route: Route, hosts: readonly string[], done: EndpointsDone) {
    this.#resolver = resolver;
    this.#route = route;
    this.#hosts = hosts;
    this.#done = done;
  }

  start(): void {
    for (const host of this.#hosts) {
      const known = this.#resolver.known(host);
      if (known !== null) this.#settled(host, known, '');
      else {
        this.#resolver.resolve(host, {
          resolved: (addresses) => this.#settled(host, addresses, ''),
          unresolved: (code) => this.#settled(host, [], code),
        });
      }
    }
  }

  #settled(host: string, addresses: readonly string[], code: string): void {
    this.#addresses.set(host, addresses);
    if (addresses.length === 0) this.#failures.push(`${host}: ${code}`);
    if (this.#addresses.size < this.#hosts.length) return;
    const endpoints = this.#route.endpoints.flatMap((endpoint): readonly Endpoint[] => {
      const found = this.#addresses.get(endpoint.address);
      return found === undefined ? [endpoint] : found.map((address) => ({ ...endpoint, address }));
    });
    if (endpoints.length === 0) {
      this.#done.unresolved(this.#failures.join(', '));
      return;
    }
    if (this.#failures.length === 0) {
      expansionsOf(this.#resolver).set(this.#route, { version: this.#resolver.version, endpoints });
    }
    this.#done.found(endpoints);
  }
}
