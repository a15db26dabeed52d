/** Reads what Kubernetes keeps around every spec: name, namespace, labels, annotations, creation time. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { anything, mapOf, object, Reporter, string } from '../mesh/schema.ts';
import { isKubernetes } from './kinds.ts';
import type { RawDocument, Sink } from './raw.ts';

/** Kubernetes' ObjectMeta, every field. */
const metadata = object({
  name: string,
  generateName: anything,
  namespace: string,
  selfLink: anything,
  uid: anything,
  resourceVersion: anything,
  generation: anything,
  creationTimestamp: string,
  deletionTimestamp: anything,
  deletionGracePeriodSeconds: anything,
  labels: mapOf(string),
  annotations: mapOf(string),
  ownerReferences: anything,
  finalizers: anything,
  clusterName: anything,
  managedFields: anything,
});

const TOP_LEVEL = new Set(['apiVersion', 'kind', 'metadata', 'spec', 'status']);
const NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?$/;
const MAX_NAME = 253;

/**
 * A document of a kind we read → a Resource, its spec unread.
 * @returns null where it has no usable metadata, after a report
 */
export function resourceOf(raw: RawDocument, kind: string, sink: Sink): Resource | null {
  const { value, file, lines } = raw;
  const given = value.metadata ?? {};
  const apiVersion = typeof value.apiVersion === 'string' ? value.apiVersion : '';
  const mesh = kind === 'MeshConfig';
  const kubernetes = isKubernetes(apiVersion, kind);
  const peek = given as { name?: unknown; namespace?: unknown };
  const resource = {
    apiVersion,
    kind,
    namespace: typeof peek.namespace === 'string' && peek.namespace !== '' ? peek.namespace : 'default',
    name: typeof peek.name === 'string' ? peek.name : mesh ? 'istio' : '',
    labels: new Map<string, string>(),
    annotations: new Map<string, string>(),
    creationTimestamp: null,
    // Protobuf's absent message is an empty one. Of a Kubernetes object more than its spec is read.
    spec: kubernetes ? value : (value.spec ?? {}),
    origin: { file, lineOf: lines.of },
  } satisfies Resource;
  const problems: Problem[] = [];
  const reporter = new Reporter(resource, problems);
  const meta = metadata(given, ['metadata'], reporter);
  if (!mesh && !kubernetes) {
    for (const key of Object.keys(value)) {
      if (TOP_LEVEL.has(key)) continue;
      reporter.report([key], 'unknownField', `unknown field; known here: ${[...TOP_LEVEL].join(', ')}`);
    }
  }
  if (resource.name === '') {
    if (peek.name === undefined || peek.name === null || peek.name === '') {
      reporter.report(['metadata', 'name'], 'missing', 'a name is required');
    }
  } else {
    checkName(resource.name, 'name', reporter);
  }
  checkName(resource.namespace, 'namespace', reporter);
  const created = creationTime(meta?.creationTimestamp, reporter);
  sink.problems.push(...problems);
  if (meta === undefined || resource.name === '') return null;
  return {
    ...resource,
    labels: meta.labels ?? resource.labels,
    annotations: meta.annotations ?? resource.annotations,
    creationTimestamp: created,
  };
}

function checkName(text: string, field: 'name' | 'namespace', reporter: Reporter): void {
  if (text.length <= MAX_NAME && NAME.test(text)) return;
  reporter.report(['metadata', field], 'badValue', `must be letters, digits, dashes and dots, not ${text}`);
}

/** RFC 3339 → milliseconds since the epoch. */
function creationTime(text: string | undefined, reporter: Reporter): number | null {
  if (text === undefined || text === '') return null;
  const time = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(time)) return time;
  reporter.report(
    ['metadata', 'creationTimestamp'],
    'badValue',
    'must be a time such as 2026-01-31T12:00:00Z',
  );
  return null;
}
