/** MeshConfig's `extensionProviders`: those of external authorization, checked as istiod does before it uses them. */
import { isIP } from 'node:net';
import { parseDuration } from '../mesh/duration.ts';
import type { ExtAuthzProvider } from '../mesh/ext-authz.ts';
import type { FieldPath } from '../mesh/resource.ts';
import type { Route } from '../mesh/route.ts';
import type { Decoder, Reporter } from '../mesh/schema.ts';
import { anything, boolean, integer, listOf, mapOf, notHonoured, object, string } from '../mesh/schema.ts';
import { isDnsLabel, isHostName, isWildcardHostName } from './checks.ts';

/** Istio's `timeoutOrDefault`. */
const DEFAULT_TIMEOUT = 600_000;
/** Zero is no limit in Envoy; no wait of ours is without one. */
const MAX_TIMEOUT = 86_400_000;
/** Envoy's `status_on_error` where none is given. */
const FORBIDDEN = 403;
/** envoy.type.v3.StatusCode, but for its 0 (which Envoy refuses here) and 100 (which ends no request). */
const STATUS_CODES = new Set([
  ...[200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308],
  ...[400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417],
  ...[421, 422, 423, 424, 426, 428, 429, 431, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511],
]);
const HEADER_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const HEADER_VALUE = /^[\t\x20-\x7e\u0080-\u{10ffff}]*$/u;
/** What Go's url.Parse refuses: control characters and a broken escape. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are looked for
const BAD_PREFIX = /[\0-\x1f\x7f]|%(?![0-9A-Fa-f]{2})/;

const uint32 = integer(0, 4_294_967_295);

/** As Istio's parser of mesh config has it: Go's time.ParseDuration. */
const duration: Decoder<number> = (value, path, reporter) => {
  const text = string(value, path, reporter);
  if (text === undefined) return undefined;
  const parsed = parseDuration(text);
  if (parsed === null)
    reporter.report(path, 'badValue', `must be a duration such as 600ms or 10s, not ${text}`);
  return parsed ?? undefined;
};

const requestBody = object({ maxRequestBytes: uint32, allowPartialMessage: boolean, packAsBytes: boolean });

const shared = {
  service: string,
  port: uint32,
  timeout: duration,
  failOpen: boolean,
  clearRouteCache: notHonoured('routes do not depend on what an authorizer changes'),
  statusOnError: string,
  includeRequestBodyInCheck: requestBody,
};

const grpcShape = object(shared);
const httpShape = object({
  ...shared,
  pathPrefix: string,
  includeHeadersInCheck: listOf(string),
  includeRequestHeadersInCheck: listOf(string),
  includeAdditionalHeadersInCheck: mapOf(string),
  headersToUpstreamOnAllow: listOf(string),
  headersToDownstreamOnDeny: listOf(string),
  headersToDownstreamOnAllow: listOf(string),
});

type HttpFields = Exclude<ReturnType<typeof httpShape>, undefined>;
type SharedFields = Exclude<ReturnType<typeof grpcShape>, undefined>;

/** The kinds that Telemetry, tracing and gateways use: not ours to judge. */
const OTHER_KINDS = [
  'zipkin',
  'lightstep',
  'datadog',
  'stackdriver',
  'opencensus',
  'skywalking',
  'opentelemetry',
  'prometheus',
  'envoyFileAccessLog',
  'envoyHttpAls',
  'envoyTcpAls',
  'envoyOtelAls',
  'sds',
] as const;

const providerShape = object({
  name: string,
  envoyExtAuthzHttp: httpShape,
  envoyExtAuthzGrpc: grpcShape,
  ...Object.fromEntries(OTHER_KINDS.map((kind) => [kind, anything])),
});

/**
 * Decodes the list. What Istio cannot even read (unknown fields, wrong types, two kinds in one entry) is an
 * Error; what makes istiod leave a provider unused (pilot's `processExtensionProvider`) is a Warning here, and
 * the provider's `fault`: policies that name it then deny.
 */
export const extensionProviders: Decoder<ReadonlyMap<string, ExtAuthzProvider>> = (value, path, reporter) => {
  const providers = new Map<string, ExtAuthzProvider>();
  const list = listOf<readonly [number, ExtAuthzProvider]>((item, itemPath, itemReporter) => {
    const provider = decodeProvider(item, itemPath, itemReporter);
    return provider === undefined ? undefined : [Number(itemPath.at(-1)), provider];
  })(value, path, reporter);
  for (const [index, provider] of list ?? []) {
    const faults = [provider.fault, nameFault(provider.name)];
    if (providers.has(provider.name)) faults.push(`name ${provider.name} is given to two providers`);
    const fault = faults.filter((text) => text !== null).join('; ') || null;
    if (fault !== null) {
      const what = `no policy can use this provider, what names it is denied: ${fault}`;
      reporter.report([...path, index], 'badValue', what, 'Warning');
    }
    providers.set(provider.name, { ...provider, fault });
  }
  return providers;
};

/** @returns undefined for a provider of another kind, or after a report */
function decodeProvider(value: unknown, path: FieldPath, reporter: Reporter): ExtAuthzProvider | undefined {
  const before = reporter.problems.length;
  const decoded = providerShape(value, path, reporter);
  const failed = reporter.problems.slice(before).some(({ severity }) => severity === 'Error');
  if (decoded === undefined || failed) return undefined;
  const kinds = ['envoyExtAuthzHttp', 'envoyExtAuthzGrpc', ...OTHER_KINDS].filter((kind) =>
    Object.hasOwn(decoded, kind),
  );
  if (kinds.length > 1) {
    reporter.report(path, 'duplicate', `has ${kinds.join(' and ')}: a provider is of one kind`);
    return undefined;
  }
  const { envoyExtAuthzHttp, envoyExtAuthzGrpc } = decoded;
  const name = decoded.name ?? '';
  if (envoyExtAuthzHttp !== undefined) return httpProvider(name, envoyExtAuthzHttp);
  if (envoyExtAuthzGrpc !== undefined) return grpcProvider(name, envoyExtAuthzGrpc);
  if (kinds.length === 0)
    reporter.report(path, 'missing', 'names no kind of provider, so it is none', 'Warning');
  return undefined;
}

function grpcProvider(name: string, fields: SharedFields): ExtAuthzProvider {
  return {
    name,
    protocol: 'grpc',
    ...common(fields),
    pathPrefix: '',
    includeRequestHeadersInCheck: [],
    includeAdditionalHeadersInCheck: new Map(),
    headersToUpstreamOnAllow: [],
    headersToDownstreamOnAllow: [],
    headersToDownstreamOnDeny: [],
    fault: sharedFaults(fields).join('; ') || null,
  };
}

function httpProvider(name: string, fields: HttpFields): ExtAuthzProvider {
  const {
    pathPrefix = '',
    includeHeadersInCheck = [],
    includeRequestHeadersInCheck = [],
    includeAdditionalHeadersInCheck: additional = new Map<string, string>(),
    headersToUpstreamOnAllow = [],
    headersToDownstreamOnAllow = [],
    headersToDownstreamOnDeny = [],
  } = fields;
  const lists = {
    includeRequestHeadersInCheck,
    includeHeadersInCheck,
    headersToDownstreamOnDeny,
    headersToDownstreamOnAllow,
    headersToUpstreamOnAllow,
  };
  const faults = sharedFaults(fields);
  if (pathPrefix !== '' && !pathPrefix.startsWith('/'))
    faults.push(`pathPrefix ${pathPrefix} must begin with /`);
  if (BAD_PREFIX.test(pathPrefix)) faults.push('pathPrefix holds a control character or a broken %-escape');
  for (const [field, names] of Object.entries(lists)) {
    if (names.includes('*')) faults.push(`${field}: * alone is not supported, make it a prefix or a suffix`);
  }
  for (const [header, value] of additional) faults.push(...additionalFault(header, value));
  return {
    name,
    protocol: 'http',
    ...common(fields),
    pathPrefix,
    // "IncludeHeadersInCheck is deprecated, only use it if IncludeRequestHeadersInCheck is not set."
    includeRequestHeadersInCheck:
      includeRequestHeadersInCheck.length > 0 ? includeRequestHeadersInCheck : includeHeadersInCheck,
    includeAdditionalHeadersInCheck: new Map(
      // Envoy's formatter writes a percent sign as two.
      [...additional].map(([header, text]) => [header, text.replaceAll('%%', '%')]),
    ),
    headersToUpstreamOnAllow,
    headersToDownstreamOnAllow,
    headersToDownstreamOnDeny,
    fault: faults.join('; ') || null,
  };
}

/** Envoy refuses the whole listener for these, so that nothing gets in either. */
function additionalFault(header: string, value: string): string[] {
  const field = `includeAdditionalHeadersInCheck[${header}]`;
  if (!HEADER_NAME.test(header) || header.toLowerCase() === 'host')
    return [`${field}: no header that can be set`];
  if (!HEADER_VALUE.test(value)) return [`${field}: its value holds a control character`];
  if (value.replaceAll('%%', '').includes('%')) {
    return [`${field}: Envoy's %COMMANDS% are not supported, write %% for a percent sign`];
  }
  return [];
}

function common(fields: SharedFields) {
  const { service = '', port = 0, timeout = DEFAULT_TIMEOUT, includeRequestBodyInCheck: body } = fields;
  const status = statusOf(fields.statusOnError);
  return {
    service,
    port,
    timeout: timeout === 0 ? MAX_TIMEOUT : Math.min(timeout, MAX_TIMEOUT),
    failOpen: fields.failOpen ?? false,
    statusOnError: STATUS_CODES.has(status) ? status : FORBIDDEN,
    requestBody:
      body === undefined
        ? null
        : {
            maxRequestBytes: body.maxRequestBytes ?? 0,
            allowPartialMessage: body.allowPartialMessage ?? false,
            packAsBytes: body.packAsBytes ?? false,
          },
  };
}

/** Go's strconv.ParseInt takes a sign and leading zeros. */
function statusOf(text: string | undefined): number {
  if (text === undefined || text === '') return FORBIDDEN;
  return /^[+-]?\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
}

function sharedFaults(fields: SharedFields): string[] {
  const faults: string[] = [];
  const { service = '', port = 0, statusOnError, includeRequestBodyInCheck: body } = fields;
  if (!isService(service)) {
    faults.push(
      service === '' ? 'service is missing' : `service ${service} is neither HOST nor NAMESPACE/HOST`,
    );
  }
  if (port < 1 || port > 65_535) faults.push(`port must be from 1 to 65535, not ${port}`);
  if (!STATUS_CODES.has(statusOf(statusOnError))) {
    faults.push(`statusOnError ${statusOnError} is no status Envoy knows`);
  }
  // Envoy's own validation of with_request_body.
  if (body !== undefined && (body.maxRequestBytes ?? 0) === 0) {
    faults.push('includeRequestBodyInCheck.maxRequestBytes must be greater than 0');
  }
  return faults;
}

/** Istio's validateExtensionProviderService; a namespace may not be hidden or a wildcard, for nothing is found then. */
function isService(service: string): boolean {
  const parts = service.split('/');
  if (parts.length === 1) return isHostName(service) || isIP(service) !== 0;
  const [namespace = '', host = ''] = parts;
  return parts.length === 2 && isDnsLabel(namespace) && host.includes('.') && isWildcardHostName(host);
}

/** Istio's validateProviderName: the name becomes part of metadata keys. Null: nothing is wrong. */
function nameFault(name: string): string | null {
  if (name === '') return 'name is missing';
  if (name.length > 63) return 'name is longer than 63 characters';
  if (!/^[a-z0-9-]+$/.test(name)) return `name ${name} may hold lower-case letters, digits and dashes only`;
  if (name.startsWith('-') || name.endsWith('-')) return `name ${name} may not begin or end with a dash`;
  return null;
}

/**
 * The route to a provider's service; null where nobody defines it.
 * @param service `HOST`, or `NS/HOST` where it must be that namespace's
 */
export function routeOfProvider(
  route: (host: string, port: number) => Route | null,
  service: string,
  port: number,
): Route | null {
  const { namespace, host } = partsOfService(service);
  const found = route(host, port);
  return namespace === null || found?.service.namespace === namespace ? found : null;
}

/** A provider's `service`, `HOST` or `NS/HOST`, taken apart; null: of any namespace. */
export function partsOfService(service: string): {
  readonly namespace: string | null;
  readonly host: string;
} {
  const slash = service.indexOf('/');
  return { namespace: slash < 0 ? null : service.slice(0, slash), host: service.slice(slash + 1) };
}

/**
 * The providers as a workload can use them: one whose service is not known has that for its fault. Istio
 * (`LookupCluster`) then denies what names it, whatever its `failOpen` says.
 */
export function usableProviders(
  providers: ReadonlyMap<string, ExtAuthzProvider>,
  route: (host: string, port: number) => Route | null,
): ReadonlyMap<string, ExtAuthzProvider> {
  return new Map(
    [...providers].map(([name, provider]) => {
      const { service, port, fault } = provider;
      if (fault !== null || routeOfProvider(route, service, port) !== null) return [name, provider];
      return [name, { ...provider, fault: `no service ${service} with port ${port} is known` }];
    }),
  );
}
