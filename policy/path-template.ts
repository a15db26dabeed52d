/** Path templates of an AuthorizationPolicy: `{*}` for one segment, `{**}` for any number of them. */

const ONE = '{*}';
const ANY = '{**}';
/** Istio's `validLiteral`: RFC 3986 `pchar` without the star. */
const LITERAL = /^[a-zA-Z0-9\-._~%!$&'()+,;:@=]+$/;
/** What Envoy's templates let an operator stand for: `pchar`, the star too; `{**}` may also cross slashes. */
const SEGMENT = /^[a-zA-Z0-9\-._~%!$&'()*+,;:@=]+$/;
const SEGMENTS = /^[a-zA-Z0-9\-._~%!$&'()*+,;:@=/]*$/;

export function isTemplate(value: string): boolean {
  return value.includes(ONE) || value.includes(ANY);
}

/** Istio's `CheckValidPathTemplate`. @returns what is wrong with a `paths` value, or null */
export function wrongTemplate(value: string): string | null {
  const template = isTemplate(value);
  let anySeen = false;
  for (const segment of trimSlashes(value).split('/')) {
    const operator = segment === ONE || segment === ANY;
    if (operator && anySeen) return 'nothing but plain segments may follow {**}';
    if (operator) {
      anySeen = segment === ANY;
      continue;
    }
    if (/[{}]/.test(segment)) return '{ and } are allowed only as the path templates {*} and {**}';
    if (template && !LITERAL.test(segment)) {
      return `${JSON.stringify(segment)} is no path segment a template may have`;
    }
  }
  return null;
}

function trimSlashes(text: string): string {
  let from = 0;
  let to = text.length;
  while (from < to && text[from] === '/') from++;
  while (to > from && text[to - 1] === '/') to--;
  return text.slice(from, to);
}

/**
 * Compiles a template that `wrongTemplate` has passed. "`{*}` is one or more characters of one segment; `{**}` may
 * match nothing, but `/a/{**}` matches `/a/` and not `/a`." One without its leading slash matches no path.
 */
export function compileTemplate(template: string): (path: string) => boolean {
  const parts = template.split('/');
  const any = parts.indexOf(ANY);
  const head = any < 0 ? parts : parts.slice(0, any);
  // Behind `{**}` only plain segments may stand, so what follows it is one literal ending.
  const ending =
    any < 0
      ? ''
      : parts
          .slice(any + 1)
          .map((part) => `/${part}`)
          .join('');
  return (path) => {
    let at = 0;
    for (let i = 0; i < head.length; i++) {
      const last = i === head.length - 1 && any < 0;
      const slash = path.indexOf('/', at);
      if (last !== slash < 0) return false;
      const segment = last ? path.slice(at) : path.slice(at, slash);
      const part = head[i];
      if (part === ONE ? !SEGMENT.test(segment) : part !== segment) return false;
      at = slash + 1;
    }
    if (any < 0) return true;
    const rest = path.slice(at);
    return rest.endsWith(ending) && SEGMENTS.test(rest.slice(0, rest.length - ending.length));
  };
}
