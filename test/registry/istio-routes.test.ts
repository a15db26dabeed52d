/** Routes held to Istio: the clusters and endpoints that istiod made of random sets of resources. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Route } from '../../mesh/route.ts';
import { snapshotOf } from './helper.ts';

interface RecordedRoute {
  readonly mode: string;
  /** `ADDRESS:PORT MODE weight N`, sorted. */
  readonly endpoints?: readonly string[];
  readonly ownDestination?: boolean;
  readonly sni?: string;
  /** Sorted; absent where Istio's cluster has none but for those of the request's Host. */
  readonly sans?: readonly string[];
}

interface Recorded {
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly mesh: Readonly<Record<string, unknown>>;
  readonly documents: readonly {
    readonly kind: string;
    readonly name: string;
    readonly namespace: string;
    readonly creationTimestamp: string;
    readonly spec: unknown;
  }[];
  /** By `HOST:PORT`; null: istiod made no cluster. */
  readonly routes: Readonly<Record<string, RecordedRoute | null>>;
}

function yamlOf({ mesh, documents }: Recorded): string {
  const objects = documents.map(({ kind, spec, ...metadata }) => {
    const group = kind === 'PeerAuthentication' ? 'security' : 'networking';
    return { apiVersion: `${group}.istio.io/v1`, kind, metadata, spec };
  });
  return [{ kind: 'MeshConfig', ...mesh }, ...objects].map((one) => JSON.stringify(one)).join('\n---\n');
}

/** Our route in the recorded form, of what the recorded one says. */
function inTheirWords(route: Route | null, recorded: RecordedRoute | null): RecordedRoute | null {
  // A cluster without endpoints is not made: DNS with a selector that nothing matches.
  if (route === null || (recorded === null && route.ownPort === null && route.endpoints.length === 0))
    return null;
  const { tls, endpoints, ownPort } = route;
  const lines = endpoints.map((one) => `${one.address}:${one.port} ${one.tls} weight ${one.weight}`);
  return {
    mode: tls.mode,
    ...(ownPort === null ? { endpoints: [...new Set(lines)].sort() } : { ownDestination: true }),
    ...(recorded?.sni !== undefined && tls.sni !== null ? { sni: tls.sni } : {}),
    ...(recorded?.sans === undefined ? {} : { sans: [...tls.expectedIdentities].sort() }),
  };
}

t.test('routes of random sets of resources', async (t) => {
  let compared = 0;
  const text = readFileSync(join(import.meta.dirname, '../fixtures/istio/routes.jsonl'), 'utf8');
  for (const line of text.trimEnd().split('\n')) {
    const recorded = JSON.parse(line) as Recorded;
    const snapshot = snapshotOf(yamlOf(recorded), recorded);
    for (const [key, expected] of Object.entries(recorded.routes)) {
      const colon = key.lastIndexOf(':');
      const route = snapshot.route(key.slice(0, colon), Number(key.slice(colon + 1)));
      if (expected !== null) compared++;
      t.strictSame(inTheirWords(route, expected), expected, `${key} of ${recorded.namespace}`, {
        documents: recorded.documents,
      });
    }
  }
  t.ok(compared > 200, `${compared} clusters as istiod made them`);
});
