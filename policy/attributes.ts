/** What a rule can ask of a connection or a request: an entry for each attribute, with how its values are matched. */

import { compileCidrs } from '../mesh/cidr.ts';
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import type { Identity } from '../mesh/identity.ts';
import type { Json } from '../mesh/tokens.ts';
import {
  asOnTheWire,
  compileHosts,
  compileNamespaces,
  compilePorts,
  compilePrincipals,
  compileServiceAccounts,
  compileStrings,
  compileTrustDomains,
  isExact,
  lowerAscii,
} from './matchers.ts';
import { compileTemplate, isTemplate } from './path-template.ts';
import { compileRequestPrincipals, requestPrincipalKey } from './request-principal.ts';
import { isSecretHeader } from './secret-header.ts';
import { expandPrincipals, expandTrustDomains } from './trust-domain.ts';

/**
 * True where something holds. `request` is null and `path` empty for the TCP layer, where no test that reads them
 * is ever compiled in; `path` is the request's without its query, taken once for all rules.
 */
export type Test = (connection: ConnectionFacts, request: RequestFacts | null, path: string) => boolean;

/** What an attribute is for a connection or request, to be shown; null where there is none. */
export type Actual = (
  connection: ConnectionFacts,
  request: RequestFacts | null,
  path: string,
) => string | readonly string[] | null;

/** What the values of a policy's fields are read by. */
export interface PolicyContext {
  /** The local trust domain first, then its aliases. */
  readonly trustDomains: readonly string[];
  /** The policy's own, which short service accounts belong to. */
  readonly namespace: string;
}

/** A key of a connection or request by which rules that ask for one exact value are found. */
export interface Dimension {
  /** Two dimensions of one name are one. */
  readonly name: string;
  /** The keys of these facts; null: none, so no rule of this dimension matches; undefined: cannot be told. */
  keysOf(
    connection: ConnectionFacts,
    request: RequestFacts | null,
    path: string,
  ): string | readonly string[] | null | undefined;
}

export interface Attribute {
  readonly httpOnly: boolean;
  /** Compiles a list of values to a test that holds where any of them matches. */
  compile(values: readonly string[], context: PolicyContext): Test;
  readonly actual: Actual;
  /** Null: its values cannot be looked up. */
  readonly dimension: Dimension | null;
  /** The keys under which facts are found that any of `values` matches; null: these values cannot be looked up. */
  keys(values: readonly string[], context: PolicyContext): readonly string[] | null;
}

const NO_KEYS = { dimension: null, keys: () => null } as const;

/** The values themselves, where none is a pattern. */
function exactKeys(values: readonly string[]): readonly string[] | null {
  return values.every(isExact) ? values : null;
}

function identity(
  compile: (values: readonly string[], context: PolicyContext) => (peer: Identity | null) => boolean,
  lookup: Pick<Attribute, 'dimension' | 'keys'> = NO_KEYS,
): Attribute {
  return {
    httpOnly: false,
    compile(values, context) {
      const test = compile(values, context);
      return (connection) => test(connection.peer);
    },
    actual: ({ peer }) => peer?.principal ?? null,
    ...lookup,
  };
}

export const principals: Attribute = identity(
  (values, { trustDomains }) => compilePrincipals(expandPrincipals(values, trustDomains)),
  {
    dimension: { name: 'principal', keysOf: ({ peer }) => peer?.principal ?? null },
    keys: (values, { trustDomains }) => exactKeys(expandPrincipals(values, trustDomains)),
  },
);

/** An Istio identity has one namespace; in any other, and in one whose trust domain is `ns`, several may be found. */
function onlyNamespace(peer: Identity): string | undefined {
  const { namespace, uri } = peer;
  return namespace === null || uri.indexOf('/ns/') !== uri.lastIndexOf('/ns/') ? undefined : namespace;
}

export const namespaces: Attribute = identity(compileNamespaces, {
  dimension: { name: 'namespace', keysOf: ({ peer }) => (peer === null ? null : onlyNamespace(peer)) },
  keys: (values) => (values.some((value) => value.includes('*') || value.includes('/')) ? null : values),
});

export const serviceAccounts: Attribute = identity(
  (values, { namespace }) => compileServiceAccounts(values, namespace),
  {
    dimension: {
      name: 'serviceAccount',
      keysOf({ peer }) {
        if (peer === null) return null;
        const namespace = onlyNamespace(peer);
        return namespace === undefined ? undefined : `${namespace}/${peer.serviceAccount}`;
      },
    },
    keys: (values, { namespace }) =>
      values.map((value) => (value.includes('/') ? value : `${namespace}/${value}`)),
  },
);

export const trustDomains: Attribute = identity((values, context) =>
  compileTrustDomains(expandTrustDomains(values, context.trustDomains)),
);

function address(
  addressOf: (connection: ConnectionFacts, request: RequestFacts | null) => string,
): Attribute {
  return {
    httpOnly: false,
    compile(values) {
      const test = compileCidrs(values);
      return (connection, request) => test(addressOf(connection, request));
    },
    actual: addressOf,
    ...NO_KEYS,
  };
}

/** "`ipBlocks` is the connection's address." */
export const sourceIp: Attribute = address(({ sourceIp: own }) => own);

/** "`remoteIpBlocks` and `remote.ip` the original client's." */
export const remoteIp: Attribute = address((connection, request) => request?.remoteIp ?? connection.remoteIp);

export const destinationIp: Attribute = address(({ destinationIp: own }) => own);

export const ports: Attribute = {
  httpOnly: false,
  compile(values) {
    const test = compilePorts(values);
    return (connection) => test(connection.destinationPort);
  },
  actual: ({ destinationPort }) => String(destinationPort),
  dimension: { name: 'port', keysOf: ({ destinationPort }) => String(destinationPort) },
  keys: (values) => values.map((value) => String(Number(value))),
};

export const sni: Attribute = {
  httpOnly: false,
  compile(values) {
    const test = compileStrings(values, 'nonEmpty');
    // Envoy's requested server name is an empty string where none was sent.
    return (connection) => test(connection.sni ?? '');
  },
  actual: (connection) => connection.sni,
  dimension: { name: 'sni', keysOf: (connection) => connection.sni ?? '' },
  keys: exactKeys,
};

export const methods: Attribute = {
  httpOnly: true,
  compile(values) {
    const test = compileStrings(values, 'present');
    return (_connection, request) => request !== null && test(request.method);
  },
  actual: (_connection, request) => request?.method ?? null,
  dimension: { name: 'method', keysOf: (_connection, request) => request?.method ?? null },
  keys: exactKeys,
};

export const hosts: Attribute = {
  httpOnly: true,
  compile(values) {
    // "Hosts without regard to case, the port is not stripped."
    const test = compileHosts(values);
    return (_connection, request) => request !== null && test(request.host);
  },
  actual: (_connection, request) => request?.host ?? null,
  dimension: {
    name: 'host',
    keysOf: (_connection, request) => (request === null ? null : lowerAscii(request.host)),
  },
  keys: (values) => exactKeys(values)?.map(lowerAscii) ?? null,
};

export const paths: Attribute = {
  httpOnly: true,
  compile(values) {
    // "Paths: the query takes no part."
    const plain = compileStrings(
      values.filter((value) => !isTemplate(value)),
      'nonEmpty',
    );
    const templates = values.filter(isTemplate).map(compileTemplate);
    if (templates.length === 0) return (_connection, _request, path) => plain(path);
    return (_connection, _request, path) => plain(path) || templates.some((test) => test(path));
  },
  actual: (_connection, _request, path) => path,
  dimension: { name: 'segment', keysOf: (_connection, _request, path) => firstSegment(path) },
  keys(values) {
    const keys = values.map(segmentKey);
    return keys.every((key) => key !== null) ? keys : null;
  },
};

/** `/api/v1` → `api`; a path that does not start with a slash (`*`) is its own. */
function firstSegment(path: string): string {
  if (path.charCodeAt(0) !== 0x2f) return path;
  const end = path.indexOf('/', 1);
  return end < 0 ? path.slice(1) : path.slice(1, end);
}

/** The first segment of every path that `value` matches, where there is but one. */
function segmentKey(value: string): string | null {
  if (isTemplate(value)) {
    const segment = firstSegment(value);
    return value.startsWith('/') && !segment.includes('{') ? segment : null;
  }
  if (isExact(value)) return firstSegment(value);
  // A prefix such as `/api*` is also one of `/apis`.
  return value.startsWith('/') && value.indexOf('/', 1) > 0 ? firstSegment(value) : null;
}

/** `request.headers[NAME]`; `name` in lower case. "Each value is matched alone, never comma-joined." */
export function header(name: string): Attribute {
  const valuesOf = headerReader(name);
  return {
    httpOnly: true,
    compile(values) {
      // "`*` matches an empty value": it asks for the header alone.
      const test = compileStrings(asOnTheWire(values), 'present');
      return (_connection, request) => {
        if (request === null) return false;
        for (const value of valuesOf(request)) if (test(value)) return true;
        return false;
      };
    },
    actual(_connection, request) {
      const values = request === null ? [] : valuesOf(request);
      if (values.length === 0) return null;
      return isSecretHeader(name) ? '(not shown)' : values;
    },
    dimension: {
      name: `header ${name}`,
      keysOf: (_connection, request) => (request === null ? null : valuesOf(request)),
    },
    keys: (values) => exactKeys(asOnTheWire(values)),
  };
}

const SCHEME = /^https?$/;

/** Envoy keeps Host and the request line as headers too: `:path` with its query. */
function headerReader(name: string): (request: RequestFacts) => readonly string[] {
  switch (name) {
    case ':method':
      return (request) => [request.method];
    case ':path':
      return (request) => [request.path];
    case ':scheme':
      // Envoy takes it from this field, which every request has by then.
      return (request) => request.headerValues('x-forwarded-proto').filter((value) => SCHEME.test(value));
    case ':authority':
    case 'host':
      return (request) => [request.host];
    default:
      return (request) => request.headerValues(name);
  }
}

function requestPrincipalOf(_connection: ConnectionFacts, request: RequestFacts | null): string | null {
  return request === null || request.claims === null ? null : requestPrincipalKey(request.claims);
}

export const requestPrincipals: Attribute = {
  httpOnly: true,
  compile(values) {
    const test = compileRequestPrincipals(values);
    return (_connection, request) => request !== null && request.claims !== null && test(request.claims);
  },
  actual: requestPrincipalOf,
  dimension: { name: 'requestPrincipal', keysOf: requestPrincipalOf },
  keys: (values) => exactKeys(values)?.map((value) => (value.includes('/') ? value : `${value}/`)) ?? null,
};

/**
 * `request.auth.claims[a][b]`, `request.auth.audiences`, `request.auth.presenter`. "A string or a list of strings;
 * numbers, booleans and objects never match. `*` needs a non-empty value."
 */
export function claim(path: readonly string[]): Attribute {
  const foundIn = (request: RequestFacts | null): Json | undefined =>
    request === null ? undefined : claimAt(request.claims, path);
  return {
    httpOnly: true,
    compile(values) {
      const test = compileStrings(values, 'nonEmpty');
      return (_connection, request) => {
        const found = foundIn(request);
        if (typeof found === 'string') return test(found);
        return Array.isArray(found) && found.some((item) => typeof item === 'string' && test(item));
      };
    },
    actual(_connection, request) {
      const found = foundIn(request);
      if (found === undefined) return null;
      return Array.isArray(found) ? found.map(shown) : shown(found);
    },
    dimension: {
      name: `claim ${JSON.stringify(path)}`,
      keysOf(_connection, request) {
        const found = foundIn(request);
        if (typeof found === 'string') return found;
        return Array.isArray(found) ? found.filter((item) => typeof item === 'string') : null;
      },
    },
    keys: exactKeys,
  };
}

function shown(value: Json): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Walks objects only, and only what they hold themselves. */
function claimAt(claims: Json, path: readonly string[]): Json | undefined {
  let value: Json = claims;
  for (const name of path) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    const held: { readonly [name: string]: Json } = value as { readonly [name: string]: Json };
    if (!Object.hasOwn(held, name)) return undefined;
    value = held[name] ?? null;
  }
  return value;
}
