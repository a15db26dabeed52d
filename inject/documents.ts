/** Injects the documents of a YAML or JSON text; what stays as it is, comments and all, stays to the letter. */
import {
  Document,
  isAlias,
  isCollection,
  isMap,
  isSeq,
  LineCounter,
  parseDocument,
  type Tags,
  visit,
} from 'yaml';
import type { InjectConfig } from './inject-config.ts';
import { InjectError } from './inject-error.ts';
import { isObject, type Json } from './json.ts';
import { type PatchStep, patchSteps } from './json-patch.ts';
import { injectObject } from './objects.ts';

export interface InjectedText {
  /** The text with what was injected. */
  readonly text: string;
  /** The same as values, one for each document that is not empty. */
  readonly values: readonly Json[];
  readonly warnings: readonly string[];
}

/** How often anchors may be repeated in a document: what stops an alias bomb. */
const MAX_ALIASES = 100;
/** A line that ends one document and begins another, as YAML has it inside block scalars too. */
const SEPARATOR = /^---(?=[ \t\r\n]|$)/gm;
/** Nothing but blanks and comments. */
const EMPTY = /^(?:\s*(?:#[^\n]*)?(?:\n|$))*$/;

/**
 * @param from how errors name the text: its file
 * @param namespace of objects that name none
 * @throws InjectError where a document cannot be read or injected, with its line
 */
export function injectText(
  text: string,
  from: string,
  namespace: string,
  config: InjectConfig,
): InjectedText {
  const parts: string[] = [];
  const values: Json[] = [];
  const warnings: string[] = [];
  for (const { part, line } of documentsOf(text)) {
    const head = /^---(?=[ \t\r\n]|$)/.exec(part)?.[0] ?? '';
    if (EMPTY.test(part.slice(head.length))) {
      parts.push(part);
      continue;
    }
    const document = parsed(part, `${from}:${line}`, line);
    const before = plain(document, `${from}:${line}`);
    if (before !== null && !isObject(before)) {
      throw new InjectError(`${from}:${line}: this is no Kubernetes object: it has no fields`);
    }
    const done = at(`${from}:${line}`, () => injectObject(before, namespace, config));
    values.push(done.value);
    warnings.push(...done.warnings);
    parts.push(done.value === before ? part : written(document, part, before, done.value));
  }
  return { text: parts.join(''), values, warnings };
}

/** Each document with the line that opens it, and the number of that line. */
function documentsOf(text: string): readonly { readonly part: string; readonly line: number }[] {
  const starts = [0, ...[...text.matchAll(SEPARATOR)].map(({ index }) => index).filter((index) => index > 0)];
  let line = 1;
  return starts.map((start, i) => {
    const part = text.slice(start, starts[i + 1]);
    const found = { part, line };
    line += part.split('\n').length - 1;
    return found;
  });
}

/** kubectl reads YAML 1.1, where `yes` is true and 0644 an octal; dates and clock times it takes for text. */
const OPTIONS = {
  version: '1.1',
  merge: true,
  uniqueKeys: true,
  prettyErrors: false,
  customTags: (tags: Tags): Tags =>
    tags.filter((tag) =>
      typeof tag !== 'object' || !/:(?:timestamp|omap|pairs|set)$/.test(tag.tag) ? !isClock(tag) : false,
    ),
} as const;

/** 1:30 is ninety in YAML 1.1, and a text for kubectl. */
function isClock(tag: Tags[number]): boolean {
  return typeof tag === 'object' && 'format' in tag && tag.format === 'TIME';
}

function parsed(part: string, where: string, line: number): Document.Parsed {
  const lineCounter = new LineCounter();
  const document = at(where, () => parseDocument(part, { ...OPTIONS, lineCounter }));
  const [error] = document.errors;
  if (error === undefined) return document;
  const inPart = lineCounter.linePos(error.pos[0]).line;
  const file = where.slice(0, where.lastIndexOf(':'));
  throw new InjectError(`${file}:${line + Math.max(inPart, 1) - 1}: ${error.message}`);
}

function plain(document: Document.Parsed, where: string): Json {
  return at(where, () => document.toJS({ maxAliasCount: MAX_ALIASES }) as Json);
}

/** What is thrown below is told with its place. */
function at<T>(where: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new InjectError(`${where}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** The document's own text with the changes; where it is JSON, or repeats itself by anchors, written anew. */
function written(document: Document.Parsed, part: string, before: Json, after: Json): string {
  const separator = part.startsWith('---') ? '---\n' : '';
  const body = part.slice(separator === '' ? 0 : 3).trimStart();
  if (isJson(body)) return separator + jsonLike(body, after);
  const style = { lineWidth: 0, indentSeq: !/^( *)[\w./-]+: *\n\1- /m.test(part), directives: false };
  if (hasAliases(document)) {
    const anew = new Document(after, { ...OPTIONS, aliasDuplicateObjects: false });
    anew.commentBefore = document.commentBefore;
    return separator + anew.toString(style);
  }
  for (const step of patchSteps(before, after)) apply(document, step);
  return separator + document.toString(style);
}

/** kubectl takes for JSON, and for nothing else, what begins with a brace. */
function isJson(body: string): boolean {
  if (!body.startsWith('{')) return false;
  try {
    JSON.parse(body);
    return true;
  } catch {
    return false;
  }
}

/** Indented as `body` is, or in one line like it. */
function jsonLike(body: string, value: Json): string {
  const [, indent = ''] = /^\{[ \t]*\r?\n([ \t]*)/.exec(body) ?? [];
  return `${JSON.stringify(value, null, indent)}\n`;
}

function hasAliases(document: Document.Parsed): boolean {
  let found = false;
  visit(document, {
    Alias: () => {
      found = true;
      return visit.BREAK;
    },
  });
  return found;
}

function apply(document: Document.Parsed, step: PatchStep): void {
  const path = [...step.at];
  const key = path.pop();
  const parent = path.length === 0 ? document.contents : document.getIn(path, true);
  if (key === undefined || !isCollection(parent) || isAlias(parent)) throw new Error('a change has no place');
  if (step.op === 'remove') parent.delete(key);
  else {
    const node = document.createNode(step.value, { aliasDuplicateObjects: false });
    if (isSeq(parent) && typeof key === 'number' && step.op === 'add') parent.items.splice(key, 0, node);
    else if (isMap(parent) || isSeq(parent)) parent.set(key, node);
  }
}
