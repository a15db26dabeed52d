/** The annotations and labels of Istio that injection reads and writes, and the checks of their values. */
import { isIP } from 'node:net';
import { InjectError } from './inject-error.ts';

export const names = {
  inject: 'sidecar.istio.io/inject',
  status: 'sidecar.istio.io/status',
  revision: 'istio.io/rev',
  templates: 'inject.istio.io/templates',
  nativeSidecar: 'sidecar.istio.io/nativeSidecar',
  interceptionMode: 'sidecar.istio.io/interceptionMode',
  proxyImage: 'sidecar.istio.io/proxyImage',
  proxyCpu: 'sidecar.istio.io/proxyCPU',
  proxyMemory: 'sidecar.istio.io/proxyMemory',
  proxyCpuLimit: 'sidecar.istio.io/proxyCPULimit',
  proxyMemoryLimit: 'sidecar.istio.io/proxyMemoryLimit',
  logLevel: 'sidecar.istio.io/logLevel',
  agentLogLevel: 'sidecar.istio.io/agentLogLevel',
  userVolume: 'sidecar.istio.io/userVolume',
  userVolumeMount: 'sidecar.istio.io/userVolumeMount',
  rewriteProbes: 'sidecar.istio.io/rewriteAppHTTPProbers',
  proxyConfig: 'proxy.istio.io/config',
  statusPort: 'status.sidecar.istio.io/port',
  readinessInitialDelay: 'readiness.status.sidecar.istio.io/initialDelaySeconds',
  readinessPeriod: 'readiness.status.sidecar.istio.io/periodSeconds',
  readinessFailures: 'readiness.status.sidecar.istio.io/failureThreshold',
  includeOutboundRanges: 'traffic.sidecar.istio.io/includeOutboundIPRanges',
  excludeOutboundRanges: 'traffic.sidecar.istio.io/excludeOutboundIPRanges',
  includeInboundPorts: 'traffic.sidecar.istio.io/includeInboundPorts',
  excludeInboundPorts: 'traffic.sidecar.istio.io/excludeInboundPorts',
  includeOutboundPorts: 'traffic.sidecar.istio.io/includeOutboundPorts',
  excludeOutboundPorts: 'traffic.sidecar.istio.io/excludeOutboundPorts',
  excludeInterfaces: 'traffic.sidecar.istio.io/excludeInterfaces',
  kubevirtInterfaces: 'traffic.sidecar.istio.io/kubevirtInterfaces',
  virtualInterfaces: 'istio.io/reroute-virtual-interfaces',
  mergeMetrics: 'prometheus.istio.io/merge-metrics',
  tlsMode: 'security.istio.io/tlsMode',
  tunnel: 'networking.istio.io/tunnel',
  canonicalName: 'service.istio.io/canonical-name',
  canonicalRevision: 'service.istio.io/canonical-revision',
  defaultContainer: 'kubectl.kubernetes.io/default-container',
  defaultLogsContainer: 'kubectl.kubernetes.io/default-logs-container',
} as const;

/** Go's strconv.ParseBool, which Istio reads them by; null: neither. */
export function parseFlag(text: string): boolean | null {
  if (/^(?:1|t|T|true|TRUE|True)$/.test(text)) return true;
  return /^(?:0|f|F|false|FALSE|False)$/.test(text) ? false : null;
}

type Check = (value: string) => boolean;

const isPort: Check = (text) => /^\s*\d{1,5}\s*$/.test(text) && Number(text) <= 65_535;
export const isPorts: Check = (text) => text.trim() === '' || text.split(',').every(isPort);
export const isPortsOrAll: Check = (text) => text === '*' || isPorts(text);
export const isRanges: Check = (text) => text === '' || text.split(',').every(isRange);
export const isRangesOrAll: Check = (text) => text === '*' || isRanges(text);
const isCount: Check = (text) => /^\d{1,10}$/.test(text) && Number(text) <= 0xff_ff_ff_ff;
/** Linux allows 15 bytes; what a shell or a rule could read otherwise is not let through. */
const isInterfaces: Check = (text) =>
  text === '' || text.split(',').every((name) => /^\w[\w.-]{0,14}$/.test(name.trim()));
/** Kubernetes' resource.Quantity. Digits can be read in one way only, so that no text takes long to refuse. */
const isQuantity: Check = (text) =>
  /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?$/.test(text);

/** As Istio's own injector checks them (pkg/kube/inject/validate.go), and what a good value is. */
const CHECKS: Readonly<Record<string, readonly [check: Check, shape: string]>> = {
  [names.interceptionMode]: [(text) => /^(?:REDIRECT|TPROXY|NONE)$/.test(text), 'REDIRECT, TPROXY or NONE'],
  [names.statusPort]: [isPort, 'a port'],
  [names.readinessInitialDelay]: [isCount, 'a number'],
  [names.readinessPeriod]: [isCount, 'a number'],
  [names.readinessFailures]: [isCount, 'a number'],
  [names.includeOutboundRanges]: [isRangesOrAll, '* or CIDR ranges with commas'],
  [names.excludeOutboundRanges]: [isRanges, 'CIDR ranges with commas'],
  [names.includeInboundPorts]: [isPortsOrAll, '* or ports with commas'],
  [names.excludeInboundPorts]: [isPorts, 'ports with commas'],
  [names.includeOutboundPorts]: [isPorts, 'ports with commas'],
  [names.excludeOutboundPorts]: [isPorts, 'ports with commas'],
  [names.excludeInterfaces]: [isInterfaces, 'names of interfaces with commas'],
  [names.kubevirtInterfaces]: [isInterfaces, 'names of interfaces with commas'],
  [names.virtualInterfaces]: [isInterfaces, 'names of interfaces with commas'],
  [names.mergeMetrics]: [(text) => parseFlag(text) !== null, 'true or false'],
  [names.proxyCpu]: [isQuantity, 'a quantity, as 100m'],
  [names.proxyMemory]: [isQuantity, 'a quantity, as 128Mi'],
  [names.proxyCpuLimit]: [isQuantity, 'a quantity, as 2'],
  [names.proxyMemoryLimit]: [isQuantity, 'a quantity, as 1Gi'],
};

/** @throws InjectError for the first annotation with a value that Istio would refuse. */
export function checkAnnotations(annotations: Readonly<Record<string, string>>): void {
  for (const [name, [check, shape]] of Object.entries(CHECKS)) {
    const value = annotations[name];
    if (value === undefined || check(value)) continue;
    throw new InjectError(`annotation ${name} must be ${shape}, not ${JSON.stringify(value)}`);
  }
}

/** Prefixes of those that Istio has for sidecars. */
const OF_SIDECARS = /^(?:(?:(?:readiness\.)?status\.|traffic\.)?sidecar|proxy)\.istio\.io\//;

/** @returns a sentence for each annotation of sidecars that is not heeded here, or that nobody knows */
export function passedOver(annotations: Readonly<Record<string, string>>): readonly string[] {
  const known: ReadonlySet<string> = new Set(Object.values(names));
  return Object.keys(annotations)
    .filter((name) => OF_SIDECARS.test(name) && !known.has(name))
    .map((name) => `annotation ${JSON.stringify(name)} is not offered: it has no effect`);
}

function isRange(text: string): boolean {
  const [, address = '', bits = ''] = /^([^/%]+)\/(\d{1,3})$/.exec(text) ?? [];
  const family = isIP(address);
  return family !== 0 && Number(bits) <= (family === 4 ? 32 : 128);
}
