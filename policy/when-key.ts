/** Takes apart the keys of `when` that carry a name in brackets. */

const HEADERS = 'request.headers';
const CLAIMS = 'request.auth.claims';

/** `request.headers[X-User]` → `x-user`; null for any other key. As Istio's `extractNameInBrackets`. */
export function headerName(key: string): string | null {
  return key.startsWith(HEADERS) ? (inBrackets(key.slice(HEADERS.length))?.toLowerCase() ?? null) : null;
}

/**
 * `request.auth.claims[a][b]` → `['a', 'b']`; null for any other key. What is no chain of brackets is one name, as
 * in Istio's `extractNameInNestedBrackets`: a dot is no path, and `[a[b]]` is the claim `a[b]`.
 */
export function claimPath(key: string): readonly string[] | null {
  if (!key.startsWith(CLAIMS)) return null;
  const text = key.slice(CLAIMS.length);
  const names: string[] = [];
  const link = /\[([^[\]]*)\]/y;
  while (link.lastIndex < text.length) {
    const match = link.exec(text);
    if (match === null) {
      const whole = inBrackets(text);
      return whole === null ? null : [whole];
    }
    names.push(match[1] ?? '');
  }
  return names;
}

function inBrackets(text: string): string | null {
  return text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : null;
}
