/** A small set of decoders that check a resource's fields by Istio's schema and report every problem they meet. */
import type { FieldPath, Problem, Resource, Severity } from './resource.ts';

/** Stable codes of what can be wrong with a document or a field. */
export const problemCodes = {
  unreadable: 'OLK0101',
  unknownKind: 'OLK0102',
  unknownField: 'OLK0103',
  wrongType: 'OLK0104',
  badEnum: 'OLK0105',
  missing: 'OLK0106',
  unsupported: 'OLK0107',
  badValue: 'OLK0108',
  duplicate: 'OLK0109',
  notHonoured: 'OLK0110',
} as const;

export type ProblemCode = keyof typeof problemCodes;

/** Collects the problems of one resource. */
export class Reporter {
  readonly resource: Resource;
  readonly problems: Problem[];

  constructor(resource: Resource, problems: Problem[]) {
    this.resource = resource;
    this.problems = problems;
  }

  /** Adds a problem at `path` (from the document's root, e.g. `['spec','rules',0]`). */
  report(path: FieldPath, code: ProblemCode, message: string, severity: Severity = 'Error'): void {
    const { kind, namespace, name, origin } = this.resource;
    this.problems.push({
      code: problemCodes[code],
      severity,
      resource: `${kind}/${namespace}/${name}`,
      file: origin.file,
      line: origin.lineOf(path),
      field: fieldName(path),
      message,
    });
  }
}

/** `['spec','rules',0,'from']` → `spec.rules[0].from` */
export function fieldName(path: FieldPath): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += text === '' ? part : `.${part}`;
  }
  return text;
}

/** Turns an unchecked value into a `T`; undefined after it has reported why not. */
export type Decoder<T> = (value: unknown, path: FieldPath, reporter: Reporter) => T | undefined;

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function wrongType(expected: string, value: unknown, path: FieldPath, reporter: Reporter): undefined {
  reporter.report(path, 'wrongType', `must be ${expected}, not ${kindOf(value)}`);
  return undefined;
}

export const string: Decoder<string> = (value, path, reporter) =>
  typeof value === 'string' ? value : wrongType('a string', value, path, reporter);

export const boolean: Decoder<boolean> = (value, path, reporter) =>
  typeof value === 'boolean' ? value : wrongType('true or false', value, path, reporter);

/** Any value, unread: for fields accepted but not looked at. */
export const anything: Decoder<unknown> = (value) => value;

export function integer(min: number, max: number): Decoder<number> {
  return (value, path, reporter) => {
    if (typeof value !== 'number' || !Number.isInteger(value)) {
      return wrongType('a whole number', value, path, reporter);
    }
    if (value >= min && value <= max) return value;
    reporter.report(path, 'badValue', `must be from ${min} to ${max}, not ${value}`);
    return undefined;
  };
}

export const portNumber = integer(1, 65535);

export function enumOf<const T extends string>(...names: readonly T[]): Decoder<T> {
  return (value, path, reporter) => {
    for (const name of names) if (value === name) return name;
    reporter.report(path, 'badEnum', `must be one of ${names.join(', ')}, not ${JSON.stringify(value)}`);
    return undefined;
  };
}

/** A list; members that fail are left out after their problem is reported. Null counts as empty, as in protobuf JSON. */
export function listOf<T>(member: Decoder<T>): Decoder<readonly T[]> {
  return (value, path, reporter) => {
    if (value === null) return [];
    if (!Array.isArray(value)) return wrongType('a list', value, path, reporter);
    const list: T[] = [];
    value.forEach((item, i) => {
      const decoded = member(item, [...path, i], reporter);
      if (decoded !== undefined) list.push(decoded);
    });
    return list;
  };
}

/** An object of JSON or YAML: no list and no null. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An object with free keys. */
export function mapOf<T>(member: Decoder<T>): Decoder<ReadonlyMap<string, T>> {
  return (value, path, reporter) => {
    if (value === null) return new Map();
    if (!isObject(value)) {
      return wrongType('an object', value, path, reporter);
    }
    const map = new Map<string, T>();
    for (const [key, item] of Object.entries(value)) {
      // The API server drops null values of a map.
      if (item === null) continue;
      const decoded = member(item, [...path, key], reporter);
      if (decoded !== undefined) map.set(key, decoded);
    }
    return map;
  };
}

/** A field of the schema that this build cannot honour: an error, never ignored. */
export function unsupported(what: string): Decoder<never> {
  return (_value, path, reporter) => {
    reporter.report(path, 'unsupported', `${what} is not supported yet; remove it`);
    return undefined;
  };
}

/** A field accepted without effect: a warning. */
export function notHonoured(why: string): Decoder<unknown> {
  return (value, path, reporter) => {
    reporter.report(path, 'notHonoured', `accepted but not honoured: ${why}`, 'Warning');
    return value;
  };
}

type Decoded<S extends Record<string, Decoder<unknown>>> = {
  readonly [K in keyof S]: S[K] extends Decoder<infer T> ? T | undefined : never;
};

/** An object with known fields: an unknown one is an error, a missing or null one is undefined. */
export function object<const S extends Record<string, Decoder<unknown>>>(fields: S): Decoder<Decoded<S>> {
  return (value, path, reporter) => {
    if (!isObject(value)) {
      return wrongType('an object', value, path, reporter);
    }
    const decoded: Record<string, unknown> = {};
    for (const [key, item] of Object.entries(value)) {
      const field = Object.hasOwn(fields, key) ? fields[key] : undefined;
      if (field === undefined) {
        const known = Object.keys(fields).join(', ');
        reporter.report([...path, key], 'unknownField', `unknown field; known here: ${known}`);
      } else if (item !== null) {
        decoded[key] = field(item, [...path, key], reporter);
      }
    }
    return decoded as Decoded<S>;
  };
}

/** `selector.matchLabels`, as security resources have it. Absent: undefined. */
export const workloadSelector = object({ matchLabels: mapOf(string) });

/** True where every selector label is on the workload. An empty selector selects all. */
export function selects(
  matchLabels: ReadonlyMap<string, string>,
  labels: ReadonlyMap<string, string>,
): boolean {
  for (const [key, value] of matchLabels) if (labels.get(key) !== value) return false;
  return true;
}
