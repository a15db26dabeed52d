/** The original client's address as X-Forwarded-For tells it. */
import { isIP } from 'node:net';
import type { Field } from './head.ts';

/**
 * Envoy's rule for `use_remote_address: false` without trusted hops, which is what Istio gives a sidecar's inbound
 * side (pilot's `buildHTTPConnectionManager`; `numTrustedProxies` is the gateways'): the last entry, where it is a
 * bare address. An empty field adds nothing, and the zone of an address (`%eth0`) is none of its own.
 * @returns null: the connection's own address holds
 */
export function forwardedFor(fields: readonly Field[]): string | null {
  let last: string | null = null;
  for (const { key, value } of fields) if (key === 'x-forwarded-for' && value !== '') last = value;
  if (last === null) return null;
  const [address = ''] = last
    .slice(last.lastIndexOf(',') + 1)
    .trim()
    .split('%', 1);
  return isIP(address) === 0 ? null : address;
}
