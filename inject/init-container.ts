/** The container `istio-init`: sets the rules of capture in the pod's network namespace, and ends. */
import { names } from './annotations.ts';
import type { InjectConfig } from './inject-config.ts';
import { compact } from './json.ts';
import { INIT_CONTAINER, type Named, type Pod } from './pod.ts';
import type { Settings } from './settings.ts';

/** The flag of `oarlock iptables` that each annotation is. */
const FLAGS: readonly (readonly [annotation: string, flag: string])[] = [
  [names.includeOutboundRanges, '--include-outbound-cidrs'],
  [names.excludeOutboundRanges, '--exclude-outbound-cidrs'],
  [names.includeInboundPorts, '--include-inbound-ports'],
  [names.includeOutboundPorts, '--include-outbound-ports'],
  [names.excludeOutboundPorts, '--exclude-outbound-ports'],
  [names.excludeInterfaces, '--exclude-interfaces'],
];

/** Ids the sidecar runs under, which the rules exempt. */
export interface ProxyIds {
  readonly uid: number;
  readonly gid: number;
}

export const DEFAULT_IDS: ProxyIds = { uid: 1337, gid: 1337 };

/** As Istio's init container: root, for only root keeps added capabilities, and of these but two. */
export function initContainer(pod: Pod, settings: Settings, config: InjectConfig, ids: ProxyIds): Named {
  return compact({
    name: INIT_CONTAINER,
    image: settings.image,
    imagePullPolicy: config.imagePullPolicy ?? undefined,
    args: ['iptables', ...captureFlags(pod.annotations, settings, ids)],
    resources: settings.resources,
    securityContext: {
      allowPrivilegeEscalation: false,
      privileged: false,
      capabilities: { add: ['NET_ADMIN', 'NET_RAW'], drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsGroup: 0,
      runAsNonRoot: false,
      runAsUser: 0,
      seccompProfile: { type: 'RuntimeDefault' },
    },
  }) as Named;
}

/** What differs from the defaults of `oarlock iptables`, each as one argument: a value may be empty. */
function captureFlags(annotations: Pod['annotations'], settings: Settings, ids: ProxyIds): readonly string[] {
  const flags: string[] = [];
  const add = (flag: string, value: string | number | undefined): void => {
    if (value !== undefined) flags.push(`${flag}=${value}`);
  };
  // Both: who names users alone means groups of the same numbers.
  if (ids.uid !== DEFAULT_IDS.uid || ids.gid !== DEFAULT_IDS.gid) {
    add('--uid', ids.uid);
    add('--gid', ids.gid);
  }
  for (const [annotation, flag] of FLAGS) add(flag, list(annotations[annotation]));
  add('--exclude-inbound-ports', excludedInbound(annotations, settings));
  add(
    '--kubevirt-interfaces',
    list(annotations[names.virtualInterfaces] ?? annotations[names.kubevirtInterfaces]),
  );
  return flags;
}

/** The kubelet asks the status port in plaintext: another than the usual is excluded here, as Istio does. */
function excludedInbound(annotations: Pod['annotations'], { statusPort }: Settings): string | undefined {
  const given = list(annotations[names.excludeInboundPorts]);
  if (annotations[names.statusPort] === undefined || statusPort === 0) return given;
  const excluded = (given ?? '').split(',').filter((port) => port !== '');
  return excluded.includes(String(statusPort)) ? given : [...excluded, statusPort].join(',');
}

function list(text: string | undefined): string | undefined {
  return text
    ?.split(',')
    .map((part) => part.trim())
    .join(',');
}
