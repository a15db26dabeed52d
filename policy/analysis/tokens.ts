/** Checks of tokens: policies that ask for what nobody verifies, and tokens verified that nobody demands. */
import { fewOf, finding } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { findTokenList } from './fields.ts';
import { enforced, type PolicyCheck, type Subject, subjectsOf } from './set.ts';

/** "With none, tokens are ignored": no request has claims where no RequestAuthentication selects the workload. */
export const tokensNotVerified: PolicyCheck = (set) => {
  const verified = new Set<Subject>();
  for (const { item } of set.requestAuthentications) {
    if (item.targets.length > 0 || item.rules.length === 0) continue;
    for (const subject of subjectsOf(set, item)) verified.add(subject);
  }
  const problems: Problem[] = [];
  for (const { item, resource } of enforced(set)) {
    const lists = item.rules.flatMap((rule, i) => findTokenList(rule, i) ?? []);
    const [first] = lists;
    if (first === undefined) continue;
    const without = subjectsOf(set, item).filter((subject) => !verified.has(subject));
    if (without.length === 0) continue;
    const names = fewOf(without.map(({ name }) => name));
    const what = `no RequestAuthentication verifies tokens for ${names}, so no request has what ${first.name} asks`;
    const then = first.negated ? 'it holds for every request' : 'the rule matches nothing';
    problems.push(finding(resource, first.path, 'tokenNotVerified', `${what}: ${then} there`));
  }
  return problems;
};

/** "A missing token is allowed, a bad one is 401." */
export const tokensNotDemanded: PolicyCheck = (set) => {
  const demanded = new Set<Subject>();
  for (const { item } of enforced(set)) {
    if (item.action === 'AUDIT' || !item.rules.some((rule, i) => findTokenList(rule, i) !== null)) continue;
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
          'notRequestPrincipals: ["*"], or allow requestPrincipals only',
      ),
    );
  }
  return problems;
};
