/** The difference between two JSON values as JSON Patch operations (RFC 6902): few, and each as deep as can be. */
import { isList, isObject, type Json, type JsonObject } from './json.ts';

export type PatchOperation =
  | { readonly op: 'add' | 'replace'; readonly path: string; readonly value: Json }
  | { readonly op: 'remove'; readonly path: string };

/** Keys and positions from the root. */
export type PatchPath = readonly (string | number)[];

/** An operation before its path is written down. */
export type PatchStep =
  | { readonly op: 'add' | 'replace'; readonly at: PatchPath; readonly value: Json }
  | { readonly op: 'remove'; readonly at: PatchPath };

/** What turns `before` into `after`, to be done in this order. */
export function patchSteps(before: Json, after: Json): readonly PatchStep[] {
  const steps: PatchStep[] = [];
  diff(before, after, [], steps);
  return steps;
}

/** The same in the form that travels. */
export function jsonPatch(before: Json, after: Json): readonly PatchOperation[] {
  return patchSteps(before, after).map((step) => {
    const path = step.at.map((key) => `/${String(key).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
    return step.op === 'remove' ? { op: step.op, path } : { op: step.op, path, value: step.value };
  });
}

function diff(before: Json, after: Json, at: PatchPath, steps: PatchStep[]): void {
  if (before === after) return;
  // What is the same inside gives no step: to compare it first, level by level, would cost the depth squared.
  if (isObject(before) && isObject(after)) diffObject(before, after, at, steps);
  else if (isList(before) && isList(after)) diffList(before, after, at, steps);
  else steps.push({ op: 'replace', at, value: after });
}

function diffObject(before: JsonObject, after: JsonObject, at: PatchPath, steps: PatchStep[]): void {
  for (const key of Object.keys(before)) {
    if (before[key] !== undefined && after[key] === undefined) steps.push({ op: 'remove', at: [...at, key] });
  }
  for (const [key, value] of Object.entries(after)) {
    if (value === undefined) continue;
    const old = before[key];
    if (old === undefined) steps.push({ op: 'add', at: [...at, key], value });
    else diff(old, value, [...at, key], steps);
  }
}

/** Lists of named things, such as containers, are told apart by name; others by position. */
function diffList(before: readonly Json[], after: readonly Json[], at: PatchPath, steps: PatchStep[]): void {
  const oldNames = namesOf(before);
  const newNames = namesOf(after);
  if (oldNames === null || newNames === null) {
    diffByPosition(before, after, at, steps);
    return;
  }
  const [isOld, isNew] = [new Set(oldNames), new Set(newNames)];
  const names = [...oldNames];
  const values = [...before];
  for (let i = names.length - 1; i >= 0; i--) {
    if (isNew.has(names[i] ?? '')) continue;
    names.splice(i, 1);
    values.splice(i, 1);
    steps.push({ op: 'remove', at: [...at, i] });
  }
  newNames.forEach((name, i) => {
    const value = after[i] ?? null;
    const old = values[i];
    if (names[i] === name && old !== undefined) {
      diff(old, value, [...at, i], steps);
      return;
    }
    const from = isOld.has(name) ? names.indexOf(name) : -1;
    if (from >= 0) {
      names.splice(from, 1);
      values.splice(from, 1);
      steps.push({ op: 'remove', at: [...at, from] });
    }
    names.splice(i, 0, name);
    values.splice(i, 0, value);
    steps.push({ op: 'add', at: [...at, i], value });
  });
}

function diffByPosition(
  before: readonly Json[],
  after: readonly Json[],
  at: PatchPath,
  steps: PatchStep[],
): void {
  for (let i = before.length - 1; i >= after.length; i--) steps.push({ op: 'remove', at: [...at, i] });
  after.forEach((value, i) => {
    const old = before[i];
    if (old === undefined) steps.push({ op: 'add', at: [...at, i], value });
    else diff(old, value, [...at, i], steps);
  });
}

/** Null where one has no name, or two have the same. */
function namesOf(list: readonly Json[]): readonly string[] | null {
  const names = list.map((item) => (isObject(item) ? item.name : undefined));
  if (!names.every((name) => typeof name === 'string')) return null;
  return new Set(names).size === names.length ? names : null;
}
