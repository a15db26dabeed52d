/** Keeps secrets out of the log: header values that let somebody in, tokens in a query. */
import type { Nearest } from '../mesh/decision.ts';
import { decodedParam } from '../mesh/query.ts';
import { isSecretHeader } from '../policy/secret-header.ts';

const MASK = '[redacted]';
const HEADER = /request\.headers\[([^\]]+)\]/i;
/**
 * A denial's explanation without secrets, neither the request's nor the policy's.
 * @param tokenHeaders names in lower case: wherever else tokens are looked for
 */
export function maskNearest(nearest: Nearest, tokenHeaders: ReadonlySet<string>): Nearest {
  const header = HEADER.exec(nearest.field)?.[1];
  if (header === undefined) return nearest;
  if (header.toLowerCase() === ':path') return { ...nearest, actual: withoutQueries(nearest.actual) };
  if (!isSecretHeader(header) && !tokenHeaders.has(header.toLowerCase())) return nearest;
  return {
    ...nearest,
    expected: nearest.expected.map(() => MASK),
    actual: nearest.actual === null ? null : MASK,
  };
}

function withoutQueries(actual: Nearest['actual']): Nearest['actual'] {
  if (actual === null) return null;
  return typeof actual === 'string' ? withoutQuery(actual) : actual.map(withoutQuery);
}

function withoutQuery(path: string): string {
  return path.replace(/\?.*$/, '?…');
}

/** A target with the values of these parameters struck out. */
export function maskParams(target: string, names: ReadonlySet<string>): string {
  const query = target.indexOf('?');
  if (query < 0 || names.size === 0) return target;
  const params = target.slice(query + 1).split('&');
  const masked = params.map((param) => {
    const [name = ''] = param.split('=', 1);
    return names.has(decodedParam(name)) && param.length > name.length ? `${name}=${MASK}` : param;
  });
  return `${target.slice(0, query)}?${masked.join('&')}`;
}
