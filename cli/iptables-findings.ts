/** A finding about the rules of capture, as people read it. */
import type { Finding } from '../intercept/store.ts';

/** `iptables IPv4 nat ISTIO_INBOUND: missing: -A ISTIO_INBOUND …`. */
export function findingLine({ backend, family, table, chain, kind, rule }: Finding): string {
  const where = [backend, family === null ? '' : `IPv${family}`, table, chain]
    .filter((word) => word !== '')
    .join(' ');
  return `${where}: ${kinds[kind]}: ${rule}`;
}

const kinds: Readonly<Record<Finding['kind'], string>> = {
  missing: 'missing',
  foreign: 'foreign',
  order: 'out of order, from',
  before: 'stands before ours, and may lead past the sidecar',
};
