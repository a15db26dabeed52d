/** Captured connections held to Istio: the clusters that its sidecars' listeners and routes led random calls to. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { isHttp } from '../../mesh/workload.ts';
import { CapturedRoutes } from '../../proxy/captured-outbound.ts';
import { snapshotOf } from './helper.ts';

type Protocol = 'tcp' | 'http' | 'tls';

/** Address, port, what is spoken, Host header or SNI, and Istio's answer: a cluster, or what ends a request. */
type Call = readonly [string, number, Protocol, string | null, string];

interface Recorded {
  readonly registryOnly: boolean;
  readonly documents: readonly unknown[];
  readonly calls: readonly Call[];
}

function snapshotFor({ registryOnly, documents }: Recorded): Snapshot {
  const mode = registryOnly ? 'REGISTRY_ONLY' : 'ALLOW_ANY';
  const all = [{ kind: 'MeshConfig', outboundTrafficPolicy: { mode } }, ...documents];
  return snapshotOf(
    all.map((one) => JSON.stringify(one)).join('\n---\n'),
    { namespace: 'web' },
    { intercept: 'redirect' },
  );
}

/** Our route in Istio's words. */
function clusterOf(snapshot: Snapshot, [address, port, protocol, name]: Call): string {
  const routes = new CapturedRoutes(snapshot, { address, port });
  // Where TCP was declared nobody looks for requests.
  const isRequest = protocol === 'http' && routes.protocol !== 'tcp';
  const route = isRequest
    ? routes.requestRoute(snapshot, name)
    : routes.tcpRoute(snapshot, protocol === 'tls' ? name : null);
  if (route === null) return 'BlackHoleCluster';
  const { host, name: short } = route.service;
  return short === 'PassthroughCluster' ? short : `outbound|${route.port}||${host}`;
}

const ENDS: Readonly<Record<string, string>> = {
  block_all: 'BlackHoleCluster',
  allow_any: 'PassthroughCluster',
};

/**
 * Where we mean to differ. Istio has no listener for the address of an HTTP service, nor for endpoints but those of
 * headless TCP: there the address decides here, and the Host header, or nothing, there.
 */
function isOurs(snapshot: Snapshot, [address, port, protocol]: Call): boolean {
  const { captured } = snapshot;
  const [host] = captured.hostsAt(address, port);
  if (host === undefined) return captured.routeAt(address, port) !== null;
  const declared = snapshot.route(host, port)?.protocol ?? 'auto';
  return isHttp(declared) || protocol === 'http';
}

/** An undeclared service without address beside HTTP: Istio's listener has the one that came first alone. */
function isUndeclaredBesideHttp(snapshot: Snapshot, [, port]: Call): boolean {
  const host = snapshot.captured.hostAnywhere(port);
  return host !== null && snapshot.captured.namesAt(port) && snapshot.route(host, port)?.protocol === 'auto';
}

t.test('calls to random addresses in random meshes', async (t) => {
  const compared: Record<Protocol, number> = { tcp: 0, http: 0, tls: 0 };
  const text = readFileSync(join(import.meta.dirname, '../fixtures/istio/captured.jsonl'), 'utf8');
  for (const line of text.trimEnd().split('\n')) {
    const recorded = JSON.parse(line) as Recorded;
    const snapshot = snapshotFor(recorded);
    for (const call of recorded.calls) {
      if (isOurs(snapshot, call) || isUndeclaredBesideHttp(snapshot, call)) continue;
      const [address, port, protocol, name, answer] = call;
      compared[protocol]++;
      const expected = ENDS[answer] ?? answer;
      const ours = clusterOf(snapshot, call);
      // One assertion a call would be most of the time that this takes.
      if (ours === expected) continue;
      t.equal(ours, expected, `${protocol} to ${address} ${port}, ${name}`, {
        documents: recorded.documents,
      });
    }
  }
  for (const [protocol, count] of Object.entries(compared))
    t.ok(count > 300, `${count} calls of ${protocol}`);
});
