/** What Istio's webhook and schema ask of every security policy alike: its annotations and its selector. */
import type { FieldPath, Resource } from '../mesh/resource.ts';
import { type Decoder, mapOf, object, type Reporter, string } from '../mesh/schema.ts';

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

/** Reports the annotations that no user may set. */
export function checkAnnotations(resource: Resource, reporter: Reporter): void {
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
