/** JSON as strictly as Envoy reads a token's: what two readers could understand in two ways is refused. */
import type { Json } from '../mesh/tokens.ts';

/** Envoy's bound of nested lists and objects. */
const MAX_DEPTH = 100;

export type JsonObject = { readonly [name: string]: Json };

/**
 * Reads a JSON object.
 * @param bytes UTF-8, no byte order mark.
 * @returns null for anything else, and for a name given twice in one object, a lone surrogate, a number beyond
 * the range of a double, more than 100 levels.
 */
export function parseObject(bytes: Uint8Array): JsonObject | null {
  let text: string;
  let value: Json;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text) as Json;
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const members = countMembers(value, 1);
  // JSON.parse keeps the last of two members of one name, and another reader of the token may keep the first.
  return members === null || members !== countColons(text) ? null : (value as JsonObject);
}

/** Members of all objects within; null where a value is none of Envoy's. */
function countMembers(value: Json, depth: number): number | null {
  if (typeof value === 'string') return value.isWellFormed() ? 0 : null;
  if (typeof value === 'number') return Number.isFinite(value) ? 0 : null;
  if (typeof value !== 'object' || value === null) return 0;
  if (depth > MAX_DEPTH) return null;
  let count = 0;
  const isList = Array.isArray(value);
  for (const [name, inner] of Object.entries(value)) {
    const within = name.isWellFormed() ? countMembers(inner, depth + 1) : null;
    if (within === null) return null;
    count += within + (isList ? 0 : 1);
  }
  return count;
}

/** Colons outside of strings: in JSON one a member. */
function countColons(text: string): number {
  let count = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '"') quoted = !quoted;
    else if (quoted && char === '\\') i++;
    else if (!quoted && char === ':') count++;
  }
  return count;
}
