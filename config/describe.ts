/** What holds for one workload, and why: the modes of its ports, the policies that select it, and what is odd about them. */
import type { Action } from '../mesh/decision.ts';
import { type Problem, problemLine } from '../mesh/resource.ts';
import type { EffectiveMode, Mode, Snapshot } from '../mesh/snapshot.ts';
import { providersOnTcp, severalProviders, unknownProviders } from '../policy/analysis/custom.ts';
import { httpValues } from '../policy/analysis/http-values.ts';
import { principalForms, trustDomains } from '../policy/analysis/identities.ts';
import { httpOnTcp, identityOnPlaintext } from '../policy/analysis/layers.ts';
import { peerConflicts } from '../policy/analysis/peer-authentications.ts';
import type { PolicyCheck, PolicySet, Subject } from '../policy/analysis/set.ts';
import { shadowedRules } from '../policy/analysis/shadow.ts';
import { tokensNotDemanded, tokensNotVerified } from '../policy/analysis/tokens.ts';
import type { AuthorizationPolicy } from '../policy/authorization-policy.ts';
import { selectPolicies } from '../policy/authorize.ts';
import { locator } from './analyze.ts';
import { compileSnapshot, type Decoded, decodeAll, type SnapshotInput } from './snapshot.ts';

export interface Description {
  readonly workload: {
    readonly namespace: string;
    /** Empty where it was given by labels. */
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly serviceAccount: string;
    readonly identity: string;
  };
  readonly mtls: {
    readonly default: EffectiveMode;
    /** By workload port. */
    readonly ports: Readonly<Record<string, EffectiveMode>>;
  };
  /** Those in force: no dry-run ones. */
  readonly authorization: Readonly<Record<Action, readonly string[]>>;
  readonly requestAuthentication: readonly string[];
  readonly warnings: readonly string[];
}

export interface DescriptionResult {
  /** Null: a problem is an Error, or the workload is in no file. */
  readonly description: Description | null;
  readonly problems: readonly Problem[];
}

/** A port that no PeerAuthentication can name: what holds for it holds for all that none names. */
const ANY_PORT = 0;

/**
 * Describes the workload that `input` names. Pure.
 * @param ports the workload's to be described; null: those it declares itself
 */
export function describeWorkload(input: SnapshotInput, ports: readonly number[] | null): DescriptionResult {
  const { snapshot, problems } = compileSnapshot(input);
  if (snapshot === null) return { description: null, problems };
  const { workload, identity, authorization, tokens, modeOf } = snapshot;
  const { namespace, name, labels, serviceAccount } = workload;
  const described = ports ?? declaredPorts(snapshot);
  const decoded = decodeAll(input.resources, []);
  const selected = selectPolicies(decoded.authorizationPolicies, workload, snapshot.mesh.rootNamespace);
  const description: Description = {
    workload: { namespace, name, labels: Object.fromEntries(labels), serviceAccount, identity: identity.uri },
    mtls: {
      default: modeOf(ANY_PORT),
      ports: Object.fromEntries(described.map((port) => [String(port), modeOf(port)])),
    },
    authorization: authorization.byAction,
    requestAuthentication: tokens.policies,
    warnings: [
      ...modeWarnings(snapshot, described),
      ...policyWarnings(selected),
      ...checkWarnings(ownSet({ input, decoded, selected, snapshot, ports: described })),
      ...ownWarnings(snapshot, selected, problems),
    ],
  };
  return { description, problems };
}

/** Its ports as a WorkloadEntry, Pod or Sidecar lists them, in order. */
function declaredPorts({ workload, ingress }: Snapshot): readonly number[] {
  const ports = new Set([...workload.ports.values(), ...ingress.map(({ port }) => port)]);
  return [...ports].sort((a, b) => a - b);
}

const MEANING: Readonly<Record<Exclude<Mode, 'STRICT'>, string>> = {
  PERMISSIVE: 'plaintext is accepted besides mutual TLS',
  DISABLE: 'plaintext only: no caller has an identity',
};

/** Where callers without an identity get through, in one line for each mode and its source. */
function modeWarnings({ modeOf }: Snapshot, ports: readonly number[]): readonly string[] {
  const found = new Map<string, string[]>();
  const other = ports.length === 0 ? 'all ports' : 'all other ports';
  for (const port of [...ports, ANY_PORT]) {
    const { mode, source } = modeOf(port);
    if (mode === 'STRICT') continue;
    const set = source === null ? `${mode}, the default` : `${mode}, set by PeerAuthentication ${source}`;
    const what = `${MEANING[mode]} (${set})`;
    const where = found.get(what) ?? [];
    found.set(what, where);
    where.push(port === ANY_PORT ? other : `port ${port}`);
  }
  return [...found].map(([what, where]) => `${where.join(', ')}: ${what}`);
}

/** Policies that let nothing through, and those that only look as if they decided. */
function policyWarnings(selected: readonly AuthorizationPolicy[]): readonly string[] {
  const warnings: string[] = [];
  const enforced = selected.filter(({ dryRun }) => !dryRun);
  const allowing = enforced.filter(({ action }) => action === 'ALLOW');
  if (allowing.length > 0 && allowing.every(({ rules }) => rules.length === 0)) {
    warnings.push(`nothing is allowed: ${namesOf(allowing)} has no rules and no other ALLOW policy is there`);
  }
  for (const policy of enforced) {
    const rule = policy.rules.findIndex(({ from, to, when }) => from.length + to.length + when.length === 0);
    if (policy.action === 'DENY' && rule >= 0) {
      warnings.push(`everything is denied: rule ${rule} of ${namesOf([policy])} asks for nothing`);
    }
  }
  for (const policy of selected) {
    if (policy.dryRun) {
      warnings.push(`${namesOf([policy])} is a dry run: its ${policy.action} is reported, never enforced`);
    }
  }
  return warnings;
}

function namesOf(policies: readonly AuthorizationPolicy[]): string {
  return policies.map(({ namespace, name }) => `AuthorizationPolicy ${namespace}/${name}`).join(', ');
}

/** The checks of `analyze` that make sense of one workload: none about who else there is. */
const CHECKS: readonly PolicyCheck[] = [
  peerConflicts,
  principalForms,
  trustDomains,
  httpOnTcp,
  identityOnPlaintext,
  httpValues,
  tokensNotVerified,
  tokensNotDemanded,
  unknownProviders,
  severalProviders,
  providersOnTcp,
  shadowedRules,
];

interface Own {
  readonly input: SnapshotInput;
  readonly decoded: Decoded;
  readonly selected: readonly AuthorizationPolicy[];
  readonly snapshot: Snapshot;
  readonly ports: readonly number[];
}

/** The set as if this workload were alone in it. */
function ownSet({ input, decoded, selected, snapshot, ports }: Own): PolicySet {
  const { mesh, workload, tokens, modeOf, protocolOf } = snapshot;
  const { namespace, name, labels, serviceAccount } = workload;
  const subject: Subject = {
    name: name === '' ? 'this workload' : `${namespace}/${name}`,
    known: true,
    namespace,
    labels,
    serviceAccount,
    ports: new Map(ports.map((port) => [port, protocolOf(port)])),
    servicePorts: new Map(),
    mtlsPorts: [],
    modeOf,
  };
  const locate = locator(input.resources);
  const near = decoded.peerAuthentications.filter(
    (one) => one.namespace === namespace || one.namespace === mesh.rootNamespace,
  );
  const verifying = decoded.requestAuthentications.filter((one) =>
    tokens.policies.includes(`${one.namespace}/${one.name}`),
  );
  return {
    mesh,
    providers: decoded.mesh.extAuthz,
    peerAuthentications: locate(near, () => 'PeerAuthentication'),
    authorizationPolicies: locate(selected, () => 'AuthorizationPolicy'),
    requestAuthentications: locate(verifying, () => 'RequestAuthentication'),
    subjects: new Map([[namespace, [subject]]]),
    knowsWorkloads: true,
  };
}

function checkWarnings(set: PolicySet): readonly string[] {
  return CHECKS.flatMap((check) => check(set))
    .filter(({ severity }) => severity === 'Warning')
    .map(
      ({ resource, field, message, code }) => `${resource.replace('/', ' ')}: ${field}: ${message} (${code})`,
    );
}

/** The set's own warnings as far as they are about this workload or a policy that selects it. */
function ownWarnings(
  { warnings, tokens, workload }: Snapshot,
  selected: readonly AuthorizationPolicy[],
  problems: readonly Problem[],
): readonly string[] {
  const about = new Set([
    ...selected.map(({ namespace, name }) => `AuthorizationPolicy/${namespace}/${name}`),
    ...tokens.policies.map((name) => `RequestAuthentication/${name}`),
    `WorkloadEntry/${workload.namespace}/${workload.name}`,
    `Pod/${workload.namespace}/${workload.name}`,
  ]);
  const others = new Set(problems.filter(({ resource }) => !about.has(resource)).map(problemLine));
  return warnings.filter((warning) => !others.has(warning));
}
