/** A document as YAML gives it, before it is known to be a resource, and how its problems are reported. */
import type { Problem, Resource, Severity } from '../mesh/resource.ts';
import type { ProblemCode } from '../mesh/schema.ts';
import { problemCodes } from '../mesh/schema.ts';
import type { Lines } from './yaml-lines.ts';

export interface RawDocument {
  readonly value: Readonly<Record<string, unknown>>;
  readonly file: string;
  readonly lines: Lines;
}

/** Where reading puts what it finds. */
export interface Sink {
  readonly resources: Resource[];
  readonly problems: Problem[];
}

export interface Finding {
  readonly file: string;
  readonly line: number;
  readonly code: ProblemCode;
  readonly message: string;
  /** Default Error. */
  readonly severity?: Severity;
  /** `Kind/NS/NAME`, as far as known. */
  readonly resource?: string;
  readonly field?: string;
}

/** Makes a problem of what was found. */
export function problemOf(finding: Finding): Problem {
  return {
    code: problemCodes[finding.code],
    severity: finding.severity ?? 'Error',
    resource: finding.resource ?? '',
    file: finding.file,
    line: finding.line,
    field: finding.field ?? '',
    message: finding.message,
  };
}

/** `Kind/NS/NAME` as far as they are known. */
export function labelOf(raw: RawDocument, kind: string): string {
  const metadata = raw.value.metadata as { name?: unknown; namespace?: unknown } | null | undefined;
  const namespace = typeof metadata?.namespace === 'string' ? metadata.namespace : 'default';
  const name = typeof metadata?.name === 'string' ? metadata.name : '';
  return `${kind}/${namespace}/${name}`;
}
