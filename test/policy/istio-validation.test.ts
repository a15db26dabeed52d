/** Validation held to Istio: documents with one mistake each, and what its CRDs and webhook said of them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parseDocuments } from '../../config/documents.ts';
import { decodeAll } from '../../config/snapshot.ts';
import type { Problem } from '../../mesh/resource.ts';
import { problemCodes } from '../../mesh/schema.ts';

type Verdict = 'ok' | 'warning' | 'error';
type Key = string | number;
type Mutation = readonly [
  base: number,
  path: readonly Key[],
  value: unknown,
  verdict: Verdict,
  message: string,
];

interface Base {
  readonly base: number;
  readonly kind: string;
  readonly spec: unknown;
}

interface Departure {
  readonly why: string;
  readonly kind: RegExp;
  /** The mutated path, without indexes: `spec.rules.from`. */
  readonly path: RegExp;
  readonly ours: 'error' | 'ok';
}

/** Where we refuse what Istio accepts, or the other way round. One that no document needs any more fails. */
const departures: readonly Departure[] = [
  {
    why: 'Kubernetes takes no capitals in a name and only letters, digits, -, _ and . in a label; we are not as strict',
    kind: /^/,
    path: /^metadata\.(?:name|labels)$/,
    ours: 'ok',
  },
  {
    why: 'a port written 080 is 80 here',
    kind: /^PeerAuthentication$/,
    path: /^spec\.portLevelMtls\.080$/,
    ours: 'ok',
  },
  {
    why: 'an egress listener that could not be bound',
    kind: /^Sidecar$/,
    path: /^spec\.egress\.bind$/,
    ours: 'error',
  },
];

/** What Istio accepts and we refuse, with the code that says so. Of a security policy only `experimental.…` keys. */
const unsupported: Readonly<Record<string, RegExp>> = {
  AuthorizationPolicy: /^spec\.rules\[\d+\]\.when\[\d+\]\.key$/,
  DestinationRule: /^spec\.trafficPolicy\.tunnel$/,
  ServiceEntry: /^spec\.resolution$/,
  Sidecar: /^spec\.(?:ingress\[\d+\]\.tls|outboundTrafficPolicy\.egressProxy|egress\[\d+\]\.bind)$/,
};

const SECURITY = new Set(['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication']);
const bases: Base[] = [];
const mutations: Mutation[] = [];
const file = join(import.meta.dirname, '../fixtures/istio/validation.jsonl');
for (const line of readFileSync(file, 'utf8').trimEnd().split('\n')) {
  const value = JSON.parse(line) as Base | Mutation;
  if ('kind' in value) bases.push(value);
  else mutations.push(value);
}

function kindOf([base]: Mutation): string {
  return bases[base]?.kind ?? '';
}

function isDelete(value: unknown): boolean {
  return typeof value === 'object' && value !== null && '$' in value;
}

function documentOf(mutation: Mutation): unknown {
  const [base, path, value] = mutation;
  const kind = kindOf(mutation);
  const group = SECURITY.has(kind) ? 'security' : 'networking';
  const document = {
    apiVersion: `${group}.istio.io/v1`,
    kind,
    metadata: { name: 'p', namespace: 'foo' },
    spec: structuredClone(bases[base]?.spec),
  };
  const last = path.at(-1);
  if (last === undefined) return document;
  let node = document as unknown as Record<Key, unknown>;
  for (const key of path.slice(0, -1)) node = node[key] as Record<Key, unknown>;
  if (!isDelete(value)) node[last] = value;
  else if (Array.isArray(node)) node.splice(Number(last), 1);
  else delete node[last];
  return document;
}

function problemsOf(document: unknown): readonly Problem[] {
  const read = parseDocuments(JSON.stringify(document), 'f.yaml');
  const problems = [...read.problems];
  decodeAll(read.resources, problems);
  return problems;
}

/** The field that the API server names first, where it names one. */
function namedField(message: string): string | null {
  const field = /^\[?((?:spec|metadata)[\w.[\]]*): (?:Invalid|Unsupported|Required|Too)/.exec(message)?.[1];
  // A key of a map stands in brackets there.
  return field?.replace(/\[([^\]\d][^\]]*)\]/g, '.$1') ?? null;
}

/** True for `spec.a` and `spec.a.b` either way round. */
function sameField(a: string, b: string): boolean {
  return a === b || a.startsWith(b) || b.startsWith(a);
}

/** What is wrong with our verdict; null: nothing. */
function difference(
  mutation: Mutation,
  problems: readonly Problem[],
): { ours: 'error' | 'ok'; text: string } | null {
  const [, , , verdict, message] = mutation;
  const errors = problems.filter(({ severity }) => severity === 'Error');
  const said = errors.map(({ field, message: text }) => `${field}: ${text}`).join('; ');
  if (verdict !== 'error') {
    const refused = errors.filter(
      ({ code, field }) => code !== problemCodes.unsupported || !unsupported[kindOf(mutation)]?.test(field),
    );
    if (refused.length > 0) return { ours: 'error', text: `refused: ${said}` };
    if (verdict === 'warning' && problems.length === 0) return { ours: 'ok', text: 'no warning' };
    return null;
  }
  if (errors.length === 0) return { ours: 'ok', text: 'accepted' };
  if (errors.some(({ field }) => field === '')) return { ours: 'error', text: 'no field is named' };
  const named = namedField(message);
  if (named !== null && !errors.some(({ field }) => sameField(field, named))) {
    return { ours: 'error', text: `another field is named: ${said}` };
  }
  return null;
}

const met = new Set<Departure>();

for (const kind of new Set(bases.map((base) => base.kind))) {
  t.test(kind, async (t) => {
    const own = mutations.filter((mutation) => kindOf(mutation) === kind);
    for (const mutation of own) {
      const [base, path, value, verdict, message] = mutation;
      const wrong = difference(mutation, problemsOf(documentOf(mutation)));
      if (wrong === null) continue;
      const names = path.filter((key) => typeof key === 'string').join('.');
      const departure = departures.find(
        (one) => one.ours === wrong.ours && one.kind.test(kind) && one.path.test(names),
      );
      if (departure !== undefined) met.add(departure);
      else {
        t.fail(
          `${names} = ${JSON.stringify(value)} (base ${base}): ${verdict} ${message}; ours: ${wrong.text}`,
        );
      }
    }
    t.ok(own.length > 100, `${own.length} documents judged as Istio does`);
  });
}

t.test('every departure is still one', async (t) => {
  for (const departure of departures) t.ok(met.has(departure), departure.why);
});
