/** Reads the text of one YAML or JSON file: its resources, with line numbers, and everything wrong with it. */
import type { Document } from 'yaml';
import { LineCounter, parseAllDocuments } from 'yaml';
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import { fieldName } from '../mesh/schema.ts';
import { judgeKind } from './kinds.ts';
import { resourceOf } from './metadata.ts';
import type { RawDocument, Sink } from './raw.ts';
import { labelOf, problemOf } from './raw.ts';
import type { Lines } from './yaml-lines.ts';
import { linesOf, linesWithin } from './yaml-lines.ts';

/** Bytes a file may have. A mesh of ten thousand policies is about this long; more is a mistake. */
export const MAX_FILE_BYTES = 8 * 1024 * 1024;
/** How often anchors may be repeated in a document: what stops an alias bomb. */
const MAX_ALIASES = 100;
/** Lists inside lists. */
const MAX_LIST_DEPTH = 4;

export interface Documents {
  readonly resources: readonly Resource[];
  readonly problems: readonly Problem[];
}

/**
 * Parses the text of one file: several documents, `kind: List`, mesh config in both its forms.
 * @param file as it shall be named in problems
 * @returns what could be read, and a problem for each thing that could not; nothing is thrown
 */
export function parseDocuments(text: string, file: string): Documents {
  const sink: Sink = { resources: [], problems: [] };
  readYaml({ text, file, line: (line) => line }, sink, (value, lines) =>
    readObject({ value, file, lines }, sink, 0),
  );
  return sink;
}

interface YamlText {
  readonly text: string;
  readonly file: string;
  /** Line of the text → line of the file. */
  readonly line: (line: number) => number;
}

/** Parses every document of a text and hands on those that are objects; empty ones are passed over. */
function readYaml(
  source: YamlText,
  sink: Sink,
  read: (value: Readonly<Record<string, unknown>>, lines: Lines) => void,
): void {
  const { file } = source;
  const counter = new LineCounter();
  for (const document of parseYaml(source, counter, sink)) {
    if (document.errors.length > 0) {
      for (const error of document.errors) {
        const line = source.line(Math.max(1, counter.linePos(error.pos[0]).line));
        const code = error.code === 'DUPLICATE_KEY' ? 'duplicate' : 'unreadable';
        sink.problems.push(problemOf({ file, line, code, message: error.message }));
      }
      continue;
    }
    const inText = linesOf(document, counter);
    const lines: Lines = { of: (path) => source.line(inText.of(path)), isBlock: inText.isBlock };
    const value = plainValue(document, { file, line: lines.of([]) }, sink);
    if (value === undefined || value === null) continue;
    if (typeof value === 'object' && !Array.isArray(value)) {
      read(value as Record<string, unknown>, lines);
    } else {
      const message = 'a document must be an object';
      sink.problems.push(problemOf({ file, line: lines.of([]), code: 'wrongType', message }));
    }
  }
}

function parseYaml(source: YamlText, lineCounter: LineCounter, sink: Sink): readonly Document.Parsed[] {
  try {
    return parseAllDocuments(source.text, {
      lineCounter,
      version: '1.2',
      schema: 'core',
      merge: true,
      uniqueKeys: true,
      prettyErrors: false,
    });
  } catch (error) {
    // The parser recurses: brackets nested thousands deep exhaust the stack.
    const message = `cannot be parsed: ${reasonOf(error)}`;
    sink.problems.push(problemOf({ file: source.file, line: source.line(1), code: 'unreadable', message }));
    return [];
  }
}

function plainValue(document: Document.Parsed, where: { file: string; line: number }, sink: Sink): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIASES }) as unknown;
  } catch (error) {
    sink.problems.push(problemOf({ ...where, code: 'unreadable', message: reasonOf(error) }));
    return undefined;
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function readObject(raw: RawDocument, sink: Sink, depth: number): void {
  const { kind, items } = raw.value;
  if (typeof kind === 'string' && kind.endsWith('List') && Array.isArray(items)) {
    readList(raw, items, sink, depth);
    return;
  }
  const mesh = kind === 'MeshConfig';
  const kindName = nameIn(raw, 'kind', '', sink);
  const apiVersion = mesh ? '' : nameIn(raw, 'apiVersion', kindName ?? '', sink);
  if (kindName === null || apiVersion === null) return;
  // Mesh config has its fields at top level: the whole document is its spec.
  if (mesh) {
    keep(resourceOf({ ...raw, value: { ...raw.value, spec: raw.value } }, kindName, sink), sink);
    return;
  }
  if (kindName === 'ConfigMap' && readMeshConfigMap(raw, sink)) return;

  const verdict = judgeKind(apiVersion, kindName);
  if (verdict.do === 'read') {
    keep(resourceOf(raw, kindName, sink), sink);
    return;
  }
  const { at, code, severity, message } = verdict;
  const where = { file: raw.file, line: raw.lines.of([at]), resource: labelOf(raw, kindName), field: at };
  sink.problems.push(problemOf({ ...where, code, severity, message }));
}

function keep(resource: Resource | null, sink: Sink): void {
  if (resource !== null) sink.resources.push(resource);
}

/** A string that must be there at top level; null after a report. */
function nameIn(raw: RawDocument, field: 'kind' | 'apiVersion', kind: string, sink: Sink): string | null {
  const value = raw.value[field];
  if (typeof value === 'string' && value !== '') return value;
  const absent = value === undefined || value === null || value === '';
  sink.problems.push(
    problemOf({
      file: raw.file,
      line: raw.lines.of([field]),
      resource: kind === '' ? '' : labelOf(raw, kind),
      field,
      code: absent ? 'missing' : 'wrongType',
      message: absent ? `${field} is required` : 'must be a string',
    }),
  );
  return null;
}

function readList(raw: RawDocument, items: readonly unknown[], sink: Sink, depth: number): void {
  const { file } = raw;
  if (depth >= MAX_LIST_DEPTH) {
    const message = 'lists are nested too deep';
    sink.problems.push(problemOf({ file, line: raw.lines.of([]), code: 'badValue', message }));
    return;
  }
  items.forEach((item, i) => {
    const base: FieldPath = ['items', i];
    const lines = linesWithin(raw.lines, base);
    if (typeof item === 'object' && item !== null && !Array.isArray(item)) {
      readObject({ value: item as Record<string, unknown>, file, lines }, sink, depth + 1);
    } else {
      const message = 'an item of a list must be an object';
      const where = { file, line: lines.of([]), field: fieldName(base) };
      sink.problems.push(problemOf({ ...where, code: 'wrongType', message }));
    }
  });
}

/** The ConfigMap `istio` with `data.mesh`: YAML in a string. False: it is some other ConfigMap. */
function readMeshConfigMap(raw: RawDocument, sink: Sink): boolean {
  const metadata = raw.value.metadata as { name?: unknown } | null | undefined;
  const data = raw.value.data as { mesh?: unknown } | null | undefined;
  if (metadata?.name !== 'istio' || typeof data?.mesh !== 'string') return false;
  const path = ['data', 'mesh'];
  const key = raw.lines.of(path);
  const block = raw.lines.isBlock(path);
  const source: YamlText = { text: data.mesh, file: raw.file, line: (line) => (block ? key + line : key) };
  readYaml(source, sink, (value, lines) => {
    const owner = { kind: 'MeshConfig', metadata: raw.value.metadata, spec: value };
    keep(resourceOf({ value: owner, file: raw.file, lines }, 'MeshConfig', sink), sink);
  });
  return true;
}

/** Of several resources of one kind, namespace and name: an Error for each but the first, naming both places. */
export function findDuplicates(resources: readonly Resource[]): readonly Problem[] {
  const first = new Map<string, Resource>();
  const problems: Problem[] = [];
  const path = ['metadata', 'name'];
  for (const resource of resources) {
    const { kind, namespace, name, origin } = resource;
    const label = `${kind}/${namespace}/${name}`;
    // A mesh has one mesh config, whatever its name.
    const key = kind === 'MeshConfig' ? kind : label;
    const before = first.get(key);
    if (before === undefined) {
      first.set(key, resource);
      continue;
    }
    const there = `${before.origin.file}:${before.origin.lineOf(path)}`;
    const message = `defined already at ${there}; remove one of the two`;
    const where = { file: origin.file, line: origin.lineOf(path), resource: label };
    problems.push(problemOf({ ...where, code: 'duplicate', message }));
  }
  return problems;
}
