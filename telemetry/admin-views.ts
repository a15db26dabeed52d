/** What `GET /snapshot` shows, as plain data. */
import { type Route, tunnelAddress } from '../mesh/route.ts';
import type { Snapshot } from '../mesh/snapshot.ts';

/**
 * `GET /snapshot`; generation 0 while there is none.
 * @param problems why the resources last read are not in force; empty where they are
 */
export function snapshotView(snapshot: Snapshot | null, problems: readonly string[]) {
  if (snapshot === null) return { generation: 0, problems };
  const { workload } = snapshot;
  const ports = new Set([...workload.ports.values(), ...snapshot.ingress.map((listener) => listener.port)]);
  return {
    generation: snapshot.generation,
    identity: snapshot.identity.uri,
    workload: {
      name: workload.name,
      namespace: workload.namespace,
      serviceAccount: workload.serviceAccount,
      labels: Object.fromEntries(workload.labels),
      addresses: workload.addresses,
      ports: Object.fromEntries(workload.ports),
      hbonePort: snapshot.hbonePort,
    },
    mesh: snapshot.mesh,
    ports: [...ports]
      .sort((a, b) => a - b)
      .map((port) => ({
        port,
        ...snapshot.modeOf(port),
        protocol: snapshot.protocolOf(port),
        service: snapshot.serviceOf(port)?.host ?? null,
      })),
    listeners: { ingress: snapshot.ingress, egress: snapshot.egress },
    policies: snapshot.authorization.policies,
    authorization: snapshot.authorization.byAction,
    requestAuthentication: snapshot.tokens.policies,
    providers: [...snapshot.extAuthz.values()].map(({ name, service, port, fault }) => ({
      name,
      service,
      port,
      fault,
    })),
    routes: snapshot.egress.flatMap((listener) =>
      listener.hosts.map((host) => routeView(host, listener.port, snapshot.route(host, listener.port))),
    ),
    warnings: snapshot.warnings,
    problems,
  };
}

function routeView(host: string, port: number, route: Route | null) {
  if (route === null) return { host, port, known: false };
  return {
    host,
    port,
    known: true,
    protocol: route.protocol,
    tls: {
      mode: route.tls.mode,
      auto: route.tls.auto,
      sni: route.tls.sni,
      expectedIdentities: route.tls.expectedIdentities,
      source: route.tls.source,
    },
    endpoints: route.endpoints.map((endpoint) => ({
      address: endpoint.address,
      port: endpoint.port,
      tls: endpoint.tls,
      tunnel: tunnelAddress(endpoint),
      weight: endpoint.weight,
    })),
    warnings: route.warnings,
  };
}
