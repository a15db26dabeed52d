/** Service (Kubernetes), understood as Istio does: a service of the mesh under `NAME.NAMESPACE.svc.cluster.local`. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { boolean, enumOf, listOf, mapOf, portNumber, Reporter, string } from '../mesh/schema.ts';
import type { Protocol } from '../mesh/workload.ts';
import { protocolOf } from '../mesh/workload.ts';
import { isHostName, requireField, stringThat } from './checks.ts';
import { CLUSTER_DOMAIN, kubeObject, kubeTop, numberOrName } from './kube-schema.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';
import { claimedAddresses, isTlsWord } from './service-entry.ts';

const port = kubeObject(
  {
    name: string,
    port: portNumber,
    protocol: enumOf('TCP', 'UDP', 'SCTP'),
    appProtocol: string,
    targetPort: numberOrName,
  },
  'nodePort',
);

const SPEC_FIELDS =
  'externalIPs sessionAffinity loadBalancerIP loadBalancerSourceRanges externalTrafficPolicy ' +
  'healthCheckNodePort sessionAffinityConfig ipFamilies ipFamilyPolicy allocateLoadBalancerNodePorts ' +
  'loadBalancerClass internalTrafficPolicy trafficDistribution';

const fields = kubeObject(
  {
    ...kubeTop,
    spec: kubeObject(
      {
        selector: mapOf(string),
        ports: listOf(port),
        type: enumOf('ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName'),
        clusterIP: string,
        clusterIPs: listOf(string),
        externalName: stringThat(isHostName, 'a host name'),
        publishNotReadyAddresses: boolean,
      },
      SPEC_FIELDS,
    ),
  },
  'status',
);

/** "Kubernetes has a few AppProtocol specific standard names" (Istio: ConvertProtocol). */
const APP_PROTOCOLS: Readonly<Record<string, string>> = {
  'kubernetes.io/h2c': 'http2',
  'kubernetes.io/ws': 'http',
  'kubernetes.io/wss': 'https',
};
/** SMTP, DNS, MySQL, MongoDB: "TCP as default protocol for well know ports" whose name tells nothing. */
const WELL_KNOWN_TCP = new Set([25, 53, 3306, 27017]);

function wordOf(appProtocol: string | undefined, name: string): string {
  return appProtocol === undefined ? name : (APP_PROTOCOLS[appProtocol] ?? appProtocol);
}

function protocolOfPort(number: number, appProtocol: string | undefined, name: string): Protocol {
  const protocol = protocolOf(undefined, wordOf(appProtocol, name));
  return protocol === 'auto' && WELL_KNOWN_TCP.has(number) ? 'tcp' : protocol;
}

function annotation(resource: Resource, name: string): readonly string[] {
  const text = resource.annotations.get(name) ?? '';
  return text === '' ? [] : text.split(',').map((part) => part.trim());
}

/**
 * Service (v1) → the ServiceEntry it amounts to: MESH_INTERNAL, its endpoints the pods its selector matches.
 * UDP and SCTP ports are left out: they are no connections of ours.
 * @param resource its `spec` is the whole document
 * @returns null where it is no object; all faults are added to `problems`.
 */
export function decodeService(resource: Resource, problems: Problem[]): ServiceEntry | null {
  const reporter = new Reporter(resource, problems);
  const document = fields(resource.spec, [], reporter);
  if (document === undefined) return null;
  const spec = document.spec;
  const { name, namespace } = resource;
  const ports: ServicePort[] = [];
  const names = new Set<string>();
  (spec?.ports ?? []).forEach((item, i) => {
    const at = ['spec', 'ports', i];
    requireField(item, 'port', at, reporter);
    const portName = item.name ?? '';
    if (names.has(portName)) {
      const what =
        portName === '' ? 'a port among several needs a name' : `port name ${portName} is used twice`;
      reporter.report([...at, 'name'], portName === '' ? 'missing' : 'duplicate', what);
    }
    names.add(portName);
    if (item.port === undefined || (item.protocol !== undefined && item.protocol !== 'TCP')) return;
    ports.push({
      number: item.port,
      name: portName,
      protocol: protocolOfPort(item.port, item.appProtocol, portName),
      targetPort: typeof item.targetPort === 'number' ? item.targetPort : null,
      targetPortName: typeof item.targetPort === 'string' ? item.targetPort : null,
      tls: isTlsWord(wordOf(item.appProtocol, portName)),
    });
  });
  const externalName = spec?.type === 'ExternalName' ? (spec.externalName ?? null) : null;
  if (spec?.type === 'ExternalName') requireField(spec, 'externalName', ['spec'], reporter);
  const selector = spec?.selector ?? new Map<string, string>();
  // `None` and names are no addresses, so they claim none.
  const clusterIps = new Set([spec?.clusterIP ?? '', ...(spec?.clusterIPs ?? [])]);
  const headless = clusterIps.has('None');
  return {
    name,
    namespace,
    createdAt: resource.creationTimestamp,
    hosts: [`${name}.${namespace}.svc.${CLUSTER_DOMAIN}`],
    ports,
    addresses: externalName === null ? claimedAddresses([...clusterIps]) : [],
    location: externalName === null ? 'MESH_INTERNAL' : 'MESH_EXTERNAL',
    resolution: externalName !== null ? 'DNS' : headless ? 'HEADLESS' : 'STATIC',
    workloadSelector: selector.size === 0 ? null : selector,
    endpoints: [],
    exportTo: annotation(resource, 'networking.istio.io/exportTo'),
    subjectAltNames: annotation(resource, 'alpha.istio.io/canonical-serviceaccounts'),
    kubernetes: {
      externalName: externalName?.toLowerCase() ?? null,
      publishNotReady: spec?.publishNotReadyAddresses ?? false,
      serviceAccounts: annotation(resource, 'alpha.istio.io/kubernetes-serviceaccounts'),
    },
  };
}
