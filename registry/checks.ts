/** The checks of names, hosts and addresses that Istio's webhook makes, shared by the decoders of this folder. */
import { isIP } from 'node:net';
import type { FieldPath } from '../mesh/resource.ts';
import type { Decoder, Reporter } from '../mesh/schema.ts';
import { listOf } from '../mesh/schema.ts';

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
  'hbone',
  'double-hbone',
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

/** A label value: a selector must not hold a wildcard (Istio: ValidateAlphaWorkloadSelector). */
export const selectorValue: Decoder<string> = stringThat(
  (text) => !text.includes('*'),
  'a label value without wildcard',
);

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
