/** DestinationRule's trafficPolicy: the TLS settings, decoded, and the shapes of what is accepted without effect. */
import type { FieldPath } from '../mesh/resource.ts';
import type { TlsMode } from '../mesh/route.ts';
import type { Decoder, Reporter } from '../mesh/schema.ts';
import { boolean, enumOf, integer, listOf, object, string, unsupported } from '../mesh/schema.ts';
import { connectionPool, loadBalancer, outlierDetection, proxyProtocol, retryBudget } from './unhonoured.ts';

/** ClientTLSSettings. */
export interface ClientTls {
  readonly mode: TlsMode;
  readonly sni: string | null;
  readonly subjectAltNames: readonly string[];
  readonly clientCertificate: string | null;
  readonly privateKey: string | null;
  readonly caCertificates: string | null;
  /** A list of revoked certificates, by file. */
  readonly caCrl: string | null;
  /** A Kubernetes secret that would hold the files. */
  readonly credentialName: string | null;
  readonly insecureSkipVerify: boolean;
}

export interface TrafficPolicy {
  /** Null: auto mTLS decides. */
  readonly tls: ClientTls | null;
  /** By service port. An entry replaces the whole policy for its port, so its null means auto mTLS again. */
  readonly ports: ReadonlyMap<number, ClientTls | null>;
}

const tlsFields = object({
  mode: enumOf('DISABLE', 'SIMPLE', 'MUTUAL', 'ISTIO_MUTUAL'),
  clientCertificate: string,
  privateKey: string,
  caCertificates: string,
  credentialName: string,
  subjectAltNames: listOf(string),
  sni: string,
  insecureSkipVerify: boolean,
  caCrl: string,
});

function orNull(text: string | undefined): string | null {
  return text === undefined || text === '' ? null : text;
}

/** ClientTLSSettings, checked as Istio's ValidateTLS does. */
const clientTls: Decoder<ClientTls> = (value, path, reporter) => {
  const tls = tlsFields(value, path, reporter);
  if (tls === undefined) return undefined;
  // A mode that could not be read has been reported; protobuf's default for an absent one is DISABLE.
  const decoded: ClientTls = {
    mode: tls.mode ?? 'DISABLE',
    sni: orNull(tls.sni),
    subjectAltNames: tls.subjectAltNames ?? [],
    clientCertificate: orNull(tls.clientCertificate),
    privateKey: orNull(tls.privateKey),
    caCertificates: orNull(tls.caCertificates),
    caCrl: orNull(tls.caCrl),
    credentialName: orNull(tls.credentialName),
    insecureSkipVerify: tls.insecureSkipVerify ?? false,
  };
  checkTls(decoded, path, reporter);
  return decoded;
};

/** What Istio's ValidateTLS demands, branch by branch. */
function checkTls(tls: ClientTls, path: FieldPath, reporter: Reporter): void {
  const originated = tls.mode === 'SIMPLE' || tls.mode === 'MUTUAL';
  if (tls.insecureSkipVerify) checkUnverified(tls, [...path, 'insecureSkipVerify'], reporter);
  if (originated && tls.credentialName !== null) {
    for (const field of ['clientCertificate', 'privateKey', 'caCertificates', 'caCrl'] as const) {
      if (tls[field] !== null) reporter.report([...path, field], 'badValue', 'goes without credentialName');
    }
    const why = 'a Kubernetes secret cannot be read here, so every connection is refused; name files instead';
    reporter.report([...path, 'credentialName'], 'notHonoured', why, 'Warning');
    return;
  }
  if (tls.mode !== 'MUTUAL') return;
  for (const field of ['clientCertificate', 'privateKey'] as const) {
    if (tls[field] === null) reporter.report([...path, field], 'missing', 'is required by MUTUAL');
  }
}

function checkUnverified(tls: ClientTls, at: FieldPath, reporter: Reporter): void {
  if (tls.mode === 'ISTIO_MUTUAL') {
    reporter.report(at, 'notHonoured', 'ISTIO_MUTUAL always verifies the server', 'Warning');
    return;
  }
  if (tls.mode === 'DISABLE') return;
  const named = tls.caCertificates !== null || tls.subjectAltNames.length > 0;
  if (named || (tls.mode === 'SIMPLE' && tls.credentialName !== null)) {
    reporter.report(at, 'badValue', 'goes without caCertificates, credentialName and subjectAltNames');
  }
}

const portPolicy = object({
  // 0 is protobuf's absent number: the entry is then for no port.
  port: object({ number: integer(0, 0xffffffff) }),
  loadBalancer,
  connectionPool,
  outlierDetection,
  tls: clientTls,
});

const policyFields = object({
  loadBalancer,
  connectionPool,
  outlierDetection,
  tls: clientTls,
  portLevelSettings: listOf(portPolicy),
  // Ignoring it would send straight out what was meant to leave through a proxy.
  tunnel: unsupported('tunnel'),
  proxyProtocol,
  retryBudget,
});

/** TrafficPolicy → its TLS settings. */
export const trafficPolicy: Decoder<TrafficPolicy> = (value, path, reporter) => {
  const policy = policyFields(value, path, reporter);
  if (policy === undefined) return undefined;
  if (Object.keys(policy).length === 0) {
    reporter.report(path, 'missing', 'a traffic policy must have at least one field');
  }
  if (Object.hasOwn(policy, 'tunnel') && Object.hasOwn(policy, 'proxyProtocol')) {
    reporter.report([...path, 'proxyProtocol'], 'badValue', 'goes without tunnel');
  }
  const ports = new Map<number, ClientTls | null>();
  (policy.portLevelSettings ?? []).forEach((setting, i) => {
    const at = [...path, 'portLevelSettings', i];
    if (Object.keys(setting).every((key) => key === 'port')) {
      reporter.report(at, 'missing', 'a port traffic policy must have at least one field besides its port');
    }
    if (!Object.hasOwn(setting, 'port')) reporter.report([...at, 'port'], 'missing', 'is required');
    const number = setting.port?.number ?? 0;
    // The first setting of a port holds, as in Istio's getPortLevelTrafficPolicy.
    if (number > 0 && !ports.has(number)) ports.set(number, setting.tls ?? null);
  });
  return { tls: policy.tls ?? null, ports };
};
