/** Puts what a user says of a container over what injection says, as Kubernetes' strategic merge patch would. */
import { isList, isObject, type Json, type JsonObject } from './json.ts';
import type { Named } from './pod.ts';

/** Field by which the items of a list are told apart (Kubernetes' patchMergeKey); lists without one are replaced. */
const KEYS: Readonly<Record<string, string>> = {
  env: 'name',
  ports: 'containerPort',
  volumeMounts: 'mountPath',
  volumeDevices: 'devicePath',
};

/** An image is needed in a manifest: this word stands for the injected one. */
const AUTO_IMAGE = 'auto';

/** @param user the container of the pod's own template; its fields win */
export function mergeContainer(injected: Named, user: Named): Named {
  const { image, ...rest } = user;
  const wish = image === AUTO_IMAGE || image === '' ? rest : user;
  return mergeObject(injected, wish) as Named;
}

function mergeObject(below: JsonObject, above: JsonObject): JsonObject {
  const merged: Record<string, Json | undefined> = { ...below };
  for (const [name, value] of Object.entries(above)) {
    const old = Object.hasOwn(merged, name) ? merged[name] : undefined;
    if (isObject(old) && isObject(value)) merged[name] = mergeObject(old, value);
    else if (isList(old) && isList(value)) merged[name] = mergeList(old, value, KEYS[name]);
    else if (value !== null) merged[name] = value;
  }
  return merged;
}

/** In one pass: whoever may create a pod says how long its lists are. */
function mergeList(below: readonly Json[], above: readonly Json[], key: string | undefined): readonly Json[] {
  if (key === undefined) return above;
  const merged = [...below];
  const places = new Map<Json | undefined, number>();
  merged.forEach((item, at) => {
    if (isObject(item) && !places.has(item[key])) places.set(item[key], at);
  });
  for (const item of above) {
    const at = isObject(item) ? places.get(item[key]) : undefined;
    if (at === undefined) {
      if (isObject(item)) places.set(item[key], merged.length);
      merged.push(item);
    }
    // A variable's value and where it comes from exclude each other: the user's stands alone.
    else merged[at] = key === 'name' ? item : mergeObject(merged[at] as JsonObject, item as JsonObject);
  }
  return merged;
}
