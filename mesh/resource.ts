/** A resource as it was read, before anyone has understood it, and what can be wrong with one. */

/** A path to a field: `['spec', 'rules', 0, 'from']`. */
export type FieldPath = readonly (string | number)[];

/** Where a document was written. */
export interface Origin {
  readonly file: string;
  /** 1-based line of a field, or of the nearest parent that is there. */
  lineOf(path: FieldPath): number;
}

export interface Resource {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly annotations: ReadonlyMap<string, string>;
  /** Milliseconds since the epoch; null where the document has none. */
  readonly creationTimestamp: number | null;
  /** The document's `spec` (for MeshConfig and Kubernetes' own kinds: the whole document), not yet checked. */
  readonly spec: unknown;
  readonly origin: Origin;
}

export type Severity = 'Error' | 'Warning' | 'Info';

export interface Problem {
  /** Stable, `OLK` and four digits. */
  readonly code: string;
  readonly severity: Severity;
  /** `Kind/NS/NAME`; empty where the document could not be read. */
  readonly resource: string;
  readonly file: string;
  readonly line: number;
  /** `spec.rules[0].from`; empty for the whole document. */
  readonly field: string;
  /** What was wrong and what to do, in one sentence. */
  readonly message: string;
}

/** One line for logs and terminals: `file:line: Kind/NS/NAME: field: message (CODE)`. */
export function problemLine(problem: Problem): string {
  const where = [problem.resource, problem.field].filter((part) => part !== '').join(': ');
  return `${problem.file}:${problem.line}: ${where}${where === '' ? '' : ': '}${problem.message} (${problem.code})`;
}
