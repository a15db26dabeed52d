/** What original destinations of captured connections mean to one workload: VIPs, endpoints, names, its own ports. */
import type { Captured } from '../mesh/snapshot.ts';

/** Nothing is known of any address: where nothing is captured. */
export const nothingCaptured: Captured = {
  hostsAt: () => [],
  routeAt: () => null,
  hostNamed: () => null,
  namesAt: () => false,
  hostAnywhere: () => null,
  ingressAt: () => null,
};
