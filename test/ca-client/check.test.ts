/** Our own set: what peers would refuse is refused by us first, by name; a clock a minute off is no fault. */
import t from 'tap';
import { checkCredentials, MAX_EARLY_MS, type OfferedCredentials } from '../../ca-client/check.ts';
import {
  caLink,
  DAY,
  goodLinks,
  ID,
  keysAt,
  type Link,
  leafLink,
  makeAll,
  NOW,
} from '../mesh/chain-world.ts';
import {
  CLIENT,
  constraints,
  ecKeys,
  edKeys,
  extension,
  pem,
  rsaKeys,
  SERVER,
  sequence,
  uriName,
} from '../mesh/pki.ts';

/** What a source would offer of these links: the root is the bundle, the rest the chain. */
function offered(links: readonly Link[], more: Partial<OfferedCredentials> = {}): OfferedCredentials {
  const [root, ...rest] = makeAll(links);
  const key = links.at(-1)?.keys.privateKey.export({ type: 'pkcs8', format: 'pem' });
  return {
    chain: rest.toReversed().map((der) => pem(der)),
    keyPem: String(key),
    roots: root === undefined ? [] : [pem(root)],
    origin: 'test',
    expected: null,
    now: NOW,
    ...more,
  };
}

t.test('keys of every kind in use', (t) => {
  for (const [title, keys] of [
    ['P-256', ecKeys()],
    ['P-384', ecKeys('P-384')],
    ['RSA 2048', rsaKeys()],
    ['RSA 3072', rsaKeys(3072)],
    ['Ed25519', edKeys()],
  ] as const) {
    const set = checkCredentials(offered([caLink('root', keysAt(0)), leafLink(keys)]));
    t.equal(set.identity.uri, ID, title);
    const rsaRoot = caLink('root', rsaKeys());
    t.equal(checkCredentials(offered([rsaRoot, leafLink(keys)])).identity.uri, ID, `${title} under RSA`);
  }
  t.end();
});

t.test('what our peers would refuse', (t) => {
  const rows: readonly (readonly [string, (links: [Link, Link, Link]) => void, RegExp])[] = [
    [
      'for servers alone',
      ([, , leaf]) => (leaf.purposes = [SERVER]),
      /web is not for clients, by its extended key usage/,
    ],
    ['for clients alone', ([, , leaf]) => (leaf.purposes = [CLIENT]), /web is not for servers/],
    [
      'a CA for servers alone',
      ([, one]) => (one.purposes = [SERVER]),
      /CN=intermediate 1 is not for clients/,
    ],
    ['key usage', ([, , leaf]) => (leaf.usage = ['keyEncipherment']), /lacks digitalSignature/],
    [
      'may sign certificates',
      ([, , leaf]) => (leaf.usage = ['digitalSignature', 'keyCertSign']),
      /lets it sign/,
    ],
    ['path length', ([root]) => (root.pathLength = 0), /CN=root allows a path length of 0/],
    ['SHA-1', ([, , leaf]) => (leaf.algorithm = 'ec sha1'), /signed by ecdsa-with-SHA1/],
    ['a weak key', ([, , leaf]) => (leaf.keys = rsaKeys(1024)), /too weak: RSA of 1024 bits/],
    ['a weak CA', ([, one]) => (one.keys = rsaKeys(1024)), /CN=intermediate 1 has a key that is too weak/],
    ['an odd curve', ([, , leaf]) => (leaf.keys = ecKeys('secp256k1')), /of the curve secp256k1/],
    [
      'unknown critical',
      ([, , leaf]) => leaf.more.push(extension('1.2.3.4', sequence(), true)),
      /the critical extension 1\.2\.3\.4/,
    ],
    [
      'name constraints',
      ([root]) => root.more.push(constraints({ excluded: [uriName('cluster.local')] })),
      /CN=root may not vouch for spiffe:/,
    ],
  ];
  for (const [title, spoil, words] of rows) {
    const links = goodLinks(3) as [Link, Link, Link];
    spoil(links);
    const message = new RegExp(`^our peers would refuse the chain: .*${words.source}`);
    t.throws(() => checkCredentials(offered(links)), { name: 'CredentialsError', message }, title);
  }
  t.end();
});

t.test('a set from a clock ahead of ours', (t) => {
  t.equal(MAX_EARLY_MS, 60_000);
  for (const place of [0, 1, 2]) {
    const links = goodLinks(3);
    const link = links[place] as Link;
    link.notBefore = NOW + 59_000;
    t.equal(checkCredentials(offered(links)).notBefore, NOW + 59_000, `accepted, and says when: ${place}`);
    link.notBefore = NOW + 60_000;
    t.throws(() => checkCredentials(offered(links)), {
      name: 'CredentialsError',
      message:
        /is not valid before 2026-06-01T00:01:00.000Z and it is 2026-06-01T00:00:00.000Z: compare both clocks/,
    });
  }
  const brief = goodLinks(2);
  Object.assign(brief[1] as Link, { notBefore: NOW + 10_000, notAfter: NOW + 20_000 });
  t.match(checkCredentials(offered(brief)), { notBefore: NOW + 10_000, notAfter: NOW + 20_000 });
  const never = goodLinks(2);
  Object.assign(never[0] as Link, { notAfter: NOW + 10_000 });
  Object.assign(never[1] as Link, { notBefore: NOW + 20_000 });
  t.throws(() => checkCredentials(offered(never)), { name: 'CredentialsError', message: /CN=root expired/ });
  t.end();
});

t.test('bundles of other trust domains are passed on, as far as they are any', (t) => {
  const [foreign, leaf] = makeAll([caLink('foreign', keysAt(3)), leafLink(keysAt(4))]).map((der) =>
    pem(der),
  ) as [string, string];
  const federated = [
    { trustDomain: 'other.example', rootsPem: [foreign, 'rubbish', leaf] },
    { trustDomain: 'broken.example', rootsPem: ['rubbish'] },
    { trustDomain: 'cluster.local', rootsPem: [foreign] },
    { trustDomain: 'Not/One', rootsPem: [foreign] },
  ];
  t.same(checkCredentials(offered(goodLinks(2))).federated, []);
  t.same(checkCredentials(offered(goodLinks(2), { federated })).federated, [
    { trustDomain: 'other.example', rootsPem: [foreign] },
    { trustDomain: 'broken.example', rootsPem: [] },
  ]);
  t.end();
});

t.test('validity is that of the whole chain', (t) => {
  const links = goodLinks(4);
  Object.assign(links[1] as Link, { notAfter: NOW + DAY / 2 });
  t.match(checkCredentials(offered(links)), { notBefore: NOW - DAY, notAfter: NOW + DAY / 2 });
  t.end();
});
