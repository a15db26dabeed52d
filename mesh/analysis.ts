/** What checks of a whole set report: their stable codes and severities, and where a finding stands. */
import type { FieldPath, Problem, Resource, Severity } from './resource.ts';
import { fieldName } from './schema.ts';

/** Stable codes of what can be odd about a set whose resources are each valid. Never an Error. */
export const setChecks = {
  noWorkload: ['OLK0201', 'Warning'],
  workloadsUnknown: ['OLK0202', 'Info'],
  emptyNamespace: ['OLK0203', 'Info'],
  scopeConflict: ['OLK0204', 'Warning'],
  workloadConflict: ['OLK0205', 'Warning'],

  rootSelector: ['OLK0211', 'Warning'],
  servicePort: ['OLK0212', 'Warning'],
  unknownPort: ['OLK0213', 'Info'],

  unknownTrustDomain: ['OLK0221', 'Warning'],
  principalScheme: ['OLK0222', 'Warning'],
  malformedPrincipal: ['OLK0223', 'Warning'],
  unknownNamespace: ['OLK0224', 'Info'],
  unknownPrincipal: ['OLK0225', 'Info'],
  allowHttpOnTcp: ['OLK0226', 'Warning'],
  denyHttpOnTcp: ['OLK0227', 'Warning'],
  denyMissesPlaintext: ['OLK0228', 'Warning'],
  allowNeverOnPlaintext: ['OLK0229', 'Warning'],
  allowRefusesPlaintext: ['OLK0230', 'Info'],
  tokenNotVerified: ['OLK0231', 'Warning'],
  tokenNotDemanded: ['OLK0232', 'Warning'],
  unknownProvider: ['OLK0233', 'Warning'],
  twoProviders: ['OLK0234', 'Warning'],
  providerNotForTcp: ['OLK0235', 'Warning'],
  forGateways: ['OLK0236', 'Warning'],
  dryRun: ['OLK0237', 'Info'],
  methodCase: ['OLK0238', 'Warning'],
  pathNeverMatches: ['OLK0239', 'Warning'],
  hostWithPort: ['OLK0240', 'Warning'],
  hostWithoutPort: ['OLK0241', 'Info'],
  shadowed: ['OLK0242', 'Warning'],
  allowAdmitsPlaintext: ['OLK0243', 'Warning'],
  requestPrincipalForm: ['OLK0244', 'Warning'],
  unknownIssuer: ['OLK0245', 'Warning'],

  unknownHost: ['OLK0251', 'Warning'],
  emptySubset: ['OLK0252', 'Warning'],
  notMutualToStrict: ['OLK0253', 'Warning'],
  mutualToDisable: ['OLK0254', 'Warning'],
  plaintextToStrict: ['OLK0255', 'Warning'],
  notVerified: ['OLK0256', 'Warning'],
  systemRoots: ['OLK0257', 'Info'],
  doubleTls: ['OLK0258', 'Warning'],
  portNotOfService: ['OLK0259', 'Warning'],
  anyIdentity: ['OLK0260', 'Warning'],
  hidesRule: ['OLK0261', 'Info'],
  tunnelOff: ['OLK0262', 'Warning'],

  sameHost: ['OLK0271', 'Warning'],
  protocolConflict: ['OLK0272', 'Warning'],
  addressRequired: ['OLK0273', 'Info'],
  noEndpoint: ['OLK0274', 'Warning'],
  portName: ['OLK0275', 'Info'],
  noAccount: ['OLK0276', 'Info'],
  workloadPortConflict: ['OLK0277', 'Warning'],
  tunnelLabel: ['OLK0278', 'Warning'],
  tunnelPortUnused: ['OLK0279', 'Warning'],
  tunnelPortShared: ['OLK0280', 'Warning'],
} as const satisfies Record<string, readonly [code: string, severity: Exclude<Severity, 'Error'>]>;

export type SetCheck = keyof typeof setChecks;

/** A decoded resource and what it was decoded from. */
export interface Located<T> {
  readonly item: T;
  readonly resource: Resource;
}

/** Makes a problem of what `check` found at `path` of a resource. */
export function finding(resource: Resource, path: FieldPath, check: SetCheck, message: string): Problem {
  const { kind, namespace, name, origin } = resource;
  const [code, severity] = setChecks[check];
  return {
    code,
    severity,
    resource: `${kind}/${namespace}/${name}`,
    file: origin.file,
    line: origin.lineOf(path),
    field: fieldName(path),
    message,
  };
}

/** `kind NS/NAME`, for messages that point at another resource. */
export function resourceName({ kind, namespace, name }: Resource): string {
  return `${kind} ${namespace}/${name}`;
}

/** `a, b and 3 more`: a list of names that stays short. */
export function fewOf(names: readonly string[], shown = 2): string {
  const more = names.length - shown;
  return more > 0 ? `${names.slice(0, shown).join(', ')} and ${more} more` : names.join(', ');
}

/** `app=web,version=v1`, sorted. */
export function labelText(labels: ReadonlyMap<string, string>): string {
  return [...labels]
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(',');
}

/**
 * The problem of a selector that matches nobody: a Warning, or an Info where the set names no workload at all, as
 * one of policies alone does.
 * @param scope `namespace shop`, `any namespace`
 */
export function unmatchedSelector(
  resource: Resource,
  path: FieldPath,
  labels: ReadonlyMap<string, string>,
  scope: string,
  knowsWorkloads: boolean,
): Problem {
  const text = labelText(labels);
  return knowsWorkloads
    ? finding(resource, path, 'noWorkload', `no known workload of ${scope} has the labels ${text}`)
    : finding(
        resource,
        path,
        'workloadsUnknown',
        `not checked against workloads: the set names none (a workload of ${scope} with ${text} is taken to be there)`,
      );
}
