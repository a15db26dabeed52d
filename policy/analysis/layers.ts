/** Checks of what becomes of AuthorizationPolicies on TCP ports and on ports that take plaintext. */
import { finding, type Located, type SetCheck } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { AuthorizationPolicy, Rule } from '../authorization-policy.ts';
import { groupsOf, isHttp, isIdentity, listsOf, type ValueList } from './fields.ts';
import {
  appliesTo,
  enforced,
  modeAt,
  type PolicyCheck,
  type PolicySet,
  type PortOrOther,
  portName,
  portsFor,
  type Subject,
  subjectsOf,
} from './set.ts';

/** A port of a workload where something holds. */
interface Place {
  readonly subject: Subject;
  readonly port: PortOrOther;
}

/** `port 3306 of shop/db and 2 more` */
function placesText(places: readonly Place[]): string {
  const [first, ...more] = places;
  if (first === undefined) return 'no port';
  const others = more.length === 0 ? '' : ` and of ${more.length} more`;
  return `${portName(first.port)} of ${first.subject.name}${others}`;
}

/** The first list of a rule for which `holds`. */
function findList(rule: Rule, index: number, holds: (list: ValueList) => boolean): ValueList | null {
  return listsOf(rule, index).find(holds) ?? null;
}

/** "An HTTP-only field anywhere in an ALLOW rule drops the whole rule; in DENY and AUDIT only that condition." */
export const httpOnTcp: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  for (const policy of enforced(set)) {
    const { action, rules } = policy.item;
    const subjects = subjectsOf(set, policy.item);
    rules.forEach((rule, i) => {
      const list = findList(rule, i, isHttp);
      if (list === null) return;
      const places = tcpPorts(subjects, rule);
      if (places.length === 0) return;
      const where = placesText(places);
      const [check, message]: [SetCheck, string] =
        action === 'ALLOW'
          ? [
              'allowHttpOnTcp',
              `${list.name} is for HTTP and ${where} is carried as TCP: the rule is dropped there and lets nobody in; ` +
                'name the HTTP ports in it, and write another rule for TCP',
            ]
          : [
              'denyHttpOnTcp',
              `${list.name} is for HTTP and ${where} is carried as TCP: it is left out there, so the ${action} rule ` +
                'matches more; name the HTTP ports in it',
            ];
      problems.push(finding(policy.resource, list.path, check, message));
    });
  }
  return problems;
};

function tcpPorts(subjects: readonly Subject[], rule: Rule): readonly Place[] {
  return subjects.flatMap((subject) =>
    [...subject.ports]
      .filter(([port, protocol]) => protocol === 'tcp' && appliesTo(rule, port))
      .map(([port]) => ({ subject, port })),
  );
}

type Mode = 'PERMISSIVE' | 'DISABLE';

/** The ports a rule can apply to that take plaintext; `said` leaves out the default of a mesh that says nothing. */
function plaintextPorts(
  subjects: readonly Subject[],
  rule: Rule,
  modes: readonly Mode[],
  said = false,
): readonly Place[] {
  return subjects.flatMap((subject) =>
    portsFor(subject, rule)
      .filter((port) => {
        const { mode, source } = modeAt(subject, port);
        return modes.some((one) => one === mode) && !(said && source === null);
      })
      .map((port) => ({ subject, port })),
  );
}

/** "Plaintext matches no positive identity field, not even `*`." */
export const identityOnPlaintext: PolicyCheck = (set) => {
  const closed = deniedPlaintext(set);
  return enforced(set).flatMap((policy) => {
    if (policy.item.action === 'DENY') return denyOnPlaintext(set, policy, closed);
    return policy.item.action === 'ALLOW' ? allowOnPlaintext(set, policy) : [];
  });
};

/** The DENY rules that refuse plaintext as such, by workload: `notPrincipals: ["*"]`, perhaps on some ports. */
function deniedPlaintext(set: PolicySet): ReadonlyMap<Subject, readonly Rule[]> {
  const closed = new Map<Subject, Rule[]>();
  for (const { item } of enforced(set)) {
    if (item.action !== 'DENY') continue;
    const rules = item.rules.filter((rule, i) =>
      listsOf(rule, i).every(
        (list) => list.topic === 'ports' || (isIdentity(list) && list.negated && list.values.includes('*')),
      ),
    );
    if (rules.length === 0) continue;
    for (const subject of subjectsOf(set, item)) {
      closed.set(subject, [...(closed.get(subject) ?? []), ...rules]);
    }
  }
  return closed;
}

function denyOnPlaintext(
  set: PolicySet,
  policy: Located<AuthorizationPolicy>,
  closed: ReadonlyMap<Subject, readonly Rule[]>,
): readonly Problem[] {
  const problems: Problem[] = [];
  const subjects = subjectsOf(set, policy.item);
  policy.item.rules.forEach((rule, i) => {
    const list = findList(rule, i, (one) => isIdentity(one) && !one.negated);
    if (list === null) return;
    const places = plaintextPorts(subjects, rule, ['PERMISSIVE', 'DISABLE']).filter(
      ({ subject, port }) => !(closed.get(subject) ?? []).some((one) => appliesTo(one, port)),
    );
    const [first] = places;
    if (first === undefined) return;
    const { mode, source } = modeAt(first.subject, first.port);
    const by = source === null ? 'the default' : `PeerAuthentication ${source}`;
    problems.push(
      finding(
        policy.resource,
        list.path,
        'denyMissesPlaintext',
        `plaintext has no identity, so ${list.name} never matches it, and ${placesText(places)} takes plaintext ` +
          `(${mode} by ${by}): make it STRICT, or deny plaintext with notPrincipals: ["*"]`,
      ),
    );
  });
  return problems;
}

function allowOnPlaintext(set: PolicySet, policy: Located<AuthorizationPolicy>): readonly Problem[] {
  const problems: Problem[] = [];
  const subjects = subjectsOf(set, policy.item);
  policy.item.rules.forEach((rule, i) => {
    const list = demandedIdentity(rule, i);
    if (list === null) {
      problems.push(...admitted(policy, subjects, rule, i));
      return;
    }
    const never = plaintextPorts(subjects, rule, ['DISABLE']);
    const all = subjects.reduce((count, subject) => count + portsFor(subject, rule).length, 0);
    // One plaintext port among others is there for whom another rule lets in.
    if (never.length > 0 && never.length === all) {
      const message = `${placesText(never)} takes plaintext only (DISABLE), which has no identity: the rule matches nothing`;
      problems.push(finding(policy.resource, list.path, 'allowNeverOnPlaintext', message));
    }
    const refused = plaintextPorts(subjects, rule, ['PERMISSIVE'], true);
    if (refused.length === 0) return;
    const message = `${placesText(refused)} takes plaintext (PERMISSIVE), but this rule lets none in, having no identity`;
    problems.push(finding(policy.resource, list.path, 'allowRefusesPlaintext', message));
  });
  return problems;
}

/** Plaintext "matches every `not…` one". */
function admitted(
  { resource }: Located<AuthorizationPolicy>,
  subjects: readonly Subject[],
  rule: Rule,
  index: number,
): readonly Problem[] {
  const list = findList(rule, index, (one) => isIdentity(one) && one.negated);
  if (list === null) return [];
  const places = plaintextPorts(subjects, rule, ['PERMISSIVE', 'DISABLE']);
  if (places.length === 0) return [];
  const message =
    `plaintext has no identity, so ${list.name} does not keep it out, and ${placesText(places)} takes plaintext: ` +
    'the rule lets it in; add principals: ["*"] to ask for an identity';
  return [finding(resource, list.path, 'allowAdmitsPlaintext', message)];
}

/** A list that makes a rule match peers with an identity only; null: plaintext can match. */
function demandedIdentity(rule: Rule, index: number): ValueList | null {
  for (const alternatives of groupsOf(rule, index)) {
    const demanded = alternatives.map((lists) => lists.find((list) => isIdentity(list) && !list.negated));
    const [first] = demanded;
    if (first !== undefined && demanded.every((list) => list !== undefined)) return first;
  }
  return null;
}
