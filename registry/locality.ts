/** Locality settings of a load balancer: accepted without effect, checked as Istio's webhook checks them. */
import type { FieldPath } from '../mesh/resource.ts';
import type { Reporter } from '../mesh/schema.ts';
import { boolean, integer, listOf, mapOf, object, string } from '../mesh/schema.ts';
import { unsigned } from './checks.ts';

const failover = listOf(object({ from: string, to: string }));

export const localityShape = object({
  distribute: listOf(object({ from: string, to: mapOf(unsigned) })),
  failover,
  failoverPriority: listOf(string),
  enabled: boolean,
});

export const zoneAwareShape = object({
  enabled: boolean,
  failover,
  failoverPriority: listOf(string),
  minClusterSize: integer(1, 0xffffffff),
});

type Locality = NonNullable<ReturnType<typeof localityShape>>;
type ZoneAware = NonNullable<ReturnType<typeof zoneAwareShape>>;

const TOPOLOGY = new Set([
  'topology.kubernetes.io/region',
  'topology.kubernetes.io/zone',
  'topology.istio.io/subzone',
]);

/** Istio's ValidateLocalityLbSetting; like it, it stops at the first fault of some kinds. */
export function checkLocality(setting: Locality, path: FieldPath, reporter: Reporter): void {
  const { distribute = [], failover: pairs = [], failoverPriority = [] } = setting;
  if (distribute.length > 0 && pairs.length > 0) {
    reporter.report([...path, 'failover'], 'badValue', 'goes without distribute');
    return;
  }
  if (pairs.length > 0 && failoverPriority.some((name) => TOPOLOGY.has(name))) {
    reporter.report(
      [...path, 'failoverPriority'],
      'badValue',
      'names no topology label where failover is set',
    );
    return;
  }
  distribute.forEach(({ to = new Map<string, number>() }, i) => {
    const at = [...path, 'distribute', i, 'to'];
    const weights = [...to.values()];
    if (weights.some((weight) => weight < 1 || weight > 100)) {
      reporter.report(at, 'badValue', 'a weight is from 1 to 100');
    } else if (weights.reduce((sum, weight) => sum + weight, 0) !== 100) {
      reporter.report(at, 'badValue', 'the weights must add up to 100');
    }
    checkNames([...to.keys()], at, reporter);
  });
  checkNames(
    distribute.map(({ from }) => from ?? ''),
    [...path, 'distribute'],
    reporter,
  );
  checkFailover(pairs, [...path, 'failover'], reporter);
}

/** Istio's ValidateZoneAwareLbSetting. */
export function checkZoneAware(setting: ZoneAware, path: FieldPath, reporter: Reporter): void {
  const { failover: pairs = [], failoverPriority = [] } = setting;
  if (failoverPriority.some((name) => TOPOLOGY.has(name))) {
    reporter.report(
      [...path, 'failoverPriority'],
      'badValue',
      'names no topology label: these are followed anyway',
    );
  }
  checkFailover(pairs, [...path, 'failover'], reporter);
}

function checkFailover(
  pairs: readonly { readonly from: string | undefined; readonly to: string | undefined }[],
  path: FieldPath,
  reporter: Reporter,
): void {
  pairs.forEach(({ from = '', to = '' }, i) => {
    if (from === to) reporter.report([...path, i], 'badValue', 'from and to must be different regions');
    if (/[/*]/.test(from + to))
      reporter.report([...path, i], 'badValue', 'regions only: no zone, no wildcard');
  });
}

/** Region, zone and subzone must not be empty, a wildcard stands last, and no name covers another. */
function checkNames(names: readonly string[], path: FieldPath, reporter: Reporter): void {
  const seen: (readonly string[])[] = [];
  for (const name of names) {
    const parts = name.split('/', 3);
    const stars = name.split('*').length - 1;
    if (stars > 1 || (stars === 1 && !name.endsWith('*'))) {
      reporter.report(path, 'badValue', `${name}: a wildcard stands once, at the end`);
      return;
    }
    if (parts.includes('')) {
      reporter.report(path, 'badValue', `${JSON.stringify(name)} must have no empty region, zone or subzone`);
      return;
    }
    if (seen.some((other) => overlap(other, parts))) {
      reporter.report(path, 'badValue', `${name} overlaps one before it`);
      return;
    }
    seen.push(parts);
  }
}

/** One names the other, or a part of the world that holds it; `*` holds all. */
function overlap(a: readonly string[], b: readonly string[]): boolean {
  if (a[0] === '*') return true;
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const [one, other] = [a[i], b[i]];
    if (one === undefined || one === '*') return true;
    // A wider one after a narrower one of its region is a fault too.
    if (other === undefined) return true;
    if (one !== other) return false;
  }
  return true;
}
