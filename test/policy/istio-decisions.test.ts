/** Decisions held to Istio and Envoy: recorded answers of the real thing, row by row (see the fixtures' README). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Authorization, Decision } from '../../mesh/decision.ts';
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { ConnectionFacts } from '../../mesh/facts.ts';
import { parseIdentity } from '../../mesh/identity.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { MeshSettings, PathNormalization } from '../../mesh/snapshot.ts';
import type { Claims } from '../../mesh/tokens.ts';
import { decodeAuthorizationPolicy } from '../../policy/authorization-policy.ts';
import { compileAuthorization } from '../../policy/authorize.ts';
import { normalizeTarget } from '../../policy/path.ts';
import { addFields } from '../../proxy/http/added-fields.ts';
import { forwardedCert, peersCert } from '../../proxy/http/forwarded-cert.ts';
import { forwardedFor } from '../../proxy/http/forwarded-for.ts';
import { HeadError, type RequestHead } from '../../proxy/http/head.ts';
import { parseRequest } from '../../proxy/http1/request-head.ts';
import { decodeMeshConfig } from '../../registry/mesh-config.ts';
import { mesh as defaults, resource } from './helper.ts';

interface Row {
  readonly principal?: string | null;
  readonly sourceIp?: string;
  readonly remoteIp?: string;
  readonly destinationIp?: string;
  readonly port?: number;
  readonly sni?: string;
  readonly tcp?: boolean;
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly headers?: readonly (readonly [name: string, value: string])[];
  readonly claims?: Claims;
}

interface PolicySet {
  readonly name: string;
  readonly policies: readonly {
    readonly namespace?: string;
    readonly name?: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly spec?: unknown;
  }[];
  readonly mesh?: {
    readonly trustDomain?: string;
    readonly trustDomainAliases?: readonly string[];
    readonly pathNormalization?: { readonly normalization: PathNormalization | 'DEFAULT' };
    readonly extensionProviders?: readonly unknown[];
  };
  /** The workload's; absent: `app: web`. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly facts: string;
  readonly answers: string;
  readonly by?: readonly (string | null)[];
  readonly asks?: readonly (string | null)[];
  readonly audit?: string;
  readonly dryRunAllow?: readonly (string | null)[];
  readonly dryRunDeny?: readonly (string | null)[];
  readonly paths?: readonly (string | null)[];
}

interface Departure {
  readonly why: string;
  readonly name: RegExp;
  readonly row: (row: Row) => boolean;
}

/** Where we judge otherwise (docs/POLICY.md). One that no row needs any more fails. */
const departures: readonly Departure[] = [
  {
    why: 'TE ends at each hop: stripped before policy sees the request',
    name: /^header te /,
    row: () => true,
  },
];

function departureOf(set: PolicySet, row: Row): Departure | undefined {
  return departures.find((departure) => departure.name.test(set.name) && departure.row(row));
}

function settingsOf({ mesh = {} }: PolicySet): MeshSettings {
  const normalization = mesh.pathNormalization?.normalization ?? 'DEFAULT';
  return {
    ...defaults,
    trustDomain: mesh.trustDomain ?? defaults.trustDomain,
    trustDomainAliases: mesh.trustDomainAliases ?? [],
    pathNormalization: normalization === 'DEFAULT' ? 'BASE' : normalization,
  };
}

function providersOf({ mesh = {} }: PolicySet): ReadonlyMap<string, ExtAuthzProvider> {
  const spec = { extensionProviders: mesh.extensionProviders ?? [] };
  return decodeMeshConfig(resource({ kind: 'MeshConfig', spec }), []).extAuthz ?? new Map();
}

function compile(set: PolicySet): Authorization {
  const policies = set.policies.map((parts) => {
    const problems: Problem[] = [];
    const decoded = decodeAuthorizationPolicy(resource(parts), problems);
    if (decoded === null) throw new Error(`${set.name}: ${problems.map((one) => one.message).join('; ')}`);
    return decoded;
  });
  const labels = new Map(Object.entries(set.labels ?? { app: 'web' }));
  return compileAuthorization(policies, { namespace: 'foo', labels }, settingsOf(set), providersOf(set));
}

function connectionOf(row: Row): ConnectionFacts {
  const sourceIp = row.sourceIp ?? '10.0.0.9';
  const remoteIp = row.remoteIp ?? sourceIp;
  return {
    peer: row.principal == null ? null : parseIdentity(`spiffe://${row.principal}`),
    sourceIp,
    remoteIp,
    destinationIp: row.destinationIp ?? (remoteIp.includes(':') ? '2001:db8::1' : '10.0.0.1'),
    destinationPort: row.port ?? 8080,
    sni: row.sni?.toLowerCase() ?? null,
  };
}

/** The request as the data path's reader has it; null where the reader refuses it. */
function requestOf(row: Row, normalization: PathNormalization): RequestHead | null {
  const lines = [`${row.method ?? 'GET'} ${row.path ?? '/'} HTTP/1.1`, `host: ${row.host ?? 'app.foo'}`];
  for (const [name, value] of row.headers ?? []) lines.push(`${name}: ${value}`);
  try {
    const head = parseRequest(lines.join('\r\n'), { maxFields: 100 }, (target) =>
      normalizeTarget(target, normalization),
    );
    head.remoteIp = forwardedFor(head.fields);
    const peers =
      row.principal == null ? null : peersCert('spiffe://td/own', 'hash', `spiffe://${row.principal}`);
    const cert = forwardedCert({ how: defaults.forwardedClientCert, sent: head.forwardedCert, peers });
    addFields(head, row.principal != null);
    if (cert !== null) head.add(cert);
    return head;
  } catch (error) {
    if (error instanceof HeadError) return null;
    throw error;
  }
}

interface Ours {
  readonly answer: '+' | '-' | '!';
  readonly by: string | null;
  readonly ask: string | null;
  readonly audit: boolean;
  readonly dryRunAllow: string | null;
  readonly dryRunDeny: string | null;
  readonly path: string | null;
}

function answer(authorization: Authorization, row: Row, normalization: PathNormalization): Ours {
  const connection = connectionOf(row);
  const request = row.tcp ? null : requestOf(row, normalization);
  if (request === null && !row.tcp) {
    return {
      answer: '!',
      by: null,
      ask: null,
      audit: false,
      dryRunAllow: null,
      dryRunDeny: null,
      path: null,
    };
  }
  // CUSTOM is asked before the token is looked at.
  const ask = authorization.ask(connection, request);
  if (request !== null) request.claims = row.claims ?? null;
  const decision = decisionOf(
    authorization,
    connection,
    request,
    ask !== null && 'allowed' in ask ? ask : null,
  );
  const observed = authorization.observe?.(connection, request);
  const dryRun = (action: string) => observed?.dryRun.find((one) => one.decision === action)?.policy ?? null;
  return {
    answer: decision.allowed ? '+' : '-',
    by: decision.policy === null ? null : `${decision.policy}#${decision.rule}`,
    ask: ask === null || 'allowed' in ask ? null : `${ask.policy}#${ask.rule}`,
    audit: (observed?.audit.length ?? 0) > 0,
    dryRunAllow: dryRun('ALLOW'),
    dryRunDeny: dryRun('DENY'),
    path: request?.path ?? null,
  };
}

function decisionOf(
  authorization: Authorization,
  connection: ConnectionFacts,
  request: RequestHead | null,
  refused: Decision | null,
): Decision {
  if (refused !== null) return refused;
  return request === null
    ? authorization.decideConnection(connection)
    : authorization.decideRequest(connection, request);
}

/** Of `NS/NAME#RULE` the policy: which of its rules a dry run met is not told by ours. */
function policyOf(rule: string | null): string | null {
  return rule === null || rule === NOT_TOLD ? rule : rule.slice(0, rule.indexOf('#'));
}

/** Envoy did not say. */
const NOT_TOLD = '?';

/** Every way in which an answer of ours is not the recorded one. */
function differences(set: PolicySet, i: number, ours: Ours): string[] {
  const wrong: string[] = [];
  const hold = (what: string, expected: unknown, actual: unknown): void => {
    if (expected !== actual && expected !== NOT_TOLD)
      wrong.push(`${what} ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`);
  };
  hold('answer', set.answers[i], ours.answer);
  if (set.by !== undefined) hold('decided by', set.by[i], ours.by);
  if (set.asks !== undefined) hold('asks', set.asks[i], ours.ask);
  if (set.audit !== undefined) hold('audit', set.audit[i], ours.audit ? '+' : '-');
  if (set.dryRunAllow !== undefined) {
    hold('dry-run ALLOW', policyOf(set.dryRunAllow[i] ?? null), ours.dryRunAllow);
  }
  if (set.dryRunDeny !== undefined)
    hold('dry-run DENY', policyOf(set.dryRunDeny[i] ?? null), ours.dryRunDeny);
  if (set.paths !== undefined && set.answers[i] !== '!') hold('path', set.paths[i], ours.path);
  return wrong;
}

/** Compares every row of a file; the departures that were met. */
function compare(t: Test, file: string, atLeast: number): ReadonlySet<Departure> {
  const facts = new Map<string, readonly Row[]>();
  const met = new Set<Departure>();
  let rows = 0;
  const text = readFileSync(join(import.meta.dirname, '../fixtures/istio', file), 'utf8');
  for (const line of text.trimEnd().split('\n')) {
    const value = JSON.parse(line) as PolicySet & { readonly rows?: readonly Row[] };
    if (value.rows !== undefined) {
      facts.set(value.facts, value.rows);
      continue;
    }
    const authorization = compile(value);
    const { pathNormalization } = settingsOf(value);
    facts.get(value.facts)?.forEach((row, i) => {
      rows++;
      const wrong = differences(value, i, answer(authorization, row, pathNormalization));
      if (wrong.length === 0) return;
      const departure = departureOf(value, row);
      if (departure !== undefined) met.add(departure);
      else t.fail(`${value.name}: ${JSON.stringify(row)}: ${wrong.join('; ')}`, { policies: value.policies });
    });
  }
  t.ok(rows >= atLeast, `${rows} rows as recorded`);
  return met;
}

t.test('a table by field', async (t) => {
  const met = compare(t, 'decisions.jsonl', 10_000);
  for (const departure of departures) t.ok(met.has(departure), departure.why);
});

t.test('one field at a time, hostile strings', async (t) => {
  compare(t, 'hostile-decisions.jsonl', 1_000);
});

t.test('random policies and requests', async (t) => {
  compare(t, 'random-decisions.jsonl', 1_000);
});
