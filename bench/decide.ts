/** `decide`: how fast a compiled set of 10, 200 or 1,000 AuthorizationPolicies answers. */
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
};

/** Rules are tried in the order of their names: numbers of one width keep the middle in the middle. */
function nameOf(index: number): string {
  return `caller-${String(index).padStart(4, '0')}`;
}

/** One caller, one method, one prefix of paths: what a team writes for one of its clients. */
function policy(index: number): AuthorizationPolicy {
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
      spec: {
        selector: { matchLabels: { app: 'orders' } },
        action: 'ALLOW',
        rules: [
          {
            from: [{ source: { principals: [`cluster.local/ns/bench/sa/${name}`] } }],
            to: [{ operation: { methods: ['GET'], paths: [`/api/${name}/*`] } }],
          },
        ],
      },
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

function requestOf(path: string): RequestFacts {
  return {
    method: 'GET',
    host: 'orders.bench.svc.cluster.local',
    path,
    headerValues: () => [],
    claims: null,
    remoteIp: null,
  };
}

/** Times decisions, and the compiling of each set. */
export function benchDecide(options: BenchOptions, figures: Figures): void {
  const decisions: Timed[] = [];
  const compilations: Timed[] = [];
  for (const size of SIZES) {
    const policies = Array.from({ length: size }, (_, i) => policy(i));
    const workload = { namespace: 'bench', labels: new Map([['app', 'orders']]) };
    const compile = () => compileAuthorization(policies, workload, mesh);
    const authorization = compile();
    const name = nameOf(size >> 1);
    const request = requestOf(`/api/${name}/7?page=2`);
    const add = (what: string, connection: ConnectionFacts, expected: string | null): void => {
      const run = () => authorization.decideRequest(connection, request);
      const { policy: decided, allowed } = run();
      if (decided !== expected || allowed !== (expected !== null)) throw new Error(`${what}: ${decided}`);
      decisions.push({ name: `${size} policies, ${what}`, run });
    };
    add('the middle one matches', connectionOf(name), `bench/${name}`);
    add('none matches', connectionOf('stranger'), null);
    compilations.push({ name: `${size} policies`, run: compile });
  }
  timeAll('decide', decisions, options.rounds, figures);
  timeAll('compile', compilations, options.rounds, figures);
}
