/** Where a field of a YAML document stands: paths to 1-based lines. */
import type { Document, LineCounter, Node, Pair } from 'yaml';
import { isAlias, isMap, isPair, isScalar, isSeq } from 'yaml';
import type { FieldPath } from '../mesh/resource.ts';

/** Places of the fields of one object. */
export interface Lines {
  /** Line of the key a path ends in, or of the nearest parent that is there. */
  of(path: FieldPath): number;
  /** Whether the value at a path is a block of text (`|` or `>`), which starts on the next line. */
  isBlock(path: FieldPath): boolean;
}

export function linesOf(document: Document.Parsed, counter: LineCounter): Lines {
  const walk = (path: FieldPath): { readonly offset: number; readonly node: unknown } => {
    let node: unknown = document.contents;
    let offset = startOf(node) ?? document.range[0];
    for (const part of path) {
      if (isAlias(node)) node = node.resolve(document);
      const child = childOf(node, part);
      if (child === undefined) return { offset, node: null };
      offset = startOf(isPair(child) ? child.key : child) ?? offset;
      node = isPair(child) ? child.value : child;
    }
    return { offset, node };
  };
  return {
    of: (path) => Math.max(1, counter.linePos(walk(path).offset).line),
    isBlock(path) {
      const { node } = walk(path);
      return isScalar(node) && (node.type === 'BLOCK_LITERAL' || node.type === 'BLOCK_FOLDED');
    },
  };
}

/** The places of an object inside another, such as an item of a List. */
export function linesWithin(lines: Lines, base: FieldPath): Lines {
  return {
    of: (path) => lines.of([...base, ...path]),
    isBlock: (path) => lines.isBlock([...base, ...path]),
  };
}

function childOf(node: unknown, part: string | number): Pair | Node | undefined {
  if (isSeq(node) && typeof part === 'number') return node.items[part] as Node | undefined;
  if (!isMap(node)) return undefined;
  return node.items.find(({ key }) => String(isScalar(key) ? key.value : key) === String(part));
}

function startOf(node: unknown): number | undefined {
  return (node as Node | null | undefined)?.range?.[0];
}
