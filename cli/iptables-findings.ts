/** A finding about the rules of capture, as people read it. */
import type { Finding } from '../intercept/store.ts';

/** `iptables IPv4 nat ISTIO_INBOUND: missing: -A ISTIO_INBOUND …`. */
export function findingLine({ backend, family, table, chain, kind, rule }: Finding): string {
  const where = [backend, family === null ? '' : `IPv${family}`, table, chain]
    .filter((word) => word !== '')
    .join(' ');
  return `${where}: ${kind === 'order' ? `out of order, from: ${rule}` : `${kind}: ${rule}`}`;
}
