/** Keeps secrets out of the log: header values that let somebody in, tokens in a query. */
import type { Nearest } from '../mesh/decision.ts';

const MASK = '[redacted]';
const HEADER = /request\.headers\[([^\]]+)\]/i;
/** `authorization`, `cookie`, `x-api-key`, `x-auth-token` …: what such a header holds is enough to get in. */
const SECRET_HEADER = /auth|cookie|key|token|secret|password|session|signature|credential/i;
const IDENTITY_HEADER = /^:authority$/i;

/** A denial's explanation without secrets, neither the request's nor the policy's. */
export function maskNearest(nearest: Nearest): Nearest {
  const header = HEADER.exec(nearest.field)?.[1];
  if (header === undefined || IDENTITY_HEADER.test(header)) return nearest;
  if (header.toLowerCase() === ':path') return { ...nearest, actual: withoutQueries(nearest.actual) };
  if (!SECRET_HEADER.test(header)) return nearest;
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
    return names.has(name) && param.length > name.length ? `${name}=${MASK}` : param;
  });
  return `${target.slice(0, query)}?${masked.join('&')}`;
}
