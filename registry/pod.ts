/** Pod (Kubernetes): a workload with its labels, account, addresses and named ports, and whether it serves. */
import { isIP } from 'node:net';
import type { Problem, Resource } from '../mesh/resource.ts';
import { boolean, enumOf, listOf, object, portNumber, Reporter, string } from '../mesh/schema.ts';
import type { Workload } from '../mesh/workload.ts';
import { stringThat } from './checks.ts';
import { kubeObject, kubeTop } from './kube-schema.ts';
import { inboundCaptureOf } from './uncaptured.ts';

export interface Pod {
  readonly workload: Workload;
  /** Its containers have ended: its address is no longer its own. */
  readonly finished: boolean;
  /** It has an address and is neither finished nor being deleted (Istio: shouldPodBeInEndpoints). */
  readonly published: boolean;
  /** Published and, where its status tells, ready. */
  readonly ready: boolean;
  /** Its address is the node's, which others share. */
  readonly hostNetwork: boolean;
}

const CONTAINER_FIELDS =
  'name image command args workingDir envFrom env resources resizePolicy restartPolicyRules volumeMounts ' +
  'volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath ' +
  'terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty';

const container = kubeObject(
  {
    ports: listOf(
      kubeObject(
        { name: string, containerPort: portNumber, protocol: enumOf('TCP', 'UDP', 'SCTP') },
        'hostPort hostIP',
      ),
    ),
    restartPolicy: string,
  },
  CONTAINER_FIELDS,
);

const POD_SPEC_FIELDS =
  'volumes ephemeralContainers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy ' +
  'nodeSelector serviceAccount automountServiceAccountToken nodeName hostPID hostIPC shareProcessNamespace ' +
  'securityContext imagePullSecrets hostname subdomain affinity schedulerName tolerations hostAliases ' +
  'priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks preemptionPolicy ' +
  'overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates resourceClaims resources ' +
  'hostnameOverride';

const STATUS_FIELDS =
  'observedGeneration message reason nominatedNodeName hostIP hostIPs startTime initContainerStatuses ' +
  'containerStatuses qosClass ephemeralContainerStatuses resize resourceClaimStatuses';

const ip = stringThat((text) => isIP(text) !== 0, 'an IP address');

const fields = object({
  ...kubeTop,
  spec: kubeObject(
    {
      serviceAccountName: string,
      containers: listOf(container),
      initContainers: listOf(container),
      hostNetwork: boolean,
    },
    POD_SPEC_FIELDS,
  ),
  status: kubeObject(
    {
      podIP: ip,
      podIPs: listOf(object({ ip })),
      phase: enumOf('Pending', 'Running', 'Succeeded', 'Failed', 'Unknown'),
      conditions: listOf(
        kubeObject(
          { type: string, status: string },
          'lastProbeTime lastTransitionTime reason message observedGeneration',
        ),
      ),
    },
    STATUS_FIELDS,
  ),
});

type Container = {
  readonly ports:
    | readonly {
        readonly name: string | undefined;
        readonly containerPort: number | undefined;
        readonly protocol: string | undefined;
      }[]
    | undefined;
};

/** Set by Istio's CNI once it has set the redirection up (Istio: AmbientRedirection). */
const AMBIENT_ANNOTATION = 'ambient.istio.io/redirection';

/** "First port wins": names of TCP ports, numbers of those without one, sidecars among the init containers last (Istio: getPortMap). */
function namedPorts(containers: readonly Container[]): ReadonlyMap<string, number> {
  const ports = new Map<string, number>();
  for (const { ports: list } of containers) {
    for (const { name, containerPort, protocol = 'TCP' } of list ?? []) {
      if (containerPort === undefined || protocol !== 'TCP') continue;
      // A port's name has a letter in it: a number in its place is no service's target name.
      const key = name || String(containerPort);
      if (!ports.has(key)) ports.set(key, containerPort);
    }
  }
  return ports;
}

/**
 * Pod (v1) → Pod. Its account is `default` where none is named, as Kubernetes fills in. Without `status.conditions`
 * a pod with an address counts as ready.
 * @param resource its `spec` is the whole document
 * @returns null where it is no object; all faults are added to `problems`.
 */
export function decodePod(resource: Resource, problems: Problem[]): Pod | null {
  const reporter = new Reporter(resource, problems);
  const document = fields(resource.spec, [], reporter);
  if (document === undefined) return null;
  const { spec, status } = document;
  const sidecars = (spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === 'Always');
  const addresses = new Set((status?.podIPs ?? []).flatMap((item) => item.ip ?? []));
  const first = status?.podIP;
  const metadata = document.metadata as { deletionTimestamp?: unknown } | undefined;
  const finished = status?.phase === 'Succeeded' || status?.phase === 'Failed';
  const ips = first === undefined ? [...addresses] : [...new Set([first, ...addresses])];
  const published = ips.length > 0 && !finished && !metadata?.deletionTimestamp;
  const conditions = status?.conditions;
  const inboundCapture = inboundCaptureOf(resource.annotations);
  const ready = conditions === undefined ? status?.phase !== 'Pending' : conditions.some(isReady);
  return {
    workload: {
      kind: 'Pod',
      name: resource.name,
      namespace: resource.namespace,
      labels: resource.labels,
      serviceAccount: spec?.serviceAccountName || 'default',
      addresses: ips,
      ports: namedPorts([...(spec?.containers ?? []), ...sidecars]),
      ambient: resource.annotations.get(AMBIENT_ANNOTATION) === 'enabled',
      ...(inboundCapture === undefined ? {} : { inboundCapture }),
      weight: 1,
    },
    finished,
    published,
    ready: published && ready,
    hostNetwork: spec?.hostNetwork ?? false,
  };
}

function isReady({ type, status }: { type: string | undefined; status: string | undefined }): boolean {
  return type === 'Ready' && status === 'True';
}
