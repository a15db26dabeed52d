/** `decide`: how fast a compiled set of 10, 200 or 1,000 AuthorizationPolicies answers, and what each more costs. */
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import { parseIdentity } from '../mesh/identity.ts';
import type { Problem } from '../mesh/resource.ts';
import type { MeshSettings } from '../mesh/snapshot.ts';
import { type AuthorizationPolicy, decodeAuthorizationPolicy } from '../policy/authorization-policy.ts';
import { compileAuthorization } from '../policy/authorize.ts';
import type { Figures } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { type Timed, timeAll } from './rounds.ts';

const SIZES = [10, 200, 1000] as const;

const mesh: MeshSettings = {
  rootNamespace: 'istio-system',
  trustDomain: 'cluster.local',
  trustDomainAliases: [],
  outboundTrafficPolicy: 'ALLOW_ANY',
  pathNormalization: 'BASE',
  forwardedClientCert: 'SANITIZE_SET',
  meshTls: { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] },
  caCertificates: [],
};

/** Rules are tried in the order of their names: numbers of one width keep the middle in the middle. */
export function nameOf(index: number): string {
  return `caller-${String(index).padStart(4, '0')}`;
}

/** A way to write policies: the rule of the one whose caller is called `name`. */
type Kind = (name: string, index: number) => unknown;

const principal = (name: string) => ({
  from: [{ source: { principals: [`cluster.local/ns/bench/sa/${name}`] } }],
});

/** What teams write for one of their callers each. All but the last ask for an exact value somewhere. */
const kinds = {
  'principal, method, path prefix': (name) => ({
    ...principal(name),
    to: [{ operation: { methods: ['GET'], paths: [`/${name}/*`] } }],
  }),
  'path prefix alone': (name) => ({ to: [{ operation: { paths: [`/${name}/*`] } }] }),
  'header value': (name) => ({ when: [{ key: 'request.headers[x-caller]', values: [name] }] }),
  'claim of the token': (name) => ({ when: [{ key: 'request.auth.claims[team]', values: [name] }] }),
  mixed: (name, index) =>
    [
      principal(name),
      { from: [{ source: { serviceAccounts: [name] } }], to: [{ operation: { paths: [`/${name}/{*}`] } }] },
      { to: [{ operation: { hosts: [`${name}.example`], notMethods: ['POST'] } }] },
      { from: [{ source: { requestPrincipals: [`issuer/${name}`], ipBlocks: ['10.0.0.0/8'] } }] },
      { when: [{ key: 'request.headers[x-caller]', values: [name], notValues: ['x'] }] },
    ][index % 5],
  'path suffix: tried one by one': (name) => ({ to: [{ operation: { paths: [`*/${name}`] } }] }),
} as const satisfies Record<string, Kind>;

/** The spec of a policy as teams write them, one kind after the other. */
export function mixedSpec(index: number): unknown {
  return specOf(kinds.mixed, index);
}

function specOf(kind: Kind, index: number): unknown {
  return {
    selector: { matchLabels: { app: 'orders' } },
    action: 'ALLOW',
    rules: [kind(nameOf(index), index)],
  };
}

function policy(kind: Kind, index: number): AuthorizationPolicy {
  const name = nameOf(index);
  const problems: Problem[] = [];
  const decoded = decodeAuthorizationPolicy(
    {
      apiVersion: 'security.istio.io/v1',
      kind: 'AuthorizationPolicy',
      namespace: 'bench',
      name,
      labels: new Map(),
      annotations: new Map(),
      creationTimestamp: null,
      spec: specOf(kind, index),
      origin: { file: 'bench', lineOf: () => 1 },
    },
    problems,
  );
  if (decoded === null) throw new Error(problems.map(({ message }) => message).join('; '));
  return decoded;
}

function connectionOf(serviceAccount: string): ConnectionFacts {
  return {
    peer: parseIdentity(`spiffe://cluster.local/ns/bench/sa/${serviceAccount}`),
    sourceIp: '10.0.0.9',
    remoteIp: '10.0.0.9',
    destinationIp: '10.0.0.1',
    destinationPort: 8080,
    sni: null,
  };
}

/** A request that every kind of policy for `caller` matches. */
function requestOf(caller: string): RequestFacts {
  const headers: Readonly<Record<string, readonly string[]>> = { 'x-caller': [caller] };
  return {
    method: 'GET',
    host: `${caller}.example`,
    path: `/${caller}/${caller}?page=2`,
    headerValues: (name) => headers[name] ?? [],
    claims: { iss: 'issuer', sub: caller, team: caller },
    remoteIp: null,
  };
}

/** Times decisions, and the compiling of each set. */
export function benchDecide(options: BenchOptions, figures: Figures): void {
  const decisions: Timed[] = [];
  const compilations: Timed[] = [];
  for (const [what, kind] of Object.entries(kinds)) {
    for (const size of SIZES) {
      const policies = Array.from({ length: size }, (_, i) => policy(kind, i));
      const workload = { namespace: 'bench', labels: new Map([['app', 'orders']]) };
      const compile = () => compileAuthorization(policies, workload, mesh);
      const authorization = compile();
      const add = (caller: string, how: string, expected: string | null): void => {
        const connection = connectionOf(caller);
        const request = requestOf(caller);
        const run = () => authorization.decideRequest(connection, request);
        const { policy: decided, allowed } = run();
        if (decided !== expected || allowed !== (expected !== null)) throw new Error(`${what}: ${decided}`);
        decisions.push({ name: `${what}; ${size} policies, ${how}`, run });
      };
      const name = nameOf(size >> 1);
      add(name, 'the middle one matches', `bench/${name}`);
      add('stranger', 'none matches', null);
      if (what === 'mixed') compilations.push({ name: `${size} policies`, run: compile });
    }
  }
  timeAll('decide', decisions, options.rounds, figures);
  timeAll('compile', compilations, options.rounds, figures);
}
