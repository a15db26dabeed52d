/** Whose certificates pass: a CA vouches for its own trust domain and for no other, in either direction. */
import t from 'tap';
import type { CaCertificates } from '../../mesh/snapshot.ts';
import { type Authority, makeCertificate } from '../ca-client/helper.ts';
import {
  authority,
  credentialsFor,
  OutboundTls,
  partsOf,
  type Surroundings,
  serverOf,
  shakeHands,
} from './tls-ends.ts';

const home = 'spiffe://home.example/ns/shop/sa/orders';
const away = 'spiffe://away.example/ns/shop/sa/web';

const bundle = (root: Authority, ...trustDomains: string[]): CaCertificates => ({
  pem: root.pem,
  spiffeBundleUrl: null,
  trustDomains,
});

interface Case {
  readonly title: string;
  /** Who comes, and who signed it. */
  readonly uri: string;
  readonly signer: 'home' | 'away' | 'homonym';
  readonly around: (roots: Record<'home' | 'away' | 'homonym', Authority>) => Surroundings;
  /** What we make of it; null: it passes. */
  readonly refused: string | null;
}

const cases: readonly Case[] = [
  { title: 'our own', uri: home, signer: 'home', around: () => ({}), refused: null },
  {
    title: 'another trust domain, which nobody named, signed by our CA',
    uri: away,
    signer: 'home',
    around: () => ({}),
    refused: 'untrusted_trust_domain',
  },
  {
    title: 'an alias without a bundle of its own: ours stands for it',
    uri: away,
    signer: 'home',
    around: () => ({ aliases: ['away.example'] }),
    refused: null,
  },
  {
    title: 'an alias with a bundle of its own',
    uri: away,
    signer: 'away',
    around: ({ away: root }) => ({
      aliases: ['away.example'],
      caCertificates: [bundle(root, 'away.example')],
    }),
    refused: null,
  },
  {
    title: 'an alias with a bundle of its own, signed by our CA',
    uri: away,
    signer: 'home',
    around: ({ away: root }) => ({
      aliases: ['away.example'],
      caCertificates: [bundle(root, 'away.example')],
    }),
    refused: 'untrusted_issuer',
  },
  {
    title: 'another trust domain with a bundle, and no alias',
    uri: away,
    signer: 'away',
    around: ({ away: root }) => ({ caCertificates: [bundle(root, 'away.example')] }),
    refused: null,
  },
  {
    title: 'our trust domain, signed by the CA of another one',
    uri: home,
    signer: 'away',
    around: ({ away: root }) => ({ caCertificates: [bundle(root, 'away.example')] }),
    refused: 'untrusted_issuer',
  },
  {
    title: 'our trust domain, signed by a CA of another one that bears the name of ours',
    uri: home,
    signer: 'homonym',
    around: ({ homonym: root }) => ({ caCertificates: [bundle(root, 'away.example')] }),
    refused: 'untrusted_issuer',
  },
  {
    title: 'a root without trust domains stands for ours',
    uri: home,
    signer: 'away',
    around: ({ away: root }) => ({ caCertificates: [bundle(root)] }),
    refused: null,
  },
  {
    title: 'and for no other',
    uri: away,
    signer: 'away',
    around: ({ away: root }) => ({ caCertificates: [bundle(root)] }),
    refused: 'untrusted_trust_domain',
  },
  {
    title: 'a root that names ours stands beside our own',
    uri: home,
    signer: 'away',
    around: ({ away: root }) => ({ caCertificates: [bundle(root, 'home.example')] }),
    refused: null,
  },
  {
    title: 'roots fetched by URL',
    uri: away,
    signer: 'away',
    around: ({ away: root }) => ({
      caCertificates: [{ pem: null, spiffeBundleUrl: 'https://b', trustDomains: ['away.example'] }],
      fetched: new Map([['https://b', [root.pem]]]),
    }),
    refused: null,
  },
  {
    title: 'roots that have not been fetched yet',
    uri: away,
    signer: 'away',
    around: () => ({
      caCertificates: [{ pem: null, spiffeBundleUrl: 'https://b', trustDomains: ['away.example'] }],
    }),
    // OpenSSL knows no such root either.
    refused: 'untrusted_issuer',
  },
  { title: 'a CA nobody knows', uri: home, signer: 'away', around: () => ({}), refused: 'untrusted_issuer' },
];

t.test('in both directions', async (t) => {
  const roots = {
    home: await authority('the root'),
    away: await authority('another root'),
    homonym: await authority('the root'),
  };
  const own = await credentialsFor(home, roots.home);
  const everyone = Object.values(roots);
  for (const { title, uri, signer, around, refused } of cases) {
    const ours = partsOf(own, around(roots));
    // The other side trusts whoever comes, so that the verdict is ours alone.
    const theirs = partsOf(await credentialsFor(uri, roots[signer], { roots: everyone }), {
      aliases: ['home.example', 'away.example'],
    });
    const come = await shakeHands(serverOf(ours), new OutboundTls(theirs));
    t.equal(come.inbound.ok ? null : come.inbound.reason, refused, `${title}: comes to us`);
    const met = await shakeHands(serverOf(theirs), new OutboundTls(ours));
    t.equal(met.outbound.ok ? null : met.outbound.reason, refused, `${title}: is met by us`);
    if (refused !== null && !come.inbound.ok)
      t.equal(come.inbound.facts?.chain.length, 2, `${title}: what was presented is known`);
  }
});

t.test('federated bundles come with the credentials', async (t) => {
  const roots = { home: await authority('home'), away: await authority('away') };
  const federated = [{ trustDomain: 'away.example', rootsPem: [roots.away.pem] }];
  const ours = partsOf(await credentialsFor(home, roots.home, { federated }));
  const theirs = partsOf(
    await credentialsFor(away, roots.away, {
      federated: [{ trustDomain: 'home.example', rootsPem: [roots.home.pem] }],
    }),
  );
  const met = await shakeHands(serverOf(ours), new OutboundTls(theirs));
  t.equal(met.inbound.ok && met.inbound.peer?.identity.uri, away);
  t.equal(met.outbound.ok && met.outbound.peer?.identity.uri, home);
  t.same(
    ours.trust.bundles.map(({ trustDomain }) => trustDomain),
    ['home.example', 'away.example'],
    'ours first',
  );
});

t.test('a peer is known with its whole path', async (t) => {
  const root = await authority('root', { until: 900 });
  const intermediate = await authority('intermediate', { issuer: root, until: 600 });
  const credentials = await credentialsFor(home, intermediate, {
    roots: [root],
    above: [intermediate],
    wish: { until: 1_200 },
  });
  const parts = partsOf(credentials);
  const { inbound } = await shakeHands(serverOf(parts), new OutboundTls(parts));
  if (!inbound.ok) return t.fail(inbound.detail);
  const { peer } = inbound;
  const left = ((peer?.notAfter ?? 0) - Date.now()) / 1000;
  t.ok(left > 500 && left <= 600, 'the shortest validity of the path, not the longer one of the leaf');
  t.equal(peer?.chain.length, 2, 'the root is not sent beside intermediates');
  t.equal(peer?.issuer, 'CN=intermediate');
  t.equal(peer?.root.subject, 'CN=root');
});

t.test('a leaf outlives the path it came by first', async (t) => {
  const root = await authority('root');
  const old = await authority('intermediate', { issuer: root, until: 6 });
  const renewed = await authority('intermediate', { issuer: root, keys: old.keys, until: 600 });
  const first = await credentialsFor(home, old, { roots: [root], above: [old] });
  const leaf = first.chainPem.slice(0, first.chainPem.indexOf(old.pem));
  const second = { ...first, chainPem: leaf + renewed.pem };
  const server = serverOf(partsOf(await credentialsFor(home, root)));
  const before = await shakeHands(server, new OutboundTls(partsOf(first)));
  t.ok(before.inbound.ok, 'by the one that ends soon');
  const end = before.inbound.ok ? (before.inbound.peer?.notAfter ?? 0) : 0;
  await new Promise((resolve) => {
    setTimeout(resolve, end - Date.now() + 20);
  });
  const ended = await shakeHands(server, new OutboundTls(partsOf(first)));
  t.equal(ended.inbound.ok ? null : ended.inbound.reason, 'expired', 'which has ended');
  const after = await shakeHands(server, new OutboundTls(partsOf(second)));
  t.ok(after.inbound.ok, 'the same leaf by the one that was renewed');
});

t.test('of two roots of one key the one counts that holds longer', async (t) => {
  const old = await authority('root', { until: 60 });
  const renewed = await authority('root', { keys: old.keys, until: 900 });
  for (const roots of [
    [old, renewed],
    [renewed, old],
  ]) {
    const parts = partsOf(await credentialsFor(home, old, { roots, wish: { until: 1_200 } }));
    const { inbound } = await shakeHands(serverOf(parts), new OutboundTls(parts));
    const left = inbound.ok ? ((inbound.peer?.notAfter ?? 0) - Date.now()) / 1000 : 0;
    t.ok(left > 800, `${left} s`);
  }
});

t.test('a root of another trust domain that cannot be used costs that trust domain alone', async (t) => {
  const roots = { home: await authority('home'), away: await authority('away') };
  const noCa = await makeCertificate({ subject: 'CN=no CA' });
  const oddName = await makeCertificate({ ca: true, dns: ['a name'] });
  const own = await credentialsFor(home, roots.home);
  for (const odd of [noCa, oddName]) {
    const parts = partsOf(own, {
      caCertificates: [bundle(odd, 'odd.example'), bundle(roots.away, 'away.example')],
    });
    const met = await shakeHands(serverOf(parts), new OutboundTls(parts));
    t.ok(met.inbound.ok, 'our own peers pass');
    const stranger = partsOf(await credentialsFor(away, roots.away, { roots: Object.values(roots) }), {
      aliases: ['home.example'],
    });
    t.ok((await shakeHands(serverOf(parts), new OutboundTls(stranger))).inbound.ok, 'and so do third ones');
    t.same(parts.trust.bundles.find(({ trustDomain }) => trustDomain === 'odd.example')?.rootsPem, []);
  }
});

t.test('a federated bundle that was emptied does not make an alias ours', async (t) => {
  const root = await authority('home');
  const federated = [{ trustDomain: 'away.example', rootsPem: [] }];
  const ours = partsOf(await credentialsFor(home, root, { federated }), { aliases: ['away.example'] });
  const stranger = partsOf(await credentialsFor(away, root), { aliases: ['home.example'] });
  const { inbound } = await shakeHands(serverOf(ours), new OutboundTls(stranger));
  t.equal(inbound.ok ? null : inbound.reason, 'untrusted_issuer');
});

t.test("our CA vouches for our own trust domain, whatever the mesh's is called", async (t) => {
  const root = await authority('home');
  const ours = partsOf(await credentialsFor(home, root), { trustDomain: 'cluster.local' });
  const cases = [
    ['spiffe://cluster.local/ns/shop/sa/web', 'untrusted_issuer'],
    ['spiffe://home.example/ns/shop/sa/web', null],
  ] as const;
  for (const [uri, refused] of cases) {
    const theirs = partsOf(await credentialsFor(uri, root), { aliases: ['home.example'] });
    const { inbound } = await shakeHands(serverOf(ours), new OutboundTls(theirs));
    t.equal(inbound.ok ? null : inbound.reason, refused, uri);
  }
});

t.test('a trust domain that is renamed: each name keeps to its own roots', async (t) => {
  const [ca, next] = [await authority('old'), await authority('new')];
  const here = 'spiffe://old.example/ns/shop/sa/orders';
  // Our certificates still have the old name, which is an alias; the new one has a bundle of its own.
  const around = { trustDomain: 'new.example', aliases: ['old.example'] };
  const federated = [{ trustDomain: 'new.example', rootsPem: [next.pem] }];
  const more = await authority('more');
  const cases: readonly (readonly [string, Authority, Surroundings, string | null])[] = [
    ['spiffe://old.example/ns/shop/sa/web', ca, {}, null],
    ['spiffe://new.example/ns/shop/sa/web', next, {}, null],
    ['spiffe://old.example/ns/shop/sa/web', next, {}, 'untrusted_issuer'],
    ['spiffe://new.example/ns/shop/sa/web', ca, {}, 'untrusted_issuer'],
    ['spiffe://old.example/ns/shop/sa/web', ca, { caCertificates: [bundle(more, 'old.example')] }, null],
    ['spiffe://old.example/ns/shop/sa/web', more, { caCertificates: [bundle(more, 'old.example')] }, null],
  ];
  for (const [uri, signer, besides, refused] of cases) {
    const ours = partsOf(await credentialsFor(here, ca, { federated }), { ...around, ...besides });
    const theirs = partsOf(await credentialsFor(uri, signer, { roots: [ca, next, more] }), {
      aliases: ['old.example', 'new.example'],
    });
    const { inbound } = await shakeHands(serverOf(ours), new OutboundTls(theirs));
    t.equal(inbound.ok ? null : inbound.reason, refused, `${uri} by ${signer.subject}`);
  }
});

t.test("others' roots with long names, or many, do not stop our own handshakes", async (t) => {
  const root = await authority('home');
  const long = await authority('x'.repeat(25_000));
  const many = await Promise.all(Array.from({ length: 60 }, (_, i) => authority(`${i} ${'y'.repeat(900)}`)));
  for (const roots of [[long, long, long], many]) {
    const federated = [{ trustDomain: 'away.example', rootsPem: roots.map(({ pem }) => pem) }];
    const parts = partsOf(await credentialsFor(home, root, { federated }));
    const { inbound, outbound } = await shakeHands(serverOf(parts), new OutboundTls(parts));
    t.ok(inbound.ok && outbound.ok, inbound.ok ? '' : inbound.detail);
  }
});
