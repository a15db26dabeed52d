/** Finds the pod templates in Kubernetes objects of all kinds, and injects them. */
import type { InjectConfig } from './inject-config.ts';
import { InjectError } from './inject-error.ts';
import { injectPod } from './inject-pod.ts';
import { isList, isObject, type Json, type JsonObject } from './json.ts';
import { nameOf, type Owner, ownerOfPod, textOf } from './owner.ts';

/** Where each kind has its template; a Pod is one. */
const TEMPLATES: Readonly<Record<string, readonly string[]>> = {
  Pod: [],
  Deployment: ['spec', 'template'],
  StatefulSet: ['spec', 'template'],
  DaemonSet: ['spec', 'template'],
  ReplicaSet: ['spec', 'template'],
  ReplicationController: ['spec', 'template'],
  Job: ['spec', 'template'],
  CronJob: ['spec', 'jobTemplate', 'spec', 'template'],
  /** OpenShift's. */
  DeploymentConfig: ['spec', 'template'],
};
/** Another group's kind may have the same name, and anything in it. */
const GROUPS: readonly string[] = ['', 'apps', 'batch', 'apps.openshift.io'];
/** Lists inside lists. */
const MAX_LIST_DEPTH = 4;

export interface InjectedObject {
  /** The very value given where nothing was to be done. */
  readonly value: Json;
  /** One line each, with kind and name before it. */
  readonly warnings: readonly string[];
}

/**
 * Injects what an object of any kind has for pod templates; kinds that have none stay as they are.
 * @param namespace of objects that name none
 * @throws InjectError that names the object
 */
export function injectObject(value: Json, namespace: string, config: InjectConfig): InjectedObject {
  return injectAt(value, namespace, config, 0);
}

function injectAt(value: Json, namespace: string, config: InjectConfig, depth: number): InjectedObject {
  if (!isObject(value)) return { value, warnings: [] };
  const kind = textOf(value.kind);
  if (kind.endsWith('List') && isList(value.items))
    return injectList(value, value.items, namespace, config, depth);
  const path = isKnown(value) ? TEMPLATES[kind] : undefined;
  if (path === undefined) return { value, warnings: [] };
  const metadata = isObject(value.metadata) ? value.metadata : {};
  const owner: Owner = {
    apiVersion: textOf(value.apiVersion),
    kind,
    name: nameOf(metadata),
    namespace: textOf(metadata.namespace) || namespace,
  };
  const label = `${kind} ${owner.namespace}/${textOf(metadata.name) || textOf(metadata.generateName)}`;
  try {
    const template = path.reduce<Json | undefined>((at, key) => (isObject(at) ? at[key] : undefined), value);
    const { pod, injected, warnings } = injectPod(
      template,
      path.join('.') || 'the object',
      (found) => (kind === 'Pod' ? ownerOfPod(found, owner.namespace) : owner),
      config,
    );
    return {
      value: injected ? (replaceAt(value, path, pod) as JsonObject) : value,
      warnings: warnings.map((warning) => `${label}: ${warning}`),
    };
  } catch (error) {
    if (error instanceof InjectError) throw new InjectError(`${label}: ${error.message}`);
    throw error;
  }
}

function injectList(
  list: JsonObject,
  items: readonly Json[],
  namespace: string,
  config: InjectConfig,
  depth: number,
): InjectedObject {
  if (depth >= MAX_LIST_DEPTH) throw new InjectError(`lists are nested more than ${MAX_LIST_DEPTH} deep`);
  const done = items.map((item) => injectAt(item, namespace, config, depth + 1));
  const warnings = done.flatMap((one) => one.warnings);
  if (done.every((one, i) => one.value === items[i])) return { value: list, warnings };
  return { value: { ...list, items: done.map((one) => one.value) }, warnings };
}

function isKnown({ apiVersion, kind }: JsonObject): boolean {
  const text = textOf(apiVersion);
  const group = text.includes('/') ? text.slice(0, text.indexOf('/')) : '';
  return Object.hasOwn(TEMPLATES, textOf(kind)) && GROUPS.includes(group);
}

function replaceAt(value: Json | undefined, path: readonly string[], leaf: Json): Json {
  const [key, ...rest] = path;
  if (key === undefined) return leaf;
  const object = isObject(value) ? value : {};
  return { ...object, [key]: replaceAt(object[key], rest, leaf) };
}
