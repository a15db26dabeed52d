/**
 * What a kubelet does with the containers that injection adds: one after the other, each on a root of its own with an
 * image's files, as the manifest's user with the manifest's rights, environment and volumes, and no other.
 */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { chownSync, cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BARE, BRIDGE, type Pod, PROXY_UID } from './pods.ts';
import { type PodMesh, PodSidecar } from './pods-mesh.ts';
import { until } from './wait.ts';

interface Container {
  readonly name: string;
  readonly args: readonly string[];
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly fieldRef?: { readonly fieldPath: string } };
  }[];
  readonly restartPolicy?: string;
  readonly startupProbe?: Probe;
  readonly readinessProbe?: Probe;
  readonly livenessProbe?: Probe;
  readonly volumeMounts?: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
  }[];
  readonly securityContext: {
    readonly runAsUser: number;
    readonly runAsGroup: number;
    readonly capabilities: { readonly add?: readonly string[]; readonly drop: readonly string[] };
    readonly allowPrivilegeEscalation: boolean;
    readonly readOnlyRootFilesystem: boolean;
  };
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: number };
}

interface Volume {
  readonly name: string;
  readonly emptyDir?: unknown;
  readonly configMap?: { readonly name: string };
  readonly projected?: unknown;
  readonly downwardAPI?: unknown;
}

/** A pod template, as injection leaves it. */
export interface Template {
  readonly metadata: {
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations: Readonly<Record<string, string>>;
  };
  readonly spec: {
    readonly serviceAccountName: string;
    readonly initContainers: readonly Container[];
    readonly containers: readonly Container[];
    readonly volumes: readonly Volume[];
  };
}

/** Has `oarlock inject` add to a Deployment what it adds. */
export function inject(mesh: PodMesh, deployment: string): Template {
  const [env, ...rest] = [...BARE, ...mesh.image.oarlock];
  const text = execFileSync(env, [...rest, 'inject', '-f', '-', '-o', 'json'], {
    input: deployment,
    encoding: 'utf8',
  });
  return (JSON.parse(text) as { spec: { template: Template } }).spec.template;
}

/** Runs the init containers of a pod to their end, and the sidecar until its startup probe is answered. */
export async function startInjected(mesh: PodMesh, pod: Pod, template: Template): Promise<PodSidecar> {
  let sidecar: PodSidecar | null = null;
  for (const container of template.spec.initContainers) {
    const child = startContainer(mesh, pod, template, container);
    const running = new PodSidecar(pod, child);
    mesh.t.teardown(() => running.kill());
    if (container.restartPolicy !== 'Always') {
      await running.exited;
      if (child.exitCode !== 0)
        throw new Error(`${container.name} ended with ${child.exitCode}: ${running.stderr.text}`);
      continue;
    }
    sidecar = running;
    await until(`${container.name}'s startup probe`, () => probe(mesh, pod, container.startupProbe));
  }
  if (sidecar === null) throw new Error('no sidecar was injected');
  return sidecar;
}

/** Asks as the kubelet does: from outside the pod, without a certificate. */
export async function probe(mesh: PodMesh, pod: Pod, asked: Probe | undefined): Promise<boolean> {
  if (asked === undefined) throw new Error('no such probe');
  const { path, port } = asked.httpGet;
  const url = `http://${pod.ipv4}:${port}${path}`;
  const { output } = await mesh.network.bridge.run([
    'curl',
    '--silent',
    '--output',
    '/dev/null',
    '--write-out',
    '%{http_code}',
    url,
  ]);
  return output === '200';
}

/**
 * Makes the root and becomes the container's process. Run by sh in the mount namespace that `ip netns exec` makes: none
 * of this is seen outside. Arguments: the root, the image's folder, `ro` or `rw`, then three words for each volume
 * (its folder or `tmpfs`, where it goes, `ro` or `rw`), `--`, and the command.
 */
const CONTAINER = `set -eu
root=$1 image=$2 mode=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs "$root"
for dir in bin sbin lib lib64 usr; do
  if [ -L "/$dir" ]; then cp -P "/$dir" "$root/$dir"
  elif [ -d "/$dir" ]; then mkdir "$root/$dir"; mount --bind "/$dir" "$root/$dir"; fi
done
mkdir -p "$root/proc" "$root/dev" "$root/etc" "$root/run" "$root/opt/oarlock"
mount --bind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$image" "$root/opt/oarlock"
cp /etc/resolv.conf /etc/hosts /etc/nsswitch.conf "$root/etc"
while [ "$1" != -- ]; do
  mkdir -p "$root$2"
  if [ "$1" = tmpfs ]; then mount -t tmpfs -o mode=777 tmpfs "$root$2"; else mount --bind "$1" "$root$2"; fi
  [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
  shift 3
done
shift
[ "$mode" = rw ] || mount -o remount,ro "$root"
exec chroot "$root" "$@"
`;

function startContainer(mesh: PodMesh, pod: Pod, template: Template, container: Container): ChildProcess {
  const { runAsUser, runAsGroup, capabilities, allowPrivilegeEscalation, readOnlyRootFilesystem } =
    container.securityContext;
  if (!capabilities.drop.includes('ALL')) throw new Error(`${container.name} keeps capabilities`);
  const kept = (capabilities.add ?? []).map((name) => `,+${name.toLowerCase()}`).join('');
  const user = [
    ...['setpriv', '--pdeathsig', 'KILL', `--reuid=${runAsUser}`, `--regid=${runAsGroup}`, '--clear-groups'],
    ...['--inh-caps=-all', `--bounding-set=-all${kept}`, ...(allowPrivilegeEscalation ? [] : ['--nnp'])],
  ];
  const root = join(mesh.dir, `root-${pod.name}-${container.name}`);
  mkdirSync(root);
  const volumes = (container.volumeMounts ?? []).flatMap(({ name, mountPath, readOnly = false }) => [
    folderOf(mesh, pod, template, name),
    mountPath,
    readOnly ? 'ro' : 'rw',
  ]);
  const mode = readOnlyRootFilesystem ? 'ro' : 'rw';
  const command = [...user, '--', '/opt/oarlock/node', '/opt/oarlock/dist/main.js', ...container.args];
  const env = Object.fromEntries(
    (container.env ?? []).map(({ name, value, valueFrom }) => [
      name,
      value ?? fieldOf(pod, template, valueFrom?.fieldRef?.fieldPath ?? ''),
    ]),
  );
  return pod.spawn(['sh', '-c', CONTAINER, 'sh', root, mesh.image.dir, mode, ...volumes, '--', ...command], {
    env,
  });
}

/** The downward API. */
function fieldOf(pod: Pod, { spec }: Template, path: string): string {
  const fields: Readonly<Record<string, string>> = {
    'metadata.name': pod.name,
    'metadata.namespace': 'shop',
    'spec.serviceAccountName': spec.serviceAccountName,
    'status.podIP': pod.ipv4,
    'status.podIPs': `${pod.ipv4},${pod.ipv6}`,
    'status.hostIP': BRIDGE.ipv4,
  };
  const value = fields[path];
  if (value === undefined) throw new Error(`the downward API has no ${path}`);
  return value;
}

/** The folder of a volume, filled as the API server would have it; `tmpfs` for an empty one. */
function folderOf(mesh: PodMesh, pod: Pod, { metadata, spec }: Template, name: string): string {
  const volume = spec.volumes.find((volume) => volume.name === name);
  if (volume === undefined) throw new Error(`no volume ${name}`);
  if (volume.emptyDir !== undefined) return 'tmpfs';
  const dir = join(mesh.dir, `volume-${pod.name}-${name}`);
  mkdirSync(dir, { recursive: true });
  if (volume.configMap?.name === 'oarlock-config') return mesh.config;
  if (volume.configMap?.name === 'istio-ca-root-cert') cpSync(mesh.caRoot(), join(dir, 'root-cert.pem'));
  else if (volume.projected !== undefined)
    cpSync(mesh.tokenFile(spec.serviceAccountName), join(dir, 'istio-token'));
  else if (volume.downwardAPI !== undefined) {
    for (const field of ['labels', 'annotations'] as const) {
      const lines = Object.entries(metadata[field]).map(
        ([key, value]) => `${key}=${JSON.stringify(value)}\n`,
      );
      writeFileSync(join(dir, field), lines.join(''));
    }
  } else throw new Error(`a volume of a kind that nobody expects: ${JSON.stringify(volume)}`);
  // Whose the containers' user is, as a kubelet has it for tokens.
  for (const file of ['', ...readdirSync(dir)]) chownSync(join(dir, file), PROXY_UID, PROXY_UID);
  return dir;
}
