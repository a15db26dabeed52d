/** PeerAuthentication held to Istio: the modes that istiod gave a workload's ports, set by set. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { compileModes } from '../../policy/peer-authentication.ts';
import { peerAuthentication } from './helper.ts';

interface Recorded {
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly rootNamespace: string;
  readonly policies: readonly {
    readonly name: string;
    readonly namespace: string;
    readonly creationTimestamp: string;
    readonly spec: unknown;
  }[];
  /** By port. */
  readonly modes: Readonly<Record<string, string>>;
}

t.test('modes of random sets of policies', async (t) => {
  let compared = 0;
  const text = readFileSync(join(import.meta.dirname, '../fixtures/istio/modes.jsonl'), 'utf8');
  for (const line of text.trimEnd().split('\n')) {
    const { namespace, labels, rootNamespace, policies, modes } = JSON.parse(line) as Recorded;
    const decoded = policies.map(({ creationTimestamp, ...parts }) =>
      peerAuthentication({ ...parts, creationTimestamp: Date.parse(creationTimestamp) }),
    );
    const modeOf = compileModes(decoded, namespace, new Map(Object.entries(labels)), rootNamespace);
    for (const [port, mode] of Object.entries(modes)) {
      compared++;
      const { mode: ours } = modeOf(Number(port));
      if (ours !== mode) t.fail(`port ${port}: ${ours}, not ${mode}: ${line}`);
    }
  }
  t.ok(compared > 500, `${compared} modes as istiod gave them`);
});
