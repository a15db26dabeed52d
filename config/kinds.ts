/** What to do with a document of each API group and kind: read it, refuse it, or pass it over. */
import type { Severity } from '../mesh/resource.ts';
import type { ProblemCode } from '../mesh/schema.ts';

/** The kinds that are read, by API group. */
const READ: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['security.istio.io', new Set(['PeerAuthentication', 'AuthorizationPolicy', 'RequestAuthentication'])],
  ['networking.istio.io', new Set(['ServiceEntry', 'WorkloadEntry', 'DestinationRule', 'Sidecar'])],
]);
const READ_KINDS = new Set([...READ.values()].flatMap((kinds) => [...kinds]));
/** Kubernetes' own kinds that are read, by API version: their fields are not all under `spec`. */
const KUBERNETES: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['v1', new Set(['Service', 'Pod', 'Endpoints'])],
  ['discovery.k8s.io/v1', new Set(['EndpointSlice'])],
  ['discovery.k8s.io/v1beta1', new Set(['EndpointSlice'])],
]);
const VERSIONS = new Set(['v1', 'v1beta1', 'v1alpha3']);

/** Istio's other kinds and what leaving them out means. */
const NOT_HONOURED: ReadonlyMap<string, string> = new Map([
  ['VirtualService', 'requests are not routed by it; Oarlock is no router'],
  ['Gateway', 'Oarlock is no gateway'],
  ['EnvoyFilter', 'there is no Envoy to patch; what it guarded is not guarded'],
  ['WorkloadGroup', 'workloads are named one by one, by WorkloadEntry'],
  ['ProxyConfig', "the daemon's flags say this"],
  ['Telemetry', 'metrics and access log are always as Istio has them by default'],
  ['WasmPlugin', 'no Wasm is run; what it guarded is not guarded'],
  ['TrafficExtension', 'no extension is run; what it guarded is not guarded'],
  ['IstioOperator', 'it concerns the control plane'],
]);

export type Verdict =
  | { readonly do: 'read' }
  | {
      readonly do: 'report';
      readonly code: ProblemCode;
      readonly severity: Severity;
      readonly message: string;
      readonly at: 'apiVersion' | 'kind';
    };

function report(at: 'apiVersion' | 'kind', code: ProblemCode, severity: Severity, message: string): Verdict {
  return { do: 'report', at, code, severity, message };
}

export function isKubernetes(apiVersion: string, kind: string): boolean {
  return KUBERNETES.get(apiVersion)?.has(kind) ?? false;
}

/** Says what to do with a document that is neither a List nor mesh config. */
export function judgeKind(apiVersion: string, kind: string): Verdict {
  if (isKubernetes(apiVersion, kind)) return { do: 'read' };
  const slash = apiVersion.indexOf('/');
  const group = slash < 0 ? '' : apiVersion.slice(0, slash);
  const version = apiVersion.slice(slash + 1);
  const istio = group.endsWith('.istio.io');
  if (READ.get(group)?.has(kind)) {
    if (VERSIONS.has(version)) return { do: 'read' };
    const known = [...VERSIONS].map((name) => `${group}/${name}`).join(', ');
    return report('apiVersion', 'unknownKind', 'Error', `${apiVersion} is not known; use one of ${known}`);
  }
  if (READ_KINDS.has(kind)) {
    const right = [...READ].find(([, kinds]) => kinds.has(kind))?.[0];
    return report('apiVersion', 'unknownKind', 'Error', `${kind} is of ${right}, not of ${apiVersion}`);
  }
  if (!istio) return report('kind', 'unknownKind', 'Info', `${kind} is passed over: it is not of Istio`);
  const why = NOT_HONOURED.get(kind);
  if (why !== undefined) return report('kind', 'notHonoured', 'Warning', `accepted but not honoured: ${why}`);
  return report('kind', 'unknownKind', 'Error', `${group} has no kind ${kind} that Oarlock knows`);
}
