/** DestinationRule: how connections to a host are secured. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { listOf, object, Reporter, string } from '../mesh/schema.ts';
import {
  checkExportTo,
  isDnsLabel,
  isWildcardHostName,
  requireField,
  selectorOf,
  stringThat,
  tags,
} from './checks.ts';
import type { Aged } from './hosts.ts';
import { fullHost } from './hosts.ts';
import type { TrafficPolicy } from './traffic-policy.ts';
import { trafficPolicy } from './traffic-policy.ts';

export interface Subset {
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly trafficPolicy: TrafficPolicy | null;
}

export interface DestinationRule extends Aged {
  /** Full name in lower case, its first label perhaps a wildcard. */
  readonly host: string;
  readonly trafficPolicy: TrafficPolicy | null;
  readonly subsets: readonly Subset[];
  /** Empty: the mesh's default. `.` only, where there is a workloadSelector. */
  readonly exportTo: readonly string[];
  /** Which clients it is for; null: all. */
  readonly workloadSelector: ReadonlyMap<string, string> | null;
}

const subset = object({
  name: stringThat(isDnsLabel, 'a subset name: letters, digits and dashes'),
  labels: tags,
  trafficPolicy,
});

const fields = object({
  host: stringThat(isWildcardHostName, 'a host name, its first label perhaps a wildcard'),
  trafficPolicy,
  subsets: listOf(subset),
  exportTo: listOf(string),
  workloadSelector: selectorOf('matchLabels'),
});

/**
 * DestinationRule (networking.istio.io) → its decoded form; a short host is completed with the rule's namespace.
 * @returns null where the host is missing or wrong; all faults are added to `problems`.
 */
export function decodeDestinationRule(resource: Resource, problems: Problem[]): DestinationRule | null {
  const reporter = new Reporter(resource, problems);
  const spec = fields(resource.spec, ['spec'], reporter);
  if (spec === undefined) return null;
  if (spec.host === undefined) {
    requireField(spec, 'host', ['spec'], reporter);
    return null;
  }
  const names = new Set<string>();
  const subsets: Subset[] = [];
  (spec.subsets ?? []).forEach((item, i) => {
    if (item.name === undefined) {
      requireField(item, 'name', ['spec', 'subsets', i], reporter);
      return;
    }
    if (names.has(item.name)) {
      reporter.report(['spec', 'subsets', i, 'name'], 'duplicate', `subset ${item.name} is defined twice`);
    }
    names.add(item.name);
    subsets.push({
      name: item.name,
      labels: item.labels ?? new Map(),
      trafficPolicy: item.trafficPolicy ?? null,
    });
  });
  const exportTo = spec.exportTo ?? [];
  checkExportTo(exportTo, ['spec', 'exportTo'], reporter, false);
  const selected = spec.workloadSelector !== undefined;
  if (selected && exportTo.some((scope) => scope !== '.' && scope !== resource.namespace)) {
    reporter.report(
      ['spec', 'exportTo'],
      'badValue',
      'a rule with a workloadSelector stays in its namespace',
    );
  }
  return {
    name: resource.name,
    namespace: resource.namespace,
    createdAt: resource.creationTimestamp,
    host: fullHost(spec.host, resource.namespace).toLowerCase(),
    trafficPolicy: spec.trafficPolicy ?? null,
    subsets,
    exportTo: selected ? ['.'] : exportTo,
    workloadSelector: spec.workloadSelector ?? null,
  };
}
