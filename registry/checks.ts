/** The checks of names, hosts and addresses that Istio's webhook makes, shared by the decoders of this folder. */
import { isIP } from 'node:net';
import type { FieldPath } from '../mesh/resource.ts';
import type { Decoder, Reporter } from '../mesh/schema.ts';
import { integer, listOf, mapOf, object, string } from '../mesh/schema.ts';

/** Istio's labels.IsDNS1123Label: letters of either case, unlike Kubernetes'. */
const DNS_LABEL = /^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$/;
/** The first label may be `*`, or start with `*` or `*-` (labels.IsWildcardDNS1123Label). */
const WILDCARD_LABEL = /^(?:\*|(?:\*-?)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)$/;
/** RFC 1035 §2.3.4, as Istio counts: characters of a name and of a label. */
const MAX_NAME = 255;
const MAX_LABEL = 63;
const ALL_DIGITS = /^[+-]?\d+$/;

/** The protocols Istio's `protocol.Parse` knows. */
const PROTOCOLS = new Set([
  'tcp',
  'udp',
  'grpc',
  'grpc-web',
  'http',
  'http_proxy',
  'http2',
  'https',
  'tls',
  'mongo',
  'redis',
  'mysql',
]);
/** Of these, what tells hosts apart by itself: `IsHTTP` and `IsTLS` of Istio's protocol package. */
const TELLS_HOSTS_APART = new Set(['http', 'http2', 'http_proxy', 'grpc', 'grpc-web', 'https', 'tls']);

export function isDnsLabel(name: string): boolean {
  return name.length <= MAX_LABEL && DNS_LABEL.test(name);
}

function areDnsLabels(labels: readonly string[]): boolean {
  if (ALL_DIGITS.test(labels.at(-1) ?? '')) return false;
  // A last empty part is allowed: `istio.io.` is an unambiguous name.
  return labels.every((label, i) => isDnsLabel(label) || (i === labels.length - 1 && label === ''));
}

/** A full name without wildcard (Istio: ValidateFQDN). */
export function isHostName(name: string): boolean {
  return name !== '' && name.length <= MAX_NAME && areDnsLabels(name.split('.'));
}

/** A name whose first label may be a wildcard (Istio: ValidateWildcardDomain). */
export function isWildcardHostName(name: string): boolean {
  if (name === '' || name.length > MAX_NAME) return false;
  const [first = '', ...rest] = name.split('.');
  return first.length <= MAX_LABEL && WILDCARD_LABEL.test(first) && (rest.length === 0 || areDnsLabels(rest));
}

/** An IP address, or one with a prefix length (Istio: ValidateIPSubnet). */
export function isSubnet(text: string): boolean {
  const slash = text.indexOf('/');
  if (slash < 0) return isIP(text) !== 0;
  const family = isIP(text.slice(0, slash));
  const bits = text.slice(slash + 1);
  return family !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128);
}

/** `unix://` and an absolute path to a file, or an abstract name (Istio: ValidateUnixAddress). */
export function isUnixAddress(text: string): boolean {
  if (!text.startsWith('unix://')) return false;
  const path = text.slice('unix://'.length);
  return path.startsWith('@') || (path.startsWith('/') && !path.endsWith('/'));
}

export function tellsHostsApart(protocol: string | undefined): boolean {
  return protocol !== undefined && TELLS_HOSTS_APART.has(protocol.toLowerCase());
}

/** A string for which `holds`; `what` completes "must be …". */
export function stringThat(holds: (text: string) => boolean, what: string): Decoder<string> {
  return (value, path, reporter) => {
    if (typeof value === 'string' && holds(value)) return value;
    reporter.report(path, 'badValue', `must be ${what}, not ${JSON.stringify(value)}`);
    return undefined;
  };
}

export const protocolName: Decoder<string> = stringThat(
  (text) => text === '' || PROTOCOLS.has(text.toLowerCase()),
  'a protocol that Istio knows (HTTP, HTTPS, HTTP2, GRPC, TCP, TLS, …)',
);

export const portName: Decoder<string> = stringThat(
  isDnsLabel,
  'a port name: letters, digits and dashes, at most 63',
);

/** Protobuf's uint32. */
export const unsigned = integer(0, 0xffffffff);

/** Istio's labels.Instance.Validate: keys as Kubernetes has them; values too, but of any length. */
const TAG = '[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?';
const TAG_VALUE = /^(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/;
const TAG_KEY = new RegExp(`^(?:(?<prefix>[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?)/)?${TAG}$`);
const MAX_PREFIX = 253;

/** Labels of an endpoint or a subset. */
export const tags: Decoder<ReadonlyMap<string, string>> = (value, path, reporter) => {
  const labels = mapOf(string)(value, path, reporter);
  if (labels === undefined) return undefined;
  for (const [key, text] of labels) {
    const prefix = TAG_KEY.exec(key)?.groups?.prefix;
    if (!TAG_KEY.test(key) || (prefix?.length ?? 0) > MAX_PREFIX) {
      reporter.report([...path, key], 'badValue', `${JSON.stringify(key)} is no label key`);
    }
    if (!TAG_VALUE.test(text)) {
      reporter.report([...path, key], 'badValue', `${JSON.stringify(text)} is no label value`);
    }
  }
  return labels;
};

/**
 * A selector whose labels stand under `field` (Istio: ValidateAlphaWorkloadSelector, validateWorkloadSelector).
 * One without labels selects the whole namespace and is a Warning.
 */
export function selectorOf(field: 'labels' | 'matchLabels'): Decoder<ReadonlyMap<string, string>> {
  const shape: Decoder<Readonly<Record<string, ReadonlyMap<string, string> | undefined>>> = object({
    [field]: mapOf(string),
  });
  return (value, path, reporter) => {
    const labels = shape(value, path, reporter)?.[field] ?? new Map<string, string>();
    if (labels.size === 0) {
      reporter.report(path, 'missing', 'a selector without labels selects the whole namespace', 'Warning');
    }
    for (const [key, text] of labels) {
      const at = [...path, field, key];
      if (key === '') reporter.report(at, 'badValue', 'a label needs a name');
      if (key.includes('*') || text.includes('*')) {
        reporter.report(at, 'badValue', 'a selector takes no wildcard; it matches whole values');
      }
      if (text.length > MAX_LABEL) {
        reporter.report(at, 'badValue', `a label value has at most ${MAX_LABEL} characters`);
      }
    }
    return labels;
  };
}

/** Runs a shape check for unknown fields, then says that the field has no effect here. */
export function acceptedOnly(shape: Decoder<unknown>, why: string): Decoder<unknown> {
  return (value, path, reporter) => {
    shape(value, path, reporter);
    reporter.report(path, 'notHonoured', `accepted but not honoured: ${why}`, 'Warning');
    return value;
  };
}

/** Reports a field that must be there and is not; one that is there but wrong has been reported already. */
export function requireField(decoded: object, field: string, path: FieldPath, reporter: Reporter): void {
  if (!Object.hasOwn(decoded, field)) reporter.report([...path, field], 'missing', 'is required');
}

/** A list of at least one. */
export function someOf<T>(member: Decoder<T>, what: string): Decoder<readonly T[]> {
  const list = listOf(member);
  return (value, path, reporter) => {
    if (Array.isArray(value) && value.length === 0) {
      reporter.report(path, 'missing', `at least one ${what} is required`);
    }
    return list(value, path, reporter);
  };
}

/**
 * Checks `exportTo` as Istio's validateExportTo does: no duplicates, `*` and `~` alone, else `.` or a namespace.
 * @param mayHide ServiceEntry only: `~` exports to no one
 */
export function checkExportTo(
  exportTo: readonly string[],
  path: FieldPath,
  reporter: Reporter,
  mayHide: boolean,
): void {
  const seen = new Set<string>();
  exportTo.forEach((entry, i) => {
    const scope = entry === '.' ? reporter.resource.namespace : entry;
    if (seen.has(scope)) reporter.report([...path, i], 'duplicate', `${entry} is listed twice`);
    seen.add(scope);
    const known = entry === '.' || entry === '*' || (mayHide && entry === '~') || isDnsLabel(entry);
    if (!known) reporter.report([...path, i], 'badValue', `must be ., * or a namespace, not ${entry}`);
  });
  if (exportTo.length > 1 && (seen.has('*') || seen.has('~'))) {
    reporter.report(path, 'badValue', '* and ~ stand alone');
  }
}
