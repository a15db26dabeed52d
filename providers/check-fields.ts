/** The header fields an authorizer is told of, and the lists of names that choose among fields. */
import type { CheckRequest } from '../mesh/ext-authz.ts';

/** Says whether the body that goes with it is all of it. */
const PARTIAL_BODY = 'x-envoy-auth-partial-body';
export const SERVICE_CLUSTER = 'x-envoy-downstream-service-cluster';

/** What Envoy's codec has taken out before any filter sees a request. The authority has a name of its own. */
const NEVER_TOLD = new Set([
  'host',
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
  'expect',
  // The downstream's own would pass for ours.
  PARTIAL_BODY,
]);

/**
 * The fields of a request as Envoy's check has them: HTTP/2's names for method, path, scheme and authority;
 * fields of one name joined by a comma.
 * @returns names in lower case to values with one character a byte
 */
export function checkedFields(request: NonNullable<CheckRequest['request']>): Map<string, string> {
  const { method, path, host, scheme, body, bodyTruncated } = request;
  const told = new Map([
    [':authority', host],
    [':method', method],
    [':path', path],
    [':scheme', scheme],
  ]);
  for (const { name, value } of request.fields) {
    if (NEVER_TOLD.has(name)) continue;
    const before = told.get(name);
    told.set(name, before === undefined ? value : `${before},${value}`);
  }
  if (body !== null && body.length > 0) told.set(PARTIAL_BODY, String(bodyTruncated));
  return told;
}

/** Chooses fields by their name in lower case. */
export type NameMatcher = (name: string) => boolean;

/**
 * A list of names, `prefix*` and `*suffix` without regard to case, as istiod hands them to Envoy (pilot's
 * `generateHeaders`: a leading `*` is looked for first).
 */
export function matcherOf(names: readonly string[]): NameMatcher {
  const exact = new Set<string>();
  const prefixes: string[] = [];
  const suffixes: string[] = [];
  for (const name of names.map((text) => text.toLowerCase())) {
    if (name.startsWith('*')) suffixes.push(name.slice(1));
    else if (name.endsWith('*')) prefixes.push(name.slice(0, -1));
    else exact.add(name);
  }
  return (name) =>
    exact.has(name) ||
    prefixes.some((prefix) => name.startsWith(prefix)) ||
    suffixes.some((suffix) => name.endsWith(suffix));
}
