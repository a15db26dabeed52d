/** What `GET /certs` and `GET /snapshot` show, as plain data: never a key. */
import { X509Certificate } from 'node:crypto';
import type { Credentials } from '../mesh/credentials.ts';
import { type Route, tunnelAddress } from '../mesh/route.ts';
import type { Snapshot } from '../mesh/snapshot.ts';

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

export interface CertificateView {
  readonly subject: string;
  readonly issuer: string;
  /** As Node words it: `URI:spiffe://…`. */
  readonly subjectAltName: string | null;
  /** Hex. */
  readonly serial: string;
  /** ISO 8601. */
  readonly notBefore: string;
  readonly notAfter: string;
  /** SHA-256, colons between the bytes. */
  readonly fingerprint256: string;
}

/** Where the credentials stand: `none` waits for a first set, the others speak of the chain's validity. */
export type CredentialsState = 'none' | 'not_yet_valid' | 'valid' | 'expired';

export interface CertificatesView {
  readonly state: CredentialsState;
  readonly identity: string | null;
  readonly origin: string | null;
  readonly secondsLeft: number | null;
  /** Leaf first. */
  readonly chain: readonly CertificateView[];
  readonly roots: readonly CertificateView[];
}

/** `GET /certs`. @param now milliseconds since the epoch */
export function certificatesView(credentials: Credentials | null, now: number): CertificatesView {
  if (credentials === null) {
    return { state: 'none', identity: null, origin: null, secondsLeft: null, chain: [], roots: [] };
  }
  const { notBefore, notAfter } = credentials;
  return {
    state: now < notBefore ? 'not_yet_valid' : now >= notAfter ? 'expired' : 'valid',
    identity: credentials.identity.uri,
    origin: credentials.origin,
    secondsLeft: Math.floor((notAfter - now) / 1000),
    chain: certificatesOf(credentials.chainPem),
    roots: credentials.rootsPem.flatMap(certificatesOf),
  };
}

function certificatesOf(pem: string): CertificateView[] {
  return (pem.match(PEM_CERTIFICATE) ?? []).map((text) => {
    const certificate = new X509Certificate(text);
    return {
      subject: oneLine(certificate.subject),
      issuer: oneLine(certificate.issuer),
      subjectAltName: certificate.subjectAltName ?? null,
      serial: certificate.serialNumber.toLowerCase(),
      notBefore: certificate.validFromDate.toISOString(),
      notAfter: certificate.validToDate.toISOString(),
      fingerprint256: certificate.fingerprint256,
    };
  });
}

function oneLine(name: string | undefined): string {
  return (name ?? '').replaceAll('\n', ', ');
}

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
