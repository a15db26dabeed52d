/** The container `istio-init`: sets the rules of capture in the pod's network namespace, and ends. */
import { captureOf } from './capture.ts';
import type { InjectConfig } from './inject-config.ts';
import { compact, type JsonObject } from './json.ts';
import { INIT_CONTAINER, type Named, type Pod } from './pod.ts';
import type { Settings } from './settings.ts';

/** Ids the sidecar runs under, which the rules exempt. */
export interface ProxyIds {
  readonly uid: number;
  readonly gid: number;
}

export const DEFAULT_IDS: ProxyIds = { uid: 1337, gid: 1337 };

/** Flags of `run` and of `iptables` by the same names. */
const PORTS: ReadonlySet<string> = new Set([
  'OARLOCK_OUTBOUND_PORT',
  'OARLOCK_INBOUND_PORT',
  'OARLOCK_HBONE_PORT',
]);

/** As Istio's init container: root, for only root keeps added capabilities, and of these but two. */
export function initContainer(pod: Pod, settings: Settings, config: InjectConfig, ids: ProxyIds): Named {
  return compact({
    name: INIT_CONTAINER,
    image: settings.image,
    imagePullPolicy: config.imagePullPolicy ?? undefined,
    args: ['iptables', ...captureFlags(pod.annotations, settings, config, ids)],
    env: environment(settings.env),
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
function captureFlags(
  annotations: Pod['annotations'],
  { statusPort }: Settings,
  config: InjectConfig,
  { uid, gid }: ProxyIds,
): readonly string[] {
  // Both: who names users alone means groups of the same numbers.
  const ids = uid === DEFAULT_IDS.uid && gid === DEFAULT_IDS.gid ? [] : [`--uid=${uid}`, `--gid=${gid}`];
  return [...ids, ...captureOf(annotations, statusPort, config).map(({ flag, value }) => `${flag}=${value}`)];
}

/** What the sidecar's environment says of the rules: what holds them, and the ports that both must agree on. */
function environment(env: Settings['env']): readonly JsonObject[] | undefined {
  const said = Object.entries(env)
    .filter(([name, value]) => name.startsWith('OARLOCK_IPTABLES_') || (PORTS.has(name) && value !== 'off'))
    .map(([name, value]) => ({ name, value }));
  return said.length === 0 ? undefined : said;
}
