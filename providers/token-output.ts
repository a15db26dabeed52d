/** What of a verified token goes on: claims for policy, header fields for the app. */
import type { Claims, FieldChange, Json, JwtRule } from '../mesh/tokens.ts';
import type { Jwt } from './jwt.ts';

/** "The default claims 'scope' and 'permission' are always treated as space-delimited." */
const ALWAYS_SPACE_DELIMITED = ['scope', 'permission'];

/** What no header value may have (RFC 9110 §5.5), as a string of bytes. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for.
const NO_HEADER_VALUE = /[\u0000-\u0008\u000a-\u001f\u007f]/;

/**
 * The claims as policy matches them: a space-delimited one is a list of its words (Envoy's
 * `normalize_payload_in_metadata`). One without any word stays as it is.
 */
export function claimsForPolicy(claims: Claims, rule: Pick<JwtRule, 'spaceDelimitedClaims'>): Claims {
  const split: [name: string, words: Json][] = [];
  for (const name of [...ALWAYS_SPACE_DELIMITED, ...rule.spaceDelimitedClaims]) {
    const value = Object.hasOwn(claims, name) ? claims[name] : undefined;
    if (typeof value !== 'string') continue;
    const words = value.split(' ').filter((word) => word !== '');
    if (words.length > 0) split.push([name, words]);
  }
  return split.length === 0 ? claims : { ...claims, ...Object.fromEntries(split) };
}

/**
 * `outputPayloadToHeader` and `outputClaimToHeaders`.
 * @returns fields to append, values as bytes (latin1), the way header values are read; null where a claim has
 * characters that no header value may have.
 */
export function outputFields(jwt: Jwt, rule: JwtRule): readonly FieldChange[] | null {
  const fields: FieldChange[] = [];
  if (rule.outputPayloadToHeader !== null) {
    fields.push({ name: rule.outputPayloadToHeader, value: jwt.payloadPart, append: true });
  }
  for (const { header, claim } of rule.outputClaimToHeaders) {
    const text = claimText(nested(jwt.claims, claim));
    if (text === '') continue;
    const value = Buffer.from(text, 'utf8').toString('latin1').trim();
    if (NO_HEADER_VALUE.test(value)) return null;
    fields.push({ name: header, value, append: true });
  }
  return fields;
}

/** `a.b.c`: a claim within a claim. A dot is never part of a name. */
function nested(claims: Claims, path: string): Json | undefined {
  let value: Json | undefined = claims;
  for (const name of path.split('.')) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    const object: Claims = value as Claims;
    value = Object.hasOwn(object, name) ? object[name] : undefined;
  }
  return value;
}

/** As Envoy writes a claim: lists and objects as base64 of their JSON (there in any order). Empty: nothing to write. */
function claimText(value: Json | undefined): string {
  if (value === undefined || value === null) return '';
  if (typeof value === 'string') return value;
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return numberText(value);
  return Buffer.from(JSON.stringify(value), 'utf8').toString('base64');
}

/** "If the number is unsigned 64 bit integer, convert to string as integer, otherwise as double": six decimals. */
function numberText(value: number): string {
  if (!Number.isInteger(value)) return value.toFixed(6);
  const digits = BigInt(value).toString();
  return value >= 0 && value < 2 ** 64 ? digits : `${digits}.000000`;
}
