/** MeshConfig: Istio's mesh-wide settings; the few that hold here, the rest known by name. */
import type { MeshAccessLog } from '../mesh/access-format.ts';
import type { ExtAuthzProvider } from '../mesh/ext-authz.ts';
import { parseIdentity } from '../mesh/identity.ts';
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import type { Decoder } from '../mesh/schema.ts';
import {
  anything,
  boolean,
  enumOf,
  listOf,
  notHonoured,
  object,
  Reporter,
  string,
  unsupported,
} from '../mesh/schema.ts';
import type {
  CaCertificates,
  ForwardedClientCert,
  MeshSettings,
  MeshTlsPolicy,
  PathNormalization,
} from '../mesh/snapshot.ts';
import { accessLogFields, meshAccessLog, noMeshAccessLog } from './access-log.ts';
import { caCertificates } from './ca-certificates.ts';
import { isDnsLabel, stringThat } from './checks.ts';
import { extensionProviders } from './extension-providers.ts';
import { meshTls } from './mesh-tls.ts';

/** The fields given; undefined where the default holds. */
export interface MeshConfig {
  readonly rootNamespace: string | undefined;
  readonly trustDomain: string | undefined;
  readonly trustDomainAliases: readonly string[] | undefined;
  readonly outboundTrafficPolicy: MeshSettings['outboundTrafficPolicy'] | undefined;
  readonly pathNormalization: PathNormalization | undefined;
  readonly forwardedClientCert: ForwardedClientCert | undefined;
  /** Whether endpoints in the mesh get ISTIO_MUTUAL without being told. Default true. */
  readonly enableAutoMtls: boolean;
  /** Who sees a ServiceEntry or DestinationRule without `exportTo`; empty: everyone. */
  readonly defaultServiceExportTo: readonly string[];
  readonly defaultDestinationRuleExportTo: readonly string[];
  /** `extensionProviders` of external authorization, by name; null where no mesh config was given. */
  readonly extAuthz: ReadonlyMap<string, ExtAuthzProvider> | null;
  readonly meshTls: MeshTlsPolicy | undefined;
  readonly caCertificates: readonly CaCertificates[];
  readonly accessLog: MeshAccessLog;
}

export const emptyMeshConfig: MeshConfig = {
  rootNamespace: undefined,
  trustDomain: undefined,
  trustDomainAliases: undefined,
  outboundTrafficPolicy: undefined,
  pathNormalization: undefined,
  forwardedClientCert: undefined,
  enableAutoMtls: true,
  defaultServiceExportTo: [],
  defaultDestinationRuleExportTo: [],
  extAuthz: null,
  meshTls: undefined,
  caCertificates: [],
  accessLog: noMeshAccessLog,
};

const trustDomain = stringThat(
  (text) => parseIdentity(`spiffe://${text}/ns/a/sa/a`) !== null,
  'a trust domain: lower-case letters, digits, dots, dashes',
);
const namespace = stringThat(isDnsLabel, 'a namespace');

const control = notHonoured('it concerns the control plane');
const operational = notHonoured('Oarlock has its own setting or none');
const routing = notHonoured('endpoints are chosen by least requests of two random ones');

const outboundMode: Decoder<MeshSettings['outboundTrafficPolicy']> = (value, path, reporter) => {
  if (value !== 'ALLOW_ANY_DYNAMIC_DNS') return enumOf('REGISTRY_ONLY', 'ALLOW_ANY')(value, path, reporter);
  reporter.report(
    path,
    'unsupported',
    'ALLOW_ANY_DYNAMIC_DNS is not supported; use ALLOW_ANY or REGISTRY_ONLY',
  );
  return undefined;
};

/** Every field of ProxyConfig, Istio's `defaultConfig`. */
const PROXY_CONFIG =
  'configPath binaryPath serviceCluster tracingServiceName drainDuration discoveryAddress discoveryRefreshDelay ' +
  'zipkinAddress statsdUdpAddress envoyMetricsServiceAddress proxyAdminPort availabilityZone ' +
  'controlPlaneAuthPolicy customConfigFile statNameLength concurrency proxyBootstrapTemplatePath ' +
  'interceptionMode tracing sds envoyAccessLogService envoyMetricsService proxyMetadata runtimeValues statusPort ' +
  'extraStatTags gatewayTopology terminationDrainDuration meshId readinessProbe proxyStatsMatcher ' +
  'holdApplicationUntilProxyStarts image privateKeyProvider fileFlushInterval fileFlushMinSizeKb ' +
  'statsCompression connectionSettings';

const FORWARDED_CLIENT_CERT = [
  'SANITIZE',
  'FORWARD_ONLY',
  'APPEND_FORWARD',
  'SANITIZE_SET',
  'ALWAYS_FORWARD_ONLY',
] as const satisfies readonly ForwardedClientCert[];

const proxyConfigShape = object({
  ...named(PROXY_CONFIG, anything),
  // More roots than the bundle's would widen whom we trust; fewer than asked for is no quiet matter either.
  caCertificatesPem: unsupported('caCertificatesPem'),
  proxyHeaders: object({
    forwardedClientCert: enumOf('UNDEFINED', ...FORWARDED_CLIENT_CERT),
    setCurrentClientCertDetails: notHonoured('By, Hash, Subject and URI are always set'),
    ...named(
      'requestId server attemptCount envoyDebugHeaders metadataExchangeHeaders preserveHttp1HeaderCase ' +
        'xForwardedHost xForwardedPort',
      notHonoured('the header stays as it is'),
    ),
  }),
});

/** One warning for the whole of it: a usual Istio installation sets a dozen of these. */
const defaultConfig: Decoder<unknown> = (value, path, reporter) => {
  const decoded = proxyConfigShape(value, path, reporter);
  const ignored = Object.keys(decoded ?? {}).filter(
    (key) => key !== 'proxyHeaders' && key !== 'caCertificatesPem',
  );
  if (ignored.length > 0) {
    const why = `accepted but not honoured: ${ignored.join(', ')} concern Envoy or istiod`;
    reporter.report(path, 'notHonoured', why, 'Warning');
  }
  return decoded;
};

function named(names: string, decoder: Decoder<unknown>): Record<string, Decoder<unknown>> {
  return Object.fromEntries(names.split(' ').map((name) => [name, decoder]));
}

const honoured = object({
  rootNamespace: namespace,
  trustDomain,
  trustDomainAliases: listOf(trustDomain),
  outboundTrafficPolicy: object({ mode: outboundMode, tls: unsupported('outboundTrafficPolicy.tls') }),
  pathNormalization: object({
    normalization: enumOf('DEFAULT', 'NONE', 'BASE', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'),
  }),
  enableAutoMtls: boolean,
  defaultServiceExportTo: listOf(string),
  defaultDestinationRuleExportTo: listOf(string),
  extensionProviders,
  meshMTLS: meshTls,
  caCertificates: caCertificates(trustDomain),
  ...accessLogFields,
});

const HONOURED = new Set([
  'rootNamespace',
  'trustDomain',
  'trustDomainAliases',
  'outboundTrafficPolicy',
  'pathNormalization',
  'enableAutoMtls',
  'defaultServiceExportTo',
  'defaultDestinationRuleExportTo',
  'extensionProviders',
  'meshMTLS',
  'caCertificates',
  ...Object.keys(accessLogFields),
]);

/** The other fields of istio.mesh.v1alpha1.MeshConfig. */
const others = object({
  ...named([...HONOURED].join(' '), anything),
  // The document's own, since a MeshConfig document has its fields at top level.
  ...named('apiVersion kind metadata', anything),
  ...named(
    'ingressClass ingressService ingressControllerMode ingressSelector configSources certificates',
    control,
  ),
  ...named(
    'discoverySelectors serviceSettings serviceScopeConfigs defaultVirtualServiceExportTo ca',
    control,
  ),
  ...named(
    'proxyListenPort proxyInboundListenPort proxyHttpPort connectTimeout hboneIdleTimeout ' +
      'protocolDetectionTimeout tcpKeepalive enableTracing ' +
      'enableEnvoyAccessLogService disableEnvoyListenerLog dnsRefreshRate h2UpgradePolicy ' +
      'inboundClusterStatName outboundClusterStatName enablePrometheusMerge defaultProviders ' +
      'defaultHttpRetryPolicy defaultInboundHttpRetryPolicy defaultTrafficPolicy tlsDefaults',
    operational,
  ),
  ...named('localityLbSetting zoneAwareLbSetting', routing),
  inboundTrafficPolicy: object({ mode: enumOf('PASSTHROUGH', 'LOCALHOST') }),
  serviceEntryVisibility: notHonoured('exportTo alone says who sees a ServiceEntry'),
  verifyCertificateAtClient: notHonoured('the server is always verified'),
  defaultConfig,
});

/**
 * MeshConfig → the fields given that hold here.
 * @param resource its `spec` is the whole document, so that paths start at its top level
 */
export function decodeMeshConfig(resource: Resource, problems: Problem[]): MeshConfig {
  const reporter = new Reporter(resource, problems);
  const path: FieldPath = [];
  const accepted = others(resource.spec, path, reporter);
  if (accepted === undefined) return emptyMeshConfig;
  const known = Object.entries(resource.spec as object).filter(([key]) => HONOURED.has(key));
  const config = honoured(Object.fromEntries(known), path, reporter);
  const normalization = config?.pathNormalization?.normalization;
  return {
    rootNamespace: config?.rootNamespace,
    trustDomain: config?.trustDomain,
    trustDomainAliases: config?.trustDomainAliases,
    outboundTrafficPolicy: config?.outboundTrafficPolicy?.mode,
    // "DEFAULT: Apply default normalizations. Currently, this is BASE."
    pathNormalization: normalization === 'DEFAULT' ? 'BASE' : normalization,
    forwardedClientCert: forwardedClientCertOf(accepted.defaultConfig),
    enableAutoMtls: config?.enableAutoMtls ?? true,
    defaultServiceExportTo: config?.defaultServiceExportTo ?? [],
    defaultDestinationRuleExportTo: config?.defaultDestinationRuleExportTo ?? [],
    extAuthz: config?.extensionProviders ?? new Map(),
    meshTls: config?.meshMTLS,
    caCertificates: config?.caCertificates ?? [],
    accessLog: meshAccessLog(config ?? {}, reporter),
  };
}

/** @param config what `defaultConfig` accepted */
function forwardedClientCertOf(config: unknown): ForwardedClientCert | undefined {
  const { proxyHeaders } = (config ?? {}) as { proxyHeaders?: { forwardedClientCert?: string } };
  return FORWARDED_CLIENT_CERT.find((mode) => mode === proxyHeaders?.forwardedClientCert);
}
