/** Chains with public keys that make no sense, wherever in the chain they stand: refused, never thrown at, at no cost. */
import t from 'tap';
import { present } from '../../telemetry/present.ts';
import { ask, goodLinks, type Link, make, makeAll } from './chain-world.ts';
import { oddKeys } from './odd-keys.ts';

const [root, intermediate, leaf] = goodLinks(3) as [Link, Link, Link];
const [rootDer, intermediateDer, leafDer] = makeAll([root, intermediate, leaf]) as [Buffer, Buffer, Buffer];
const anchors = [rootDer];

/** Of CPU, for some handshakes' work: what a test on a busy machine can tell from the 460 ms of a dear key's chain. */
const MAX_CPU_MS = 200;

for (const [title, write] of Object.entries(oddKeys)) {
  t.test(title, (t) => {
    const spki = write();
    const odd = make({ ...intermediate, spki }, root);
    const oddLeaf = make({ ...leaf, spki }, intermediate);
    const before = process.cpuUsage();

    const alone = ask({ chain: [leafDer, odd], anchors });
    t.match(alone, { ok: false, detail: /./ }, 'vouches for nobody, though a root vouches for it');

    const asAnchor = () => ask({ chain: [leafDer], anchors: [odd] });
    let refused = false;
    try {
      refused = !asAnchor().ok;
    } catch (error) {
      // a bundle is the operator's, who is told
      refused = (error as Error).name === 'CertificateError';
    }
    t.ok(refused, 'nor as an anchor');

    const decoys = Array.from({ length: 8 }, () => make({ ...intermediate, spki }, root));
    t.match(ask({ chain: [leafDer, ...decoys], anchors }), { ok: false }, 'nor many of them');
    const beside = ask({ chain: [leafDer, odd, intermediateDer], anchors });
    t.ok(
      beside.ok || /cannot be (read|judged)/.test(beside.detail),
      'beside the true one: that counts, or nothing',
    );

    t.doesNotThrow(() => ask({ chain: [oddLeaf, intermediateDer], anchors }), 'as the leaf');
    t.match(ask({ chain: [oddLeaf, odd], anchors }), { ok: false }, 'as leaf and issuer');
    t.equal(present([oddLeaf, odd]).length, 2, 'and it can be shown');

    const { user, system } = process.cpuUsage(before);
    t.ok((user + system) / 1000 < MAX_CPU_MS, `${(user + system) / 1000} ms of CPU`);
    t.end();
  });
}
