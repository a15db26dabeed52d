/** The container `istio-proxy`: the sidecar itself. */
import { ports } from '../mesh/ports.ts';
import { names } from './annotations.ts';
import { DEFAULT_IDS } from './init-container.ts';
import type { InjectConfig } from './inject-config.ts';
import { compact, isList, type Json, type JsonObject } from './json.ts';
import { type Named, type Pod, PROXY_CONTAINER } from './pod.ts';
import type { Settings } from './settings.ts';
import { files, paths, volumeMounts } from './volumes.ts';

/** Sizes are Istio's (values.yaml): ready is asked for each second for ten minutes, then each 15 s. */
const STARTUP_FAILURES = 600;
const READY_PERIOD_S = '15';
const READY_FAILURES = '4';
const PROBE_TIMEOUT_S = 3;
/** Kubernetes' default of terminationGracePeriodSeconds. */
const GRACE_S = 30;
/** What we keep of the grace period for our own end. */
const END_S = 2;
/** Until every kube-proxy and peer has heard that the pod ends. */
const DRAIN_DELAY_S = 5;

/** @param labels the pod's, with those that injection adds */
export function sidecarContainer(
  pod: Pod,
  labels: Pod['labels'],
  settings: Settings,
  config: InjectConfig,
): Named {
  const { native, statusPort } = settings;
  return compact({
    name: PROXY_CONTAINER,
    image: settings.image,
    imagePullPolicy: config.imagePullPolicy ?? undefined,
    restartPolicy: native ? 'Always' : undefined,
    args: ['run'],
    ports:
      statusPort === 0
        ? undefined
        : [{ name: 'http-envoy-prom', containerPort: statusPort, protocol: 'TCP' }],
    env: environment(pod, labels, settings, config),
    lifecycle: lifecycle(settings),
    ...(statusPort === 0 ? {} : probes(pod.annotations)),
    resources: settings.resources,
    securityContext: {
      allowPrivilegeEscalation: false,
      privileged: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsGroup: DEFAULT_IDS.gid,
      runAsNonRoot: true,
      runAsUser: DEFAULT_IDS.uid,
      seccompProfile: { type: 'RuntimeDefault' },
    },
    volumeMounts: [...volumeMounts, ...settings.userVolumeMounts],
  }) as Named;
}

/**
 * The kubelet calls every container's preStop as soon as a pod is to end, a native sidecar's too, which it tells to stop
 * only when the app is gone: callers hear of it while the app still serves. Beside the app, SIGTERM says the same.
 */
function lifecycle({ hold, native, statusPort }: Settings): JsonObject | undefined {
  const exec = (...command: string[]): JsonObject => ({ exec: { command: ['oarlock', ...command] } });
  const drain = `http://127.0.0.1:${statusPort}/drain`;
  const hooks = compact({
    postStart: hold ? exec('wait') : undefined,
    preStop: native && statusPort !== 0 ? exec('probe', drain, '--method', 'POST') : undefined,
  });
  return Object.keys(hooks).length === 0 ? undefined : hooks;
}

function probes(annotations: Pod['annotations']): JsonObject {
  const httpGet = { path: '/healthz/ready', port: ports.health };
  const number = (name: string, otherwise: string): number => Number(annotations[name] ?? otherwise);
  const delay = number(names.readinessInitialDelay, '0');
  return {
    startupProbe: {
      httpGet,
      periodSeconds: 1,
      timeoutSeconds: PROBE_TIMEOUT_S,
      failureThreshold: STARTUP_FAILURES,
    },
    readinessProbe: {
      httpGet,
      ...(delay === 0 ? {} : { initialDelaySeconds: delay }),
      periodSeconds: number(names.readinessPeriod, READY_PERIOD_S),
      timeoutSeconds: PROBE_TIMEOUT_S,
      failureThreshold: number(names.readinessFailures, READY_FAILURES),
    },
  };
}

function environment(
  pod: Pod,
  labels: Pod['labels'],
  settings: Settings,
  config: InjectConfig,
): readonly JsonObject[] {
  const fromPod = (fieldPath: string): JsonObject => ({ valueFrom: { fieldRef: { fieldPath } } });
  const { statusPort, concurrency } = settings;
  const all: Record<string, JsonObject | string | undefined> = {
    OARLOCK_CONFIG: paths.config,
    CA_ADDR: config.caAddress,
    CA_ROOT_CA: files.root,
    OARLOCK_TOKEN: files.token,
    POD_NAME: fromPod('metadata.name'),
    POD_NAMESPACE: fromPod('metadata.namespace'),
    INSTANCE_IP: fromPod('status.podIP'),
    INSTANCE_IPS: fromPod('status.podIPs'),
    SERVICE_ACCOUNT: fromPod('spec.serviceAccountName'),
    HOST_IP: fromPod('status.hostIP'),
    ISTIO_META_LABELS: JSON.stringify(labels),
    OARLOCK_LABELS_FILE: files.labels,
    ISTIO_META_POD_PORTS: JSON.stringify(appPorts(pod)),
    TRUST_DOMAIN: config.trustDomain,
    ISTIO_META_CLUSTER_ID: config.clusterId,
    ISTIO_META_INTERCEPTION_MODE: settings.redirect ? 'REDIRECT' : 'NONE',
    OARLOCK_INTERCEPT: settings.redirect ? 'redirect' : 'none',
    OARLOCK_LOG_LEVEL: settings.logLevel,
    OARLOCK_METRICS_PORT: statusPort === ports.metrics ? undefined : metricsPort(statusPort),
    OARLOCK_CONCURRENCY: concurrency === null ? undefined : String(concurrency),
    ...drain(pod, settings),
    OARLOCK_EXIT_WITH_APP: settings.exitWithApp ? 'all' : undefined,
    // Last: who sets one of ours means it.
    ...settings.env,
  };
  return Object.entries(all)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => (typeof value === 'string' ? { name, value } : { name, ...value }));
}

/** A Service may name a container's port; a native sidecar's of the app count too. */
function appPorts({ containers, initContainers }: Pod): readonly Json[] {
  const stays = initContainers.filter(({ restartPolicy }) => restartPolicy === 'Always');
  return [...stays, ...containers]
    .filter(({ name }) => name !== PROXY_CONTAINER)
    .flatMap(({ ports: list }) => (isList(list) ? list : []));
}

function metricsPort(statusPort: number): string {
  return statusPort === 0 ? 'off' : String(statusPort);
}

/**
 * How the sidecar ends within the pod's grace period. Beside the app it is told at the same moment as the app, so it
 * serves on while the news of the pod's end spreads, and then carries the app's connections for as long as there is
 * time; it ends sooner where there are none. A native one is told when the app is gone.
 */
function drain(pod: Pod, settings: Settings): Readonly<Record<string, string>> {
  const { terminationGracePeriodSeconds: given } = pod.spec;
  const grace = typeof given === 'number' && given >= 0 ? given : GRACE_S;
  const delay = settings.native ? 0 : Math.min(DRAIN_DELAY_S, Math.floor(grace / 4));
  const rest = Math.max(1, grace - delay - END_S) * 1_000;
  const asked = settings.terminationDrainMs ?? (settings.native ? null : rest);
  return {
    ...(delay === 0 ? {} : { OARLOCK_DRAIN_DELAY: `${delay}s` }),
    ...(asked === null ? {} : { OARLOCK_DRAIN: `${Math.min(asked, rest)}ms` }),
  };
}
