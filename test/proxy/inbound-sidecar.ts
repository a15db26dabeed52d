/** The inbound data path in this process, with an authorizer and a verifier that the test speaks for. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { pino } from 'pino';
import type { Test } from 'tap';
import { checkCredentials } from '../../ca-client/check.ts';
import { parseDocuments } from '../../config/documents.ts';
import { compileSnapshot } from '../../config/snapshot.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import type { Ask, Decision } from '../../mesh/decision.ts';
import type { CheckAnswer, CheckRequest, ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import { type LimitName, limitsWith } from '../../mesh/limits.ts';
import type { NameResolver } from '../../mesh/name-resolver.ts';
import { problemLine } from '../../mesh/resource.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import type { JwtRule, TokenRequest, TokenVerdict } from '../../mesh/tokens.ts';
import type { Protocol } from '../../mesh/workload.ts';
import { DataPath } from '../../proxy/data-path.ts';
import { serveInbound } from '../../proxy/inbound.ts';
import { createAccessLog } from '../../telemetry/access-log.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { listen } from '../e2e/harness/apps.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import type { Leaf } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { provider as anyProvider } from '../providers/check-helper.ts';

/** A check under way. */
export interface Check {
  readonly request: CheckRequest;
  readonly signal: AbortSignal;
  answer(answer: CheckAnswer): void;
}

export const provider = anyProvider({
  name: 'doorkeeper',
  protocol: 'grpc',
  service: 'doorkeeper.shop.svc.cluster.local',
  port: 9000,
  timeout: 1_000,
});

export const passed = {
  kind: 'allowed',
  remove: [],
  set: [],
  path: null,
  answerFields: [],
} as const satisfies CheckAnswer;

const RULE: JwtRule = {
  issuer: 'me',
  audiences: [],
  required: false,
  jwks: '{"keys":[]}',
  jwksUri: null,
  fromHeaders: [],
  fromParams: ['access_token'],
  fromCookies: [],
  outputPayloadToHeader: null,
  outputClaimToHeaders: [],
  forwardOriginalToken: false,
  spaceDelimitedClaims: [],
  timeout: 1_000,
};

const ASK: Ask = { provider: provider.name, policy: 'shop/ask', rule: 0 };

export interface SidecarOptions {
  /** YAML of policies and mesh config, for the workload `shop/orders` with the label `app: orders`. */
  readonly resources?: string;
  /** Absent: no CUSTOM policy. */
  readonly provider?: ExtAuthzProvider;
  /** What CUSTOM policies say, instead of asking the provider of every request. */
  readonly ask?: (path: string | null) => Ask | Decision | null;
  /** Null or absent: no RequestAuthentication. */
  readonly verify?: ((request: TokenRequest) => TokenVerdict | Promise<TokenVerdict>) | null;
  readonly protocol?: Protocol;
  readonly limits?: Partial<Record<LimitName, number>>;
  /** Absent: TLS is refused for want of credentials. */
  readonly leaf?: Leaf;
  /** What Sidecar listeners and captured addresses mean. Absent: nothing is captured. */
  readonly intercept?: 'redirect';
  /** Absent: no name resolves. */
  readonly names?: NameResolver;
}

const SERVICES = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: doorkeeper, namespace: shop}
spec:
  hosts: [doorkeeper.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: grpc, protocol: GRPC}]
  endpoints: [{address: 127.0.0.1}]
---
`;

export interface InboundSidecar {
  readonly port: number;
  readonly path: DataPath;
  /** Lines of the log, parsed. */
  readonly lines: readonly Record<string, unknown>[];
  /** The access log's lines so far. */
  accessed(): Promise<readonly Record<string, unknown>[]>;
  /** The next check that nobody has looked at yet, waiting for it. */
  nextCheck(): Promise<Check>;
  /** Puts other resources in force. */
  apply(options: SidecarOptions): void;
}

export async function inboundSidecar(
  t: Test,
  appPort: number,
  options: SidecarOptions = {},
): Promise<InboundSidecar> {
  const { verify = null, protocol = 'http' } = options;
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => performance.now(), cluster: 'test' });
  const checks: Check[] = [];
  const logFile = `${tempDir(t)}/access.log`;
  const accessLog = createAccessLog({ path: logFile });
  const path = new DataPath({
    limits: limitsWith({ ...options.limits }),
    log,
    metrics,
    accessLog,
    readTlsFiles: () => {
      throw new Error('no files here');
    },
    names: options.names ?? {
      version: 0,
      known: () => null,
      resolve: (_name, done) => done.unresolved('ENOTFOUND'),
    },
    verifierOf: () => ({ verify: verify ?? (() => Promise.reject(new Error('nobody asks'))) }),
    extAuthz: {
      check: (_provider, request, signal) =>
        new Promise((answer) => void checks.push({ request, signal, answer })),
    },
  });
  path.applySnapshot(snapshotOf(options));
  if (options.leaf !== undefined) path.applyCredentials(credentialsOf(options.leaf));
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
    serveInbound(path, { port: 8080, protocol, app: { host: '127.0.0.1', port: appPort } }, socket),
  );
  const { port } = await listen(t, server);
  t.teardown(async () => {
    path.stop();
    await accessLog.close();
  });
  return {
    port,
    path,
    lines,
    accessed: async () => {
      await accessLog.flush();
      const text = readFileSync(logFile, 'utf8').trim();
      return text.split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
    },
    nextCheck: () => until('a check', () => checks.shift()),
    apply: (changed) => path.applySnapshot(snapshotOf(changed)),
  };
}

/** A test leaf as the data path takes it. */
export function credentialsOf({ cert, key, ca }: Leaf): Credentials {
  return checkCredentials({
    chain: [cert],
    keyPem: key,
    roots: [ca],
    origin: 'test',
    expected: null,
    now: Date.now(),
  });
}

function snapshotOf(options: SidecarOptions): Snapshot {
  const { resources: yaml = '', ask, verify = null, intercept = 'none' } = options;
  const asked = options.provider ?? null;
  const { resources, problems } = parseDocuments(SERVICES + yaml, 'test.yaml');
  const { snapshot, problems: all } = compileSnapshot({
    resources,
    problems,
    workload: {
      namespace: 'shop',
      name: 'orders',
      labels: new Map([['app', 'orders']]),
      serviceAccount: 'orders',
    },
    overrides: {},
    intercept,
    generation: 1,
  });
  if (snapshot === null) throw new Error(all.map(problemLine).join('\n'));
  return {
    ...snapshot,
    authorization: {
      ...snapshot.authorization,
      ask: (_connection, request) =>
        ask === undefined ? (asked === null ? null : ASK) : ask(request?.path ?? null),
    },
    tokens: verify === null ? snapshot.tokens : { policies: ['shop/tokens'], rules: [RULE] },
    extAuthz: new Map(asked === null ? [] : [[provider.name, asked]]),
  };
}
