/** Checks of the HTTP values of AuthorizationPolicies: methods, paths and hosts that cannot match, or match less. */
import { finding, type SetCheck } from '../../mesh/analysis.ts';
import type { Action } from '../../mesh/decision.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { PathNormalization } from '../../mesh/snapshot.ts';
import { isExact } from '../matchers.ts';
import { normalizeTarget } from '../path.ts';
import { isTemplate } from '../path-template.ts';
import { listsOf, type ValueList } from './fields.ts';
import type { PolicyCheck } from './set.ts';

/** RFC 9110 §9.3 and RFC 5789. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH']);

type Wrong = readonly [check: SetCheck, message: string];

export const httpValues: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of set.authorizationPolicies) {
    item.rules.forEach((rule, i) => {
      for (const list of listsOf(rule, i)) {
        list.values.forEach((value, at) => {
          const wrong = wrongValue(list, value, item.action, set.mesh.pathNormalization);
          if (wrong !== null) problems.push(finding(resource, [...list.path, at], ...wrong));
        });
      }
    });
  }
  return problems;
};

function wrongValue(
  list: ValueList,
  value: string,
  action: Action,
  normalization: PathNormalization,
): Wrong | null {
  switch (list.topic) {
    case 'methods':
      return wrongMethod(value);
    case 'paths':
      return wrongPath(value, normalization);
    case 'hosts':
      return wrongHost(value, list, action);
    default:
      return null;
  }
}

/** "The method token is case-sensitive" (RFC 9110 §9.1). */
function wrongMethod(value: string): Wrong | null {
  const upper = value.toUpperCase();
  if (value === upper || !METHODS.has(upper)) return null;
  return ['methodCase', `methods are case-sensitive: ${value} never matches ${upper}; write ${upper}`];
}

/** "The query takes no part; what is matched is what the app receives": a normal path that starts with a slash. */
function wrongPath(value: string, normalization: PathNormalization): Wrong | null {
  if (value.startsWith('*')) return null;
  const never = (why: string): Wrong => ['pathNeverMatches', `${value} never matches: ${why}`];
  if (!value.startsWith('/')) return never('a path starts with /');
  if (value.includes('?')) return never('the query takes no part in paths');
  if (value.includes('#')) return never('a target with # is refused');
  if (isTemplate(value) || !isExact(value)) return null;
  const target = asBytes(value);
  const normal = normalizeTarget(target, normalization);
  if (normal === target) return null;
  if (normal === null) return never('such a target is refused');
  return never(`paths are normalized (${normalization}) before they are matched; write ${normal}`);
}

/** UTF-8, one character a byte: as HTTP parsers give a target. */
function asBytes(text: string): string {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** "The port is not stripped: `a.com` does not match `a.com:8080`." */
function wrongHost(value: string, list: ValueList, action: Action): Wrong | null {
  if (!isExact(value) || value.includes(':')) return null;
  const variant = list.values.some((other) => other.toLowerCase().startsWith(`${value.toLowerCase()}:`));
  if (variant) return null;
  const opens = list.negated ? action === 'ALLOW' : action === 'DENY' || action === 'CUSTOM';
  const message = `${value} does not match a Host header with a port`;
  if (opens) return ['hostWithPort', `${message}, which gets past this ${action} rule; add ${value}:*`];
  return ['hostWithoutPort', `${message}, as clients send it where the port is not 80; add ${value}:*`];
}
