/** Changes that a verifier of tokens or an external authorizer asks for, held to what a head may carry. */
import type { AnswerChange } from '../../mesh/ext-authz.ts';
import type { FieldChange } from '../../mesh/tokens.ts';
import { type Field, isField, mayChange } from './head.ts';

/** What is wrong with the first change that cannot stand in a head; null where all that will be made can. */
export function badChange(changes: readonly FieldChange[]): string | null {
  // The value may be a secret: its name is enough to find it.
  for (const { name, value } of changes)
    if (mayChange(name.toLowerCase()) && !isField(name, value))
      return `a field that cannot be sent: ${JSON.stringify(name.slice(0, 64))}`;
  return null;
}

/**
 * Sets and appends fields, in order. What makes framing, addressee or author stays as it is: such changes are
 * passed over, as Envoy passes over a Host it may not change.
 */
export function changeFields(fields: readonly Field[], changes: readonly FieldChange[]): readonly Field[] {
  let changed = fields;
  for (const { name, value, append } of changes) {
    const key = name.toLowerCase();
    if (!mayChange(key)) continue;
    const kept = append ? changed : changed.filter((field) => field.key !== key);
    changed = [...kept, { name, key, value }];
  }
  return changed;
}

/** Changes an answer's fields; each change sees what those before it did. */
export function changeAnswer(fields: readonly Field[], changes: readonly AnswerChange[]): readonly Field[] {
  let changed = fields;
  for (const change of changes) {
    const key = change.name.toLowerCase();
    const present = changed.some((field) => field.key === key);
    if (change.only === null || (change.only === 'present') === present)
      changed = changeFields(changed, [change]);
  }
  return changed;
}

/** @param names in lower case */
export function removeFields(fields: readonly Field[], names: readonly string[]): readonly Field[] {
  if (names.length === 0) return fields;
  return fields.filter(({ key }) => !names.includes(key) || !mayChange(key));
}
