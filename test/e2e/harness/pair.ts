/** The shop with both its sidecars up: whoever calls `ports.http` or `ports.tcp` speaks to the apps through the two. */
import type { Test } from 'tap';
import { beginMesh } from './hbone.ts';
import { Mesh, type Sidecar } from './mesh.ts';
import { egress as egressTo } from './resources.ts';
import { type ShopApps, type ShopPorts, shop, shopPorts } from './shop.ts';

export interface Pair {
  readonly mesh: Mesh;
  readonly ports: ShopPorts;
  readonly web: Sidecar;
  readonly orders: Sidecar;
}

export interface PairOptions {
  /** YAML beside the shop's own. */
  readonly resources?: string;
  /** Further egress listeners of `web`, HTTP, to hosts of `resources`. */
  readonly egress?: readonly { readonly port: number; readonly host: string }[];
  /** Of both sidecars. */
  readonly flags?: readonly string[];
}

/** Starts both sidecars; they are gone when the test is over. */
export async function startPair(t: Test, apps: ShopApps, options: PairOptions = {}): Promise<Pair> {
  const { resources = '', egress = [], flags = [] } = options;
  const ports = await shopPorts();
  beginMesh();
  const listeners = egress.map(
    ({ port, host }) => `  - ${egressTo({ number: port, name: `http-${port}`, protocol: 'HTTP' }, host)}\n`,
  );
  const base = shop(ports, apps).replace('  egress:\n', `  egress:\n${listeners.join('')}`);
  const mesh = await Mesh.create(t, resources === '' ? base : `${base}---\n${resources}`);
  const [web, orders] = await Promise.all([mesh.sidecar('web', ...flags), mesh.sidecar('orders', ...flags)]);
  return { mesh, ports, web, orders };
}
