/** What `oarlock route --address` answers: where capture would take a connection to an address and port. */
import { canonicalAddress } from '../mesh/cidr.ts';
import type { Route } from '../mesh/route.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import { hostPort } from '../mesh/text.ts';
import { CapturedRoutes } from '../proxy/captured-outbound.ts';

/**
 * What decided: a service's own address, a service's endpoint called by its address, the workload that has it, the name
 * asked for, a TCP service's port whatever the address; or nobody known is meant.
 */
export type DecidedBy = 'address' | 'endpoint' | 'workload' | 'name' | 'port' | 'nobody';

export interface CapturedAnswer {
  readonly address: string;
  readonly port: number;
  readonly by: DecidedBy;
  /** The service's; null: none is meant. */
  readonly host: string | null;
  readonly protocol: Route['protocol'];
  /** Null: it is refused. */
  readonly route: Route | null;
  readonly warnings: readonly string[];
}

/**
 * @param address in any form
 * @param asked Host header or SNI; null: neither
 */
export function capturedAnswer(
  snapshot: Snapshot,
  {
    address: text,
    port,
    asked,
  }: { readonly address: string; readonly port: number; readonly asked: string | null },
): CapturedAnswer {
  const address = canonicalAddress(text) ?? text;
  const routes = new CapturedRoutes(snapshot, { address, port });
  const isRequest = asked !== null && snapshot.captured.hostOfSni(asked, port) === null;
  const route = isRequest ? routes.requestRoute(snapshot, asked) : routes.tcpRoute(snapshot, asked);
  const by = decidedBy(snapshot, address, port, asked);
  const warnings = [...(route?.warnings ?? [])];
  if (route === null) {
    const where = hostPort(address, port);
    warnings.push(
      by === 'nobody'
        ? `${where} is refused: outboundTrafficPolicy is REGISTRY_ONLY and nobody known is meant`
        : `${where} is refused: only a Host header or SNI tells whom to expect there; give --host`,
    );
  }
  const known = by !== 'nobody' && by !== 'workload';
  const host = known ? (route?.service.host ?? null) : null;
  return { address, port, by, host, protocol: route?.protocol ?? routes.protocol, route, warnings };
}

/** As `CapturedRoutes` chooses. */
function decidedBy({ captured }: Snapshot, address: string, port: number, asked: string | null): DecidedBy {
  if (captured.hostsAt(address, port).length > 0) return 'address';
  const there = captured.routeAt(address, port);
  if (there !== null) return there.service.host === address ? 'workload' : 'endpoint';
  if (asked !== null && (captured.hostNamed(asked, port) ?? captured.hostOfSni(asked, port)) !== null)
    return 'name';
  return captured.hostAnywhere(port) === null ? 'nobody' : 'port';
}
