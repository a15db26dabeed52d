/** Whom a pod belongs to: the Deployment, Job or other workload that its names in the mesh come from. */
import { isList, isObject, type JsonObject } from './json.ts';
import type { Pod } from './pod.ts';

export interface Owner {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  /** `''`: not said. */
  readonly namespace: string;
}

/** A CronJob names its Jobs NAME-MINUTES; 8 to 10 digits, as Istio takes them. */
const JOB_OF_CRON_JOB = /^(.+)-\d{8,10}$/;

/**
 * The workload whose controller made a pod, by Istio's rules (pkg/kube/util.go, GetDeployMetaFromPod): a ReplicaSet's
 * name without the template's hash is a Deployment's, a Job's without its time a CronJob's.
 */
export function ownerOfPod(pod: Pod, namespace: string): Owner {
  const { metadata, labels } = pod;
  const own: Owner = { apiVersion: 'v1', kind: 'Pod', name: nameOf(metadata), namespace };
  const controller = controllerOf(metadata);
  if (textOf(metadata.generateName) === '' || controller === null) return own;
  const apiVersion = textOf(controller.apiVersion);
  const kind = textOf(controller.kind);
  const name = textOf(controller.name);
  const hash = labels['pod-template-hash'];
  if (kind === 'ReplicaSet' && hash && name.endsWith(`-${hash}`)) {
    return { apiVersion, kind: 'Deployment', name: name.slice(0, -hash.length - 1), namespace };
  }
  const cronJob = kind === 'Job' ? JOB_OF_CRON_JOB.exec(name)?.[1] : undefined;
  if (cronJob !== undefined) return { apiVersion: 'batch/v1', kind: 'CronJob', name: cronJob, namespace };
  return { apiVersion, kind, name, namespace };
}

function controllerOf(metadata: JsonObject): JsonObject | null {
  const references = isList(metadata.ownerReferences) ? metadata.ownerReferences : [];
  return references.filter(isObject).find((reference) => reference.controller === true) ?? null;
}

/** An object's name, or what the API server is to make one of. */
export function nameOf({ name, generateName }: JsonObject): string {
  return textOf(name) || textOf(generateName).replace(/-$/, '');
}

export function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
