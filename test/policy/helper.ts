/** Builds resources, facts and mesh settings for the policy tests from as little as a test wants to say. */
import { parse } from 'yaml';
import type { ConnectionFacts, RequestFacts } from '../../mesh/facts.ts';
import { type Identity, parseIdentity } from '../../mesh/identity.ts';
import type { Problem, Resource } from '../../mesh/resource.ts';
import type { MeshSettings } from '../../mesh/snapshot.ts';
import type { Claims } from '../../mesh/tokens.ts';
import { type AuthorizationPolicy, decodeAuthorizationPolicy } from '../../policy/authorization-policy.ts';
import { decodePeerAuthentication, type PeerAuthentication } from '../../policy/peer-authentication.ts';

export interface ResourceParts {
  readonly kind?: string;
  readonly namespace?: string;
  readonly name?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly creationTimestamp?: number | null;
  readonly spec?: unknown;
}

export function resource(parts: ResourceParts): Resource {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: parts.kind ?? 'AuthorizationPolicy',
    namespace: parts.namespace ?? 'foo',
    name: parts.name ?? 'p',
    labels: new Map(),
    annotations: new Map(Object.entries(parts.annotations ?? {})),
    creationTimestamp: parts.creationTimestamp ?? null,
    spec: parts.spec,
    origin: { file: 'test.yaml', lineOf: () => 1 },
  };
}

/** A policy from the YAML of its spec; throws with the problems of one that is not valid. */
export function policy(spec: string, parts: ResourceParts = {}): AuthorizationPolicy {
  const problems: Problem[] = [];
  const decoded = decodeAuthorizationPolicy(resource({ ...parts, spec: parse(spec) }), problems);
  if (decoded === null) throw new Error(problems.map((one) => `${one.field}: ${one.message}`).join('; '));
  return decoded;
}

export function peerAuthentication(parts: ResourceParts): PeerAuthentication {
  const problems: Problem[] = [];
  const decoded = decodePeerAuthentication(resource({ kind: 'PeerAuthentication', ...parts }), problems);
  if (decoded === null) throw new Error(problems.map((one) => `${one.field}: ${one.message}`).join('; '));
  return decoded;
}

export const mesh: MeshSettings = {
  rootNamespace: 'istio-system',
  trustDomain: 'cluster.local',
  trustDomainAliases: [],
  outboundTrafficPolicy: 'ALLOW_ANY',
  pathNormalization: 'BASE',
  forwardedClientCert: 'SANITIZE_SET',
  meshTls: { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] },
  caCertificates: [],
};

export interface Facts {
  /** Without its scheme; null or absent: plaintext. */
  readonly principal?: string | null;
  readonly sourceIp?: string;
  /** The original client's, by X-Forwarded-For. */
  readonly remoteIp?: string;
  readonly destinationIp?: string;
  readonly port?: number;
  readonly sni?: string;
  readonly method?: string;
  readonly host?: string;
  readonly path?: string;
  /** Names in lower case. */
  readonly headers?: Readonly<Record<string, readonly string[]>>;
  readonly claims?: Claims | null;
}

function identity(principal: string): Identity {
  const parsed = parseIdentity(`spiffe://${principal}`);
  if (parsed === null) throw new Error(`not an identity: ${principal}`);
  return parsed;
}

export function connection(facts: Facts = {}): ConnectionFacts {
  const sourceIp = facts.sourceIp ?? '10.0.0.9';
  return {
    peer: facts.principal == null ? null : identity(facts.principal),
    sourceIp,
    remoteIp: sourceIp,
    destinationIp: facts.destinationIp ?? '10.0.0.1',
    destinationPort: facts.port ?? 8080,
    sni: facts.sni ?? null,
  };
}

export function request(facts: Facts = {}): RequestFacts {
  return {
    method: facts.method ?? 'GET',
    host: facts.host ?? 'app.foo',
    path: facts.path ?? '/',
    headerValues: (name) => facts.headers?.[name] ?? [],
    claims: facts.claims ?? null,
    remoteIp: facts.remoteIp ?? null,
  };
}
