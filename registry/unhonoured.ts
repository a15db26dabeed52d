/** Parts of a traffic policy that are accepted without effect: still checked as Istio's schema and webhook check them. */
import type { FieldPath } from '../mesh/resource.ts';
import type { Decoder, Reporter } from '../mesh/schema.ts';
import { boolean, enumOf, integer, listOf, object, string } from '../mesh/schema.ts';
import { acceptedOnly, requireField, stringThat, unsigned } from './checks.ts';
import { checkLocality, checkZoneAware, localityShape, zoneAwareShape } from './locality.ts';

const NS_PER_MS = 1_000_000;
const UNITS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1_000,
  µs: 1_000,
  ms: NS_PER_MS,
  s: 1_000 * NS_PER_MS,
  m: 60_000 * NS_PER_MS,
  h: 3_600_000 * NS_PER_MS,
};
const DURATION = /^(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+$/;

function nanoseconds(text: string): number | null {
  if (text === '0') return 0;
  if (text.length > 64 || !DURATION.test(text)) return null;
  let total = 0;
  for (const [, number, unit] of text.matchAll(/([\d.]+)(ns|us|µs|ms|s|m|h)/g)) {
    total += Number(number) * (UNITS[unit ?? ''] ?? 0);
  }
  return Math.round(total);
}

/** Go's notation; "duration must be greater than 1ms", "only durations to ms precision" (Istio: ValidateDuration). */
export const duration: Decoder<string> = stringThat((text) => {
  const length = nanoseconds(text);
  return length !== null && length >= NS_PER_MS && length % NS_PER_MS === 0;
}, 'a duration of whole milliseconds, at least 1ms, such as 10s');

/** "0s … indicates that the timeout is disabled", and what is shorter than a millisecond counts as that. */
const durationOrNone: Decoder<string> = stringThat((text) => {
  const length = nanoseconds(text);
  return length !== null && (length < NS_PER_MS || length % NS_PER_MS === 0);
}, 'a duration of whole milliseconds such as 10s, or 0s');

const anyDuration: Decoder<string> = stringThat(
  (text) => nanoseconds(text.replace(/^[+-]/, '')) !== null,
  'a duration such as 10s',
);

/** int32 that the webhook wants "non-negative". */
const count = integer(0, 0x7fffffff);
const percent = integer(0, 100);

const number = (min: number, max: number): Decoder<number> => {
  return (value, path, reporter) => {
    if (typeof value === 'number' && value >= min && value <= max) return value;
    const range = max === Number.MAX_VALUE ? `at least ${min}` : `from ${min} to ${max}`;
    reporter.report(path, 'badValue', `must be a number ${range}, not ${JSON.stringify(value)}`);
    return undefined;
  };
};

const keepAlive = object({ interval: duration, timeout: duration });
const http = object({
  http1MaxPendingRequests: count,
  http2MaxRequests: count,
  maxRequestsPerConnection: count,
  maxRetries: count,
  idleTimeout: duration,
  h2UpgradePolicy: enumOf('DEFAULT', 'DO_NOT_UPGRADE', 'UPGRADE'),
  useClientProtocol: boolean,
  maxConcurrentStreams: count,
  http2KeepAlive: (value, path, reporter) => {
    const decoded = keepAlive(value, path, reporter);
    if (decoded === undefined) return undefined;
    requireField(decoded, 'interval', path, reporter);
    requireField(decoded, 'timeout', path, reporter);
    return decoded;
  },
});
const tcp = object({
  maxConnections: count,
  connectTimeout: duration,
  tcpKeepalive: object({ probes: unsigned, time: duration, interval: duration }),
  maxConnectionDuration: duration,
  idleTimeout: durationOrNone,
});
const poolFields = object({ tcp, http });

/** Istio's validateConnectionPool. */
const connectionPoolShape: Decoder<unknown> = (value, path, reporter) => {
  const pool = poolFields(value, path, reporter);
  if (pool === undefined) return undefined;
  if (Object.keys(pool).length === 0) reporter.report(path, 'missing', 'needs tcp or http');
  if (pool.http?.h2UpgradePolicy === 'UPGRADE' && pool.http.useClientProtocol) {
    reporter.report(
      [...path, 'http', 'useClientProtocol'],
      'badValue',
      'goes without h2UpgradePolicy UPGRADE',
    );
  }
  return pool;
};

export const connectionPool = acceptedOnly(
  connectionPoolShape,
  "connections are bounded by run's own limits",
);

/** Reports every field beyond the first of a protobuf oneof. */
function checkOneOf(decoded: object, names: readonly string[], path: FieldPath, reporter: Reporter): void {
  const given = names.filter((name) => Object.hasOwn(decoded, name));
  for (const name of given.slice(1)) {
    reporter.report([...path, name], 'badValue', `goes without ${given[0]}: only one of ${names.join(', ')}`);
  }
}

const cookieFields = object({
  name: string,
  path: string,
  ttl: anyDuration,
  attributes: listOf(object({ name: string, value: string })),
});
const httpCookie: Decoder<unknown> = (value, path, reporter) => {
  const cookie = cookieFields(value, path, reporter);
  if (cookie === undefined) return undefined;
  if (!cookie.name) reporter.report([...path, 'name'], 'missing', 'is required');
  const names = new Set<string>();
  (cookie.attributes ?? []).forEach(({ name }, i) => {
    const at = [...path, 'attributes', i, 'name'];
    if (!name) reporter.report(at, 'missing', 'is required');
    else if (names.has(name)) reporter.report(at, 'duplicate', `attribute ${name} is listed twice`);
    else names.add(name);
  });
  return cookie;
};

/** "To ensure we 100% match Envoy's implementation", which takes 0 for no prime, too. */
function isPrime(value: number): boolean {
  if (value !== 0 && value < 4) return true;
  if (value % 2 === 0) return false;
  for (let factor = 3; factor <= Math.sqrt(value); factor += 2) if (value % factor === 0) return false;
  return true;
}

const MAX_TABLE = 5_000_011;
const size = integer(0, Number.MAX_SAFE_INTEGER);
const hashFields = object({
  httpHeaderName: string,
  httpCookie,
  useSourceIp: boolean,
  httpQueryParameterName: string,
  ringHash: object({ minimumRingSize: size }),
  maglev: object({ tableSize: size }),
  minimumRingSize: size,
});
const consistentHash: Decoder<unknown> = (value, path, reporter) => {
  const hash = hashFields(value, path, reporter);
  if (hash === undefined) return undefined;
  checkOneOf(hash, ['httpHeaderName', 'httpCookie', 'useSourceIp', 'httpQueryParameterName'], path, reporter);
  checkOneOf(hash, ['ringHash', 'maglev'], path, reporter);
  if (hash.minimumRingSize && (hash.ringHash !== undefined || hash.maglev !== undefined)) {
    reporter.report([...path, 'minimumRingSize'], 'badValue', 'goes without ringHash and maglev');
  }
  if (hash.maglev !== undefined) {
    const { tableSize = 0 } = hash.maglev;
    if (tableSize >= MAX_TABLE || !isPrime(tableSize)) {
      reporter.report([...path, 'maglev', 'tableSize'], 'badValue', `must be a prime below ${MAX_TABLE}`);
    }
  }
  return hash;
};

const warmupFields = object({
  duration,
  minimumPercent: number(0, 100),
  aggression: number(Number.MIN_VALUE, Number.MAX_VALUE),
});
const warmup: Decoder<unknown> = (value, path, reporter) => {
  const decoded = warmupFields(value, path, reporter);
  if (decoded !== undefined) requireField(decoded, 'duration', path, reporter);
  return decoded;
};

const balancerFields = object({
  simple: enumOf('UNSPECIFIED', 'LEAST_CONN', 'RANDOM', 'PASSTHROUGH', 'ROUND_ROBIN', 'LEAST_REQUEST'),
  consistentHash,
  backendUtilization: object({
    errorUtilizationPenaltyPercent: unsigned,
    metricNamesForComputingUtilization: listOf(string),
    weightExpirationPeriod: anyDuration,
    weightStabilizationPeriod: anyDuration,
    weightUpdatePeriod: anyDuration,
    blackoutPeriod: anyDuration,
  }),
  localityLbSetting: localityShape,
  zoneAwareLbSetting: zoneAwareShape,
  warmupDurationSecs: duration,
  warmup,
});

/** Istio's validateLoadBalancer. */
const loadBalancerShape: Decoder<unknown> = (value, path, reporter) => {
  const balancer = balancerFields(value, path, reporter);
  if (balancer === undefined) return undefined;
  checkOneOf(balancer, ['simple', 'consistentHash', 'backendUtilization'], path, reporter);
  checkOneOf(balancer, ['localityLbSetting', 'zoneAwareLbSetting'], path, reporter);
  const { localityLbSetting, zoneAwareLbSetting } = balancer;
  if (localityLbSetting !== undefined) {
    checkLocality(localityLbSetting, [...path, 'localityLbSetting'], reporter);
  }
  if (zoneAwareLbSetting !== undefined) {
    checkZoneAware(zoneAwareLbSetting, [...path, 'zoneAwareLbSetting'], reporter);
  }
  return balancer;
};

export const loadBalancer = acceptedOnly(
  loadBalancerShape,
  'endpoints are chosen by least requests of two random ones',
);

const outlierFields = object({
  consecutiveErrors: integer(-0x80000000, 0x7fffffff),
  splitExternalLocalOriginErrors: boolean,
  consecutiveLocalOriginFailures: unsigned,
  consecutiveGatewayErrors: unsigned,
  consecutive5xxErrors: unsigned,
  interval: duration,
  baseEjectionTime: duration,
  maxEjectionPercent: percent,
  minHealthPercent: percent,
  outlierDetectionHttpErrorCodes: listOf(integer(100, 599)),
});

/** Istio's validateOutlierDetection. */
const outlierShape: Decoder<unknown> = (value, path, reporter) => {
  const outlier = outlierFields(value, path, reporter);
  if (outlier?.consecutiveLocalOriginFailures && !outlier.splitExternalLocalOriginErrors) {
    const at = [...path, 'consecutiveLocalOriginFailures'];
    reporter.report(at, 'badValue', 'needs splitExternalLocalOriginErrors: true');
  }
  return outlier;
};

export const outlierDetection = acceptedOnly(
  outlierShape,
  'an endpoint that does not accept is passed over, none is ejected',
);

export const proxyProtocol = acceptedOnly(object({ version: enumOf('V1', 'V2') }), 'no PROXY header is sent');

export const retryBudget = acceptedOnly(
  object({ percent: number(0, 100), minRetryConcurrency: unsigned, budgetInterval: anyDuration }),
  'requests are not retried',
);
