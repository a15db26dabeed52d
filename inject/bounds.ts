/** How large a pod may be: mutating webhooks see it before Kubernetes checks it, and all who create pods wait for us. */
import { InjectError } from './inject-error.ts';
import { isList, type Json } from './json.ts';
import type { Pod } from './pod.ts';

/** Kubernetes' own (TotalAnnotationSizeLimitB). */
const MAX_ANNOTATION_BYTES = 256 * 1024;
/** Of containers, init containers or volumes: many times what a node can run. */
const MAX_ITEMS = 1_000;
/** Kubernetes' schema of a pod is less than twenty deep. */
const MAX_DEPTH = 64;

/**
 * @param at how errors name the pod
 * @throws InjectError for a pod that no cluster could run, and that would take long to read or patch
 */
export function checkBounds(pod: Pod, at: string): void {
  for (const list of ['containers', 'initContainers', 'volumes'] as const) {
    const count = pod[list].length;
    if (count > MAX_ITEMS) {
      throw new InjectError(`${at}.spec.${list} has ${count} items, more than ${MAX_ITEMS}`);
    }
  }
  let bytes = 0;
  for (const [name, text] of Object.entries(pod.annotations)) bytes += name.length + text.length;
  if (bytes > MAX_ANNOTATION_BYTES) {
    throw new InjectError(
      `${at}.metadata.annotations have ${bytes} characters, more than ${MAX_ANNOTATION_BYTES}`,
    );
  }
  if (isDeeper(pod.spec, MAX_DEPTH))
    throw new InjectError(`${at}.spec is more than ${MAX_DEPTH} levels deep`);
}

/** Level by level: recursion would end at the stack's depth, which is not ours to know. */
function isDeeper(value: Json, most: number): boolean {
  let level: readonly Json[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > most) return true;
    level = level.flatMap(inside);
  }
  return false;
}

function inside(value: Json): readonly Json[] {
  if (typeof value !== 'object' || value === null) return [];
  const parts: readonly (Json | undefined)[] = isList(value) ? value : Object.values(value);
  return parts.filter((part): part is Json => typeof part === 'object' && part !== null);
}
