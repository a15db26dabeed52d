/** The app that an address and port of this workload lead to, and the address it is dialled from. */
import { appSourceFor } from '../mesh/app-source.ts';
import type { AppAddress, IngressListener, Snapshot } from '../mesh/snapshot.ts';
import type { InboundListener } from './inbound.ts';
import type { OriginalDestination } from './setup/original-destination.ts';

/** The Sidecar's entry for a port; null: it has none, and the app itself is there. */
export function ingressOf(snapshot: Snapshot, port: number): IngressListener | null {
  return snapshot.captured.ingressAt(port) ?? snapshot.ingress.find((entry) => entry.port === port) ?? null;
}

/**
 * Where a connection to an address and port of this workload goes: as the Sidecar says, else there itself.
 * @param captured rules of capture stand: the app is dialled as they let pass
 */
export function listenerAt(
  snapshot: Snapshot,
  { address, port }: OriginalDestination,
  captured: boolean,
): InboundListener {
  const ingress = ingressOf(snapshot, port);
  const app = ingress?.defaultEndpoint ?? { host: address, port };
  const protocol = ingress?.protocol ?? snapshot.protocolOf(port);
  return { port, protocol, app: captured ? fromSidecar(app) : app };
}

/**
 * An app as the rules of capture let us dial it. They leave 127.0.0.1 and ::1 alone: an app there sees what it would see
 * without them.
 */
export function fromSidecar(app: AppAddress): AppAddress {
  if ('path' in app || app.host === '127.0.0.1' || app.host === '::1' || app.host === 'localhost') return app;
  return { ...app, from: appSourceFor(app.host) };
}
