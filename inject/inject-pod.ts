/** Injection: a pod template in, the same with a sidecar out. */
import { names } from './annotations.ts';
import { checkBounds } from './bounds.ts';
import { DEFAULT_IDS, initContainer, type ProxyIds } from './init-container.ts';
import type { InjectConfig } from './inject-config.ts';
import { InjectError } from './inject-error.ts';
import { isList, isObject, type Json, type JsonObject } from './json.ts';
import { mergeContainer } from './merge-container.ts';
import { type Added, injectedAnnotations, injectedLabels } from './metadata.ts';
import { isNeeded } from './needed.ts';
import type { Owner } from './owner.ts';
import {
  canComplete,
  findContainer,
  INIT_CONTAINER,
  type Named,
  type Pod,
  PROXY_CONTAINER,
  readPod,
  writePod,
} from './pod.ts';
import { rewriteProbes } from './rewrite-probes.ts';
import { readSettings, type Settings } from './settings.ts';
import { sidecarContainer } from './sidecar-container.ts';
import { volumes } from './volumes.ts';

export interface Injected {
  /** The pod or template; the very object given where nothing was to be done. */
  readonly pod: JsonObject;
  readonly injected: boolean;
  /** Sentences for whoever wrote the manifest. */
  readonly warnings: readonly string[];
}

const PROBERS = 'ISTIO_KUBE_APP_PROBERS';

/**
 * Adds the sidecar to a pod or pod template, by Istio's rules (pkg/kube/inject/webhook.go, injectPod). Done to its own
 * result it changes nothing.
 * @param value an object with `metadata` and `spec`
 * @param at how errors name it, as `spec.template`
 * @param ownerOf whom it belongs to
 * @throws InjectError where a field has another shape than Kubernetes gives it, or an annotation a value that Istio's
 * injector refuses as well
 */
export function injectPod(
  value: Json | undefined,
  at: string,
  ownerOf: (pod: Pod) => Owner,
  config: InjectConfig,
): Injected {
  const pod = readPod(value, at);
  const original = value as JsonObject;
  const owner = ownerOf(pod);
  const verdict = isNeeded(pod, owner.namespace, config);
  if (!verdict.inject) {
    const { reason, warn } = verdict;
    return { pod: original, injected: false, warnings: warn ? [`not injected: ${reason}`] : [] };
  }
  checkBounds(pod, at);
  const settings = readSettings(pod, config);
  const { pod: withSidecar, warnings } = addSidecar(pod, owner, settings, config);
  return {
    pod: writePod(withSidecar, original),
    injected: true,
    warnings: [...verdict.warnings, ...settings.warnings, ...jobWarnings(pod, settings), ...warnings],
  };
}

function addSidecar(
  pod: Pod,
  owner: Owner,
  settings: Settings,
  config: InjectConfig,
): { readonly pod: Pod; readonly warnings: readonly string[] } {
  const labels = injectedLabels(pod, owner, settings);
  const users = { sidecar: findContainer(pod, PROXY_CONTAINER), init: findContainer(pod, INIT_CONTAINER) };
  const { spec, probers, warnings } = rewriteProbes(pod.spec, {
    annotations: config.rewriteProbes
      ? pod.annotations
      : { [names.rewriteProbes]: 'false', ...pod.annotations },
    statusPort: settings.statusPort,
    probers: null,
  });
  const rewritten = readPod({ metadata: pod.metadata, spec: spec as JsonObject }, 'the pod');
  const plain = withEnv(sidecarContainer(pod, labels, settings, config), PROBERS, probers);
  const sidecar = users.sidecar === undefined ? plain : mergeContainer(plain, users.sidecar);
  const ids = idsOf(sidecar);
  const added = [...volumes(config), ...settings.userVolumes];
  const init = settings.redirect && !config.cni ? [initOf(pod, settings, config, ids, users.init)] : [];
  const secrets = config.imagePullSecrets;
  const what: Added = {
    initContainers: settings.native ? [...init, sidecar] : init,
    containers: settings.native ? [] : [sidecar],
    volumes: added,
    imagePullSecrets: secrets,
  };
  return {
    pod: {
      ...rewritten,
      ...arrange(rewritten, init, sidecar, settings),
      labels,
      annotations: injectedAnnotations(pod, what, settings, config),
      volumes: withVolumes(pod.volumes, added),
      spec:
        secrets.length === 0
          ? rewritten.spec
          : { ...rewritten.spec, imagePullSecrets: withSecrets(pod, secrets) },
    },
    warnings: [...warnings, ...(settings.redirect ? bypassWarnings(pod, ids) : [])],
  };
}

/** The user's container of that name wins, but for the id whose traffic is exempt: that is the sidecar's. */
function initOf(
  pod: Pod,
  settings: Settings,
  config: InjectConfig,
  ids: ProxyIds,
  users: Named | undefined,
): Named {
  const init = initContainer(pod, settings, config, ids);
  return users === undefined ? init : mergeContainer(init, users);
}

/** Who runs as another user must be exempt as that one, or its own connections would come back to it. */
function idsOf(sidecar: Named): ProxyIds {
  const context = isObject(sidecar.securityContext) ? sidecar.securityContext : {};
  const id = (value: Json | undefined, otherwise: number): number =>
    typeof value === 'number' && value > 0 ? value : otherwise;
  return { uid: id(context.runAsUser, DEFAULT_IDS.uid), gid: id(context.runAsGroup, DEFAULT_IDS.gid) };
}

/** Connections of these ids are taken for the sidecar's own (Istio's IST0144). */
function bypassWarnings({ containers, initContainers, spec }: Pod, ids: ProxyIds): readonly string[] {
  const ofPod = isObject(spec.securityContext) ? spec.securityContext : {};
  return [...initContainers, ...containers]
    .filter(({ name }) => name !== PROXY_CONTAINER && name !== INIT_CONTAINER)
    .flatMap(({ name, securityContext }) => {
      const { runAsUser, runAsGroup } = { ...ofPod, ...(isObject(securityContext) ? securityContext : {}) };
      const same = [
        ...(runAsUser === ids.uid ? [`user ${ids.uid}`] : []),
        ...(runAsGroup === ids.gid ? [`group ${ids.gid}`] : []),
      ];
      if (same.length === 0) return [];
      const whom = same.join(' and ');
      return [`container ${name} runs as ${whom}, which is the sidecar's: its connections go past the mesh`];
    });
}

/**
 * A native sidecar is the first but for the rules, so that the app's own init containers have the mesh. Another comes
 * last, or first where the app is to wait for it; its rules come last, or init containers would be cut off.
 */
function arrange(
  pod: Pod,
  init: readonly Named[],
  sidecar: Named,
  { native, hold }: Settings,
): Pick<Pod, 'containers' | 'initContainers'> {
  const others = (list: readonly Named[]): readonly Named[] =>
    list.filter(({ name }) => name !== PROXY_CONTAINER && (name !== INIT_CONTAINER || init.length === 0));
  const containers = others(pod.containers);
  const initContainers = others(pod.initContainers);
  if (native) return { containers, initContainers: [...init, sidecar, ...initContainers] };
  return {
    containers: hold ? [sidecar, ...containers] : [...containers, sidecar],
    initContainers: [...initContainers, ...init],
  };
}

/** Before the user's own, which may have a say in what has the same name. */
function withEnv(container: Named, name: string, value: string | null): Named {
  if (value === null || !isList(container.env)) return container;
  return { ...container, env: [...container.env, { name, value }] };
}

/** A volume that the pod has under one of our names is the user's word. */
function withVolumes(own: readonly Named[], added: readonly Named[]): readonly Named[] {
  const has = new Set(own.map(({ name }) => name));
  return [...own, ...added.filter(({ name }) => !has.has(name))];
}

function withSecrets(pod: Pod, secrets: readonly string[]): readonly Json[] {
  const own = pod.spec.imagePullSecrets ?? [];
  if (!isList(own)) throw new InjectError('spec.imagePullSecrets must be a list');
  const has = (name: string): boolean => own.some((secret) => isObject(secret) && secret.name === name);
  return [...own, ...secrets.filter((name) => !has(name)).map((name) => ({ name }))];
}

/** A pod that is to end does so when all its containers have: a sidecar among them must see the app's end. */
function jobWarnings({ spec }: Pod, { native, exitWithApp, hold }: Settings): readonly string[] {
  if (native || !canComplete(spec)) return [];
  if (!exitWithApp) {
    return [
      'the pod will not complete by itself, for the sidecar does not see its app: let it be native, ' +
        'or set shareProcessNamespace: true, or have the app send POST http://127.0.0.1:15020/quitquitquit',
    ];
  }
  return [
    ...(hold
      ? []
      : [
          'the pod will not complete if its app ends before the sidecar has started: ' +
            'leave out holdApplicationUntilProxyStarts: false',
        ]),
    ...(spec.restartPolicy === 'Never'
      ? []
      : [
          'the sidecar leaves with its app, and an app that failed is started again without it: ' +
            'set restartPolicy: Never',
        ]),
  ];
}
