/** Chain verification on its own: what it answers, that names prove nothing, and that crafted chains cost little. */
import { createHash, generateKeyPairSync } from 'node:crypto';
import t from 'tap';
import { CertificateError } from '../../mesh/certificates.ts';
import { TrustAnchors } from '../../mesh/chain.ts';
import { RevocationLists } from '../../mesh/crl.ts';
import {
  ask,
  caLink,
  DAY,
  goodLinks,
  ID,
  keysAt,
  type Link,
  leafLink,
  make,
  makeAll,
  NOW,
  presented,
} from './chain-world.ts';
import { generator } from './damage.ts';
import {
  constraints,
  dnsName,
  ecKeys,
  edKeys,
  extension,
  pem,
  rsaKeys,
  SERVER,
  sequence,
  uriName,
} from './pki.ts';

t.test('a good chain: its validity is that of all, its root is told', (t) => {
  const links = goodLinks(4);
  const [root, one, , leaf] = links as [Link, Link, Link, Link];
  root.notAfter = NOW + DAY / 2;
  one.notBefore = NOW - DAY / 2;
  const given = presented(links);
  const fingerprint256 = sha256(given.anchors[0] as Buffer);
  t.same(ask(given), {
    ok: true,
    notBefore: one.notBefore,
    notAfter: root.notAfter,
    root: { subject: 'CN=root', fingerprint256 },
    length: 4,
  });
  t.ok(leaf.notBefore < one.notBefore && leaf.notAfter > root.notAfter);
  t.end();
});

interface Row {
  readonly title: string;
  readonly spoil: (links: [Link, Link, Link]) => void;
  readonly reason: string;
  readonly detail: RegExp;
}

const rows: readonly Row[] = [
  {
    title: 'expired leaf',
    spoil: ([, , leaf]) => (leaf.notAfter = NOW - 1000),
    reason: 'expired',
    detail:
      /^spiffe:\/\/cluster.local\/ns\/shop\/sa\/web expired at 2026-05-31T23:59:59.000Z and it is 2026-06-01T00:00:00.000Z$/,
  },
  {
    title: 'expired root',
    spoil: ([root]) => (root.notAfter = NOW),
    reason: 'expired',
    detail: /^CN=root expired/,
  },
  {
    title: 'intermediate to come',
    spoil: ([, one]) => (one.notBefore = NOW + 1000),
    reason: 'expired',
    detail: /^CN=intermediate 1 is not valid before/,
  },
  {
    title: 'signed by a key of another',
    spoil: ([, , leaf]) => (leaf.issuerKey = ecKeys().privateKey),
    reason: 'untrusted_issuer',
    detail: /issued by CN=intermediate 1, from which no chain of valid signatures leads to one of 1 roots/,
  },
  {
    title: 'for servers alone, asked for both',
    spoil: ([, , leaf]) => (leaf.purposes = [SERVER]),
    reason: 'bad_certificate',
    detail: /web is not for clients, by its extended key usage/,
  },
  {
    title: 'CA for servers alone',
    spoil: ([, one]) => (one.purposes = [SERVER]),
    reason: 'bad_certificate',
    detail: /CN=intermediate 1 is not for clients/,
  },
  {
    title: 'path length',
    spoil: ([root]) => (root.pathLength = 0),
    reason: 'bad_certificate',
    detail: /CN=root allows a path length of 0, and 1 CAs stand below it/,
  },
  {
    title: 'no CA',
    spoil: ([, one]) => (one.ca = false),
    reason: 'bad_certificate',
    detail: /CN=intermediate 1 is no CA/,
  },
  {
    title: 'CA as a leaf',
    spoil: ([, , leaf]) => (leaf.ca = true),
    reason: 'bad_certificate',
    detail: /is a CA certificate used as a leaf/,
  },
  {
    title: 'no keyCertSign',
    spoil: ([, one]) => (one.usage = ['cRLSign']),
    reason: 'bad_certificate',
    detail: /CN=intermediate 1 lacks keyCertSign/,
  },
  {
    title: 'no digitalSignature',
    spoil: ([, , leaf]) => (leaf.usage = ['keyEncipherment']),
    reason: 'bad_certificate',
    detail: /lacks digitalSignature/,
  },
  {
    title: 'unknown critical extension',
    spoil: ([, , leaf]) => leaf.more.push(extension('1.2.840.99999.1', sequence(), true)),
    reason: 'bad_certificate',
    detail: /the critical extension 1\.2\.840\.99999\.1, which we do not know/,
  },
  {
    title: 'SHA-1',
    spoil: ([, , leaf]) => (leaf.algorithm = 'ec sha1'),
    reason: 'bad_certificate',
    detail: /signed by ecdsa-with-SHA1, which is too weak/,
  },
  {
    title: 'a curve nobody asked for',
    spoil: ([, , leaf]) => (leaf.keys = ecKeys('secp256k1')),
    reason: 'bad_certificate',
    detail: /too weak: of the curve secp256k1/,
  },
  {
    title: 'a root of RSA 1024',
    spoil: ([root]) => (root.keys = rsaKeys(1024)),
    reason: 'bad_certificate',
    detail: /CN=root has a key that is too weak: RSA of 1024 bits/,
  },
  {
    title: 'an exponent that takes long',
    spoil: ([root]) => (root.keys = rsaKeys(2048, 4_294_967_291)),
    reason: 'bad_certificate',
    detail: /too weak: RSA with the public exponent 4294967291/,
  },
  {
    title: 'URI constraint elsewhere',
    spoil: ([root]) => root.more.push(constraints({ permitted: [uriName('evil.example')] })),
    reason: 'bad_certificate',
    detail: /CN=root may not vouch for spiffe:\/\/cluster.local\/ns\/shop\/sa\/web, by its name constraints/,
  },
  {
    title: "a constraint of the leaf's other names",
    spoil: ([root, , leaf]) => {
      root.more.push(constraints({ permitted: [dnsName('example')] }));
      leaf.names = [uriName(ID), dnsName('web.example')];
    },
    reason: 'bad_certificate',
    detail: /a name of a kind whose constraints we do not judge/,
  },
  {
    title: 'the CA of another trust domain',
    spoil: ([, one]) => (one.names = [uriName('spiffe://evil.example')]),
    reason: 'bad_certificate',
    detail: /CN=intermediate 1 is the CA of evil\.example and may not vouch for cluster\.local/,
  },
  {
    title: "a workload's SPIFFE ID on a CA",
    spoil: ([, one]) => (one.names = [uriName('spiffe://cluster.local/ca')]),
    reason: 'bad_certificate',
    detail: /CN=intermediate 1 is a CA whose SPIFFE ID has a path: spiffe:\/\/cluster\.local\/ca/,
  },
];

t.test('refusals say what is wrong', (t) => {
  for (const { title, spoil, reason, detail } of rows) {
    const links = goodLinks(3) as [Link, Link, Link];
    spoil(links);
    t.match(ask(presented(links)), { ok: false, reason, detail }, title);
  }
  t.match(ask({ chain: [], anchors: [] }), { ok: false, reason: 'untrusted_issuer' });
  t.end();
});

t.test('the CA of another trust domain vouches for nobody of ours by way of one more CA', (t) => {
  for (const name of [null, [uriName('spiffe://cluster.local')]]) {
    const links = goodLinks(4) as [Link, Link, Link, Link];
    links[1].names = [uriName('spiffe://evil.example')];
    links[2].names = name;
    t.match(ask(presented(links)), {
      ok: false,
      reason: 'bad_certificate',
      detail: /is the CA of evil\.example/,
    });
    links[1].names = [uriName('spiffe://cluster.local')];
    t.match(ask(presented(links)), { ok: true }, 'one of ours does');
  }
  t.end();
});

t.test('keys and signatures of every kind in use', (t) => {
  for (const [title, keys, algorithm] of [
    ['RSA', rsaKeys(), 'rsa sha256'],
    ['RSA-PSS', rsaKeys(), 'rsa pss'],
    ['P-384', ecKeys('P-384'), 'ec sha384'],
    ['P-521', ecKeys('P-521'), 'ec sha256'],
    ['Ed25519', edKeys(), 'ed25519'],
  ] as const) {
    const root = caLink('root', keys, { algorithm });
    t.equal(ask(presented([root, leafLink(keysAt(1), { algorithm })])).ok, true, title);
  }
  for (const [title, keys, detail] of [
    ['brainpool', ecKeys('brainpoolP256r1'), /of the curve brainpoolP256r1/],
    ['Ed448', generateKeyPairSync('ed448'), /of the kind ed448/],
    ['X25519', generateKeyPairSync('x25519'), /of the kind x25519/],
    ['ML-DSA', generateKeyPairSync('ml-dsa-65'), /of the kind ml-dsa-65/],
  ] as const) {
    const verdict = ask(presented([caLink('root', keysAt(0)), leafLink(keys)]));
    t.match(verdict, { ok: false, reason: 'bad_certificate', detail }, title);
  }
  const rsa = caLink('root', rsaKeys());
  for (const algorithm of ['rsa md5', 'rsa sha1'] as const) {
    const verdict = ask(presented([rsa, leafLink(keysAt(1), { algorithm })]));
    t.match(verdict, { ok: false, reason: 'bad_certificate', detail: /(?:md5|sha1)WithRSAEncryption/ });
  }
  t.end();
});

t.test('two trust domains whose roots have one name stay apart', (t) => {
  // Istio's self-signed roots are all called O=cluster.local
  const [mine, theirs] = [caLink('cluster.local', keysAt(0)), caLink('cluster.local', keysAt(1))];
  for (const keyIds of [true, false]) {
    if (!keyIds) mine.subjectKeyId = theirs.subjectKeyId = null;
    const [ours, foreign] = [
      presented([mine, leafLink(keysAt(2))]),
      presented([theirs, leafLink(keysAt(3))]),
    ];
    t.equal(ask(ours).ok, true);
    t.equal(ask(foreign).ok, true);
    t.match(ask({ chain: foreign.chain, anchors: ours.anchors }), { ok: false, reason: 'untrusted_issuer' });
    t.match(ask({ chain: ours.chain, anchors: foreign.anchors }), { ok: false, reason: 'untrusted_issuer' });
  }
  t.end();
});

t.test('a renewed root: either will do, and the longer one counts', (t) => {
  const old = caLink('root', keysAt(0), { notAfter: NOW + DAY / 4 });
  const leaf = leafLink(keysAt(1));
  const [oldDer, leafDer] = makeAll([old, leaf]) as [Buffer, Buffer];
  const renewed = make({ ...old, notAfter: NOW + 100 * DAY }, old);
  t.match(ask({ chain: [leafDer], anchors: [oldDer] }), { ok: true, notAfter: NOW + DAY / 4 });
  t.match(ask({ chain: [leafDer], anchors: [renewed] }), { ok: true, notAfter: leaf.notAfter });
  t.match(ask({ chain: [leafDer], anchors: [renewed, oldDer] }), { ok: true });
  const later = NOW + DAY / 2;
  t.match(ask({ chain: [leafDer], anchors: [oldDer, renewed] }, 'both', RevocationLists.none, later), {
    ok: true,
  });
  t.end();
});

t.test('self-issued intermediates do not count for the path length', (t) => {
  // RFC 5280 §6.1.4 (l); such a certificate carries a CA over to its new key
  const root = caLink('root', keysAt(0), { pathLength: 0 });
  const carried = caLink('root', keysAt(1));
  t.equal(ask(presented([root, carried, leafLink(keysAt(2))])).ok, true);
  const named = caLink('other', keysAt(1));
  t.equal(ask(presented([root, named, leafLink(keysAt(2))])).ok, false);
  t.end();
});

t.test('crafted chains cost little', (t) => {
  // nine certificates of one name and key, each of which could have signed each: 9! ways, none to an anchor
  const keys = keysAt(3);
  const knot = Array.from({ length: 9 }, (_, i) =>
    make(
      caLink('knot', keys, { subjectKeyId: null, serial: `a${i}` }),
      caLink('knot', keys, { subjectKeyId: null }),
    ),
  );
  const leaf = make(leafLink(keysAt(4)), caLink('knot', keys, { subjectKeyId: null }));
  const anchor = makeAll([caLink('root', keysAt(0))])[0] as Buffer;
  const began = performance.now();
  const verdict = ask({ chain: [leaf, ...knot], anchors: [anchor] });
  t.match(verdict, { ok: false, reason: 'bad_certificate', detail: /more than 64 signatures/ });
  t.ok(performance.now() - began < 2_000, 'and no more than those were checked');
  t.match(ask({ chain: [leaf, ...knot, anchor], anchors: [anchor] }), {
    ok: false,
    detail: /11 certificates were presented; at most 10/,
  });
  // a bundle of many roots of one name is no attack: dozens fit
  const many = Array.from(
    { length: 50 },
    () => makeAll([caLink('root', ecKeys(), { subjectKeyId: null })])[0] as Buffer,
  );
  const good = presented([caLink('root', keysAt(0), { subjectKeyId: null }), leafLink(keysAt(1))]);
  t.equal(ask({ chain: good.chain, anchors: [...many, ...good.anchors] }).ok, true);
  t.end();
});

t.test('a path is as long as it may be', (t) => {
  t.equal(ask(presented(goodLinks(10))).ok, true);
  t.match(ask(presented(goodLinks(11))), { ok: false, reason: 'untrusted_issuer' });
  t.end();
});

t.test('anchors: only CAs, each once, and unreadable ones by number', (t) => {
  const [root, leaf] = makeAll([caLink('root', keysAt(0)), leafLink(keysAt(1))]) as [Buffer, Buffer];
  t.equal(new TrustAnchors([pem(root), pem(root), pem(leaf)]).size, 1);
  const broken = Buffer.from(root);
  broken[6] = 0xff;
  for (const text of ['', 'rubbish', pem(broken), pem(root).slice(0, 80)]) {
    const make = () => new TrustAnchors([pem(root), text]);
    t.throws(make, CertificateError);
    t.throws(make, { message: /^root 2 of 2: / });
  }
  t.end();
});

t.test('damage anywhere in what is signed: refused, and nothing thrown', (t) => {
  const good = presented(goodLinks(3));
  const [leaf, one] = good.chain as [Buffer, Buffer];
  const random = generator(20260601);
  t.equal(ask(good).ok, true);
  let unread = 0;
  const total = 4_000;
  for (let round = 0; round < total; round++) {
    const [a, b] = [Buffer.from(leaf), Buffer.from(one)];
    const damaged = round % 2 === 0 ? a : b;
    for (let times = 1 + random(3); times > 0; times--) {
      const at = random(damaged.length);
      damaged[at] = (damaged[at] ?? 0) ^ (1 + random(255));
    }
    if (damaged.equals(round % 2 === 0 ? leaf : one)) continue;
    const verdict = ask({ chain: [a, b], anchors: good.anchors });
    if (verdict.ok) t.fail(`round ${round}: accepted`, { damaged: damaged.toString('hex') });
    else if (/cannot be read/.test(verdict.detail)) unread++;
  }
  t.ok(unread > total / 10 && unread < total, `${unread} of ${total} could not even be read`);
  t.end();
});

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
