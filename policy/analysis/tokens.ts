/** Checks of tokens: policies that ask for what nobody verifies, and tokens verified that nobody demands. */
import { fewOf, finding } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { isExact } from '../matchers.ts';
import { findTokenList, listsOf } from './fields.ts';
import { enforced, type PolicyCheck, type PolicySet, type Subject, subjectsOf } from './set.ts';

/** "With none, tokens are ignored": no request has claims where no RequestAuthentication selects the workload. */
export const tokensNotVerified: PolicyCheck = (set) => {
  const verified = issuersBySubject(set);
  const problems: Problem[] = [];
  for (const { item, resource } of enforced(set)) {
    const lists = item.rules.flatMap((rule, i) => findTokenList(rule, i) ?? []);
    const [first] = lists;
    if (first === undefined) continue;
    const without = subjectsOf(set, item).filter((subject) => (verified.get(subject) ?? []).length === 0);
    if (without.length === 0) continue;
    const names = fewOf(without.map(({ name }) => name));
    const what = `no RequestAuthentication verifies tokens for ${names}, so no request has what ${first.name} asks`;
    const then = first.negated ? 'it holds for every request' : 'the rule matches nothing';
    problems.push(finding(resource, first.path, 'tokenNotVerified', `${what}: ${then} there`));
  }
  return problems;
};

/** "Split at the last `/`. Without a slash: `abc` is that issuer with an empty subject." */
export const requestPrincipals: PolicyCheck = (set) => {
  const issuers = issuersBySubject(set);
  const problems: Problem[] = [];
  for (const { item, resource } of enforced(set)) {
    const lists = item.rules.flatMap((rule, i) => listsOf(rule, i));
    const asked = lists.filter(({ topic }) => topic === 'requestPrincipals');
    if (asked.length === 0) continue;
    const accepted = new Set(subjectsOf(set, item).flatMap((subject) => issuers.get(subject) ?? []));
    for (const { values, path } of asked) {
      values.forEach((value, i) => {
        const wrong = wrongRequestPrincipal(value, accepted);
        if (wrong !== null) problems.push(finding(resource, [...path, i], ...wrong));
      });
    }
  }
  return problems;
};

function wrongRequestPrincipal(
  value: string,
  accepted: ReadonlySet<string>,
): ['requestPrincipalForm' | 'unknownIssuer', string] | null {
  const slash = value.lastIndexOf('/');
  if (slash < 0 && isExact(value)) {
    const message = `${value} without a slash is an issuer with an empty subject; write ISSUER/SUBJECT, or ${value}/*`;
    return ['requestPrincipalForm', message];
  }
  // What starts with a star leaves the issuer open; without any issuer nobody verifies, which is told elsewhere.
  if (value.startsWith('*') || accepted.size === 0 || accepted.has('')) return null;
  const issuer = slash < 0 ? value.slice(0, -1) : value.slice(0, slash);
  const known = slash < 0 ? [...accepted].some((one) => one.startsWith(issuer)) : accepted.has(issuer);
  if (known) return null;
  const message = `no RequestAuthentication of these workloads accepts the issuer ${issuer} (they accept ${fewOf([...accepted])})`;
  return ['unknownIssuer', message];
}

function issuersBySubject(set: PolicySet): ReadonlyMap<Subject, readonly string[]> {
  const issuers = new Map<Subject, string[]>();
  for (const { item } of set.requestAuthentications) {
    if (item.targets.length > 0) continue;
    for (const subject of subjectsOf(set, item)) {
      const list = issuers.get(subject) ?? [];
      issuers.set(subject, list);
      list.push(...item.rules.map(({ issuer }) => issuer));
    }
  }
  return issuers;
}

/** "A missing token is allowed, a bad one is 401." */
export const tokensNotDemanded: PolicyCheck = (set) => {
  const demanded = new Set<Subject>();
  for (const { item } of enforced(set)) {
    if (item.action === 'AUDIT' || !item.rules.some((rule, i) => findTokenList(rule, i) !== null)) continue;
    for (const subject of subjectsOf(set, item)) demanded.add(subject);
  }
  for (const { item } of set.requestAuthentications) {
    if (item.targets.length > 0 || !item.rules.some(({ required }) => required)) continue;
    for (const subject of subjectsOf(set, item)) demanded.add(subject);
  }
  const problems: Problem[] = [];
  for (const { item, resource } of set.requestAuthentications) {
    const subjects = item.targets.length > 0 ? [] : subjectsOf(set, item);
    if (subjects.length === 0 || item.rules.length === 0) continue;
    if (subjects.some((subject) => demanded.has(subject))) continue;
    problems.push(
      finding(
        resource,
        ['spec', 'jwtRules'],
        'tokenNotDemanded',
        'a request without a token passes: no AuthorizationPolicy of these workloads asks for one; deny ' +
          'notRequestPrincipals: ["*"], allow requestPrincipals only, or set presence: REQUIRED',
      ),
    );
  }
  return problems;
};
