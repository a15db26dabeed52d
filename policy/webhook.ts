/** What Istio's webhook and schema ask of several kinds alike: annotations, selector, targets, lengths of lists. */
import type { FieldPath, Resource } from '../mesh/resource.ts';
import { type Decoder, listOf, mapOf, object, type Reporter, string } from '../mesh/schema.ts';

/** Istio bans them from what users write: the last two would raise a policy's reach. */
const BANNED_ANNOTATIONS = [
  'internal.istio.io/webhook-always-reject',
  'internal.istio.io/parents',
  'internal.istio.io/parent-namespace',
];

export const DRY_RUN = 'istio.io/dry-run';

/** Kubernetes' bound of a label value, which Istio's schema repeats. */
const MAX_LABEL_VALUE = 63;

/** The path of an annotation, for reports. */
export function annotationPath(name: string): FieldPath {
  return ['metadata', 'annotations', name];
}

/** Reports the annotations that no user may set, and a dry run of what cannot be tried out. */
export function checkAnnotations(resource: Resource, reporter: Reporter): void {
  if (resource.kind !== 'AuthorizationPolicy' && resource.annotations.has(DRY_RUN)) {
    const message = 'only an AuthorizationPolicy may carry it; remove it';
    reporter.report(annotationPath(DRY_RUN), 'badValue', message);
  }
  for (const name of BANNED_ANNOTATIONS) {
    if (resource.annotations.has(name)) {
      reporter.report(annotationPath(name), 'badValue', 'Istio keeps this annotation for itself; remove it');
    }
  }
}

const matchLabels: Decoder<ReadonlyMap<string, string>> = (value, path, reporter) => {
  const labels = mapOf(string)(value, path, reporter);
  if (labels === undefined) return undefined;
  for (const [key, label] of labels) {
    if (key === '') reporter.report([...path, key], 'badValue', 'a label needs a name');
    if (key.includes('*') || label.includes('*')) {
      reporter.report([...path, key], 'badValue', 'a selector takes no wildcard; it matches whole values');
    }
    if (label.length > MAX_LABEL_VALUE) {
      reporter.report([...path, key], 'badValue', `a label value has at most ${MAX_LABEL_VALUE} characters`);
    }
  }
  return labels;
};

/**
 * `selector`: its labels. One without labels selects the policy's whole scope, as none does, and is a Warning,
 * as from Istio's webhook.
 */
export const selector: Decoder<ReadonlyMap<string, string>> = (value, path, reporter) => {
  const before = reporter.problems.length;
  const decoded = object({ matchLabels })(value, path, reporter);
  if (decoded === undefined) return undefined;
  const labels = decoded.matchLabels ?? new Map<string, string>();
  if (labels.size === 0 && !hasErrors(reporter, before)) {
    reporter.report(path, 'badValue', 'a selector without labels selects every workload', 'Warning');
  }
  return labels;
};

/** True where an Error was reported since `reporter.problems` had `from` entries. */
export function hasErrors(reporter: Reporter, from: number): boolean {
  for (let i = from; i < reporter.problems.length; i++) {
    if (reporter.problems[i]?.severity === 'Error') return true;
  }
  return false;
}

/** A list of at most `max`; a longer one is reported and not read. */
export function boundedList<T>(member: Decoder<T>, max: number): Decoder<readonly T[]> {
  const decode = listOf(member);
  return (value, path, reporter) => {
    if (!Array.isArray(value) || value.length <= max) return decode(value, path, reporter);
    reporter.report(path, 'badValue', `has ${value.length} entries; Istio takes at most ${max}`);
    return undefined;
  };
}

/** `targetRef`: the gateway, waypoint or service a policy is for. */
export interface TargetRef {
  /** Empty: the core group. */
  readonly group: string;
  readonly kind: string;
  readonly name: string;
}

/** What Istio lets a policy refer to, as `group/kind`. */
const TARGET_KINDS = new Set([
  'core/Service',
  'networking.istio.io/ServiceEntry',
  'gateway.networking.k8s.io/Gateway',
  'gateway.networking.k8s.io/GatewayClass',
]);

/** Bounds of Istio's schema. */
const MAX_TARGETS = 16;
const MAX_TARGET_NAME = 253;

const targetRefFields = object({ group: string, kind: string, name: string, namespace: string });

/** `targetRef`, by the schema and `validatePolicyTargetReference` of Istio. */
export const targetRef: Decoder<TargetRef> = (value, path, reporter) => {
  const before = reporter.problems.length;
  const decoded = targetRefFields(value, path, reporter);
  if (decoded === undefined) return undefined;
  const { group = '', kind = '', name = '', namespace = '' } = decoded;
  if (hasErrors(reporter, before)) return undefined;
  if (kind === '') reporter.report([...path, 'kind'], 'missing', 'must be given');
  if (name === '') reporter.report([...path, 'name'], 'missing', 'must be given');
  if (name.length > MAX_TARGET_NAME) {
    reporter.report([...path, 'name'], 'badValue', `has at most ${MAX_TARGET_NAME} characters`);
  }
  if (namespace !== '') {
    reporter.report(
      [...path, 'namespace'],
      'badValue',
      "a policy refers only to its own namespace; leave this out, or move the policy to the target's namespace",
    );
  }
  if (kind !== '' && !TARGET_KINDS.has(`${group === '' ? 'core' : group}/${kind}`)) {
    reporter.report(
      [...path, 'kind'],
      'badValue',
      `must be one of ${[...TARGET_KINDS].join(', ')}, not ${group === '' ? 'core' : group}/${kind}`,
    );
  }
  return { group, kind, name };
};

/** `targetRefs`, at most as many as Istio's schema takes. */
export const targetRefs: Decoder<readonly TargetRef[]> = boundedList(targetRef, MAX_TARGETS);

/**
 * Reports a policy that says twice what it is for: Istio's schema takes `selector`, `targetRef` or `targetRefs`,
 * one of them, and counts an empty one too.
 */
export function checkOneTarget(
  spec: {
    readonly selector: unknown;
    readonly targetRef: unknown;
    readonly targetRefs: unknown;
  },
  reporter: Reporter,
): void {
  const given = (['selector', 'targetRef', 'targetRefs'] as const).filter((name) => spec[name] !== undefined);
  const [, second] = given;
  if (second !== undefined) {
    reporter.report(['spec', second], 'badValue', `only one of ${given.join(' and ')} can be set`);
  }
}

/** The targets of a policy, whichever field names them; a policy with any never selects a sidecar's workload. */
export function targetsOf(spec: {
  readonly targetRef: TargetRef | undefined;
  readonly targetRefs: readonly TargetRef[] | undefined;
}): readonly TargetRef[] {
  if (spec.targetRefs !== undefined && spec.targetRefs.length > 0) return spec.targetRefs;
  return spec.targetRef === undefined ? [] : [spec.targetRef];
}
