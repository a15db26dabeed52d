/** Chains spoiled in every place and every way: where OpenSSL refuses we do, and where we alone do it is named why. */
import t from 'tap';
import { temporaryFolder } from '../ca-client/helper.ts';
import {
  ask,
  askOpenssl,
  caLink,
  DAY,
  goodLinks,
  type Link,
  makeAll,
  NOW,
  type Presented,
  presented,
  type Role,
} from './chain-world.ts';
import { generator } from './damage.ts';
import {
  CLIENT,
  constraints,
  distinguishedName,
  dnsName,
  ecKeys,
  edKeys,
  extension,
  oid,
  rsaKeys,
  SERVER,
  sequence,
  tlv,
  uriName,
} from './pki.ts';

const ANY_PURPOSE = '2.5.29.37.0';

/** Where in a chain: the root is 0, the leaf last. */
type Place = 'root' | 'intermediate' | 'leaf';

interface Spoiling {
  readonly name: string;
  readonly spoil: (link: Link, links: readonly Link[]) => void;
  /** Places where OpenSSL accepts what we refuse, and why we do. */
  readonly stricter?: Partial<Record<Place, string>>;
  readonly only?: readonly Place[];
}

const weakRsa = rsaKeys(1024);
const goodRsa = rsaKeys(2048);
const oddCurve = ecKeys('secp256k1');
const spelledOut = ecKeys('P-256', 'explicit');
const p384 = ecKeys('P-384');
const ed = edKeys();
const other = ecKeys();
const SVID = 'X509-SVID';

const spoilings: readonly Spoiling[] = [
  { name: 'nothing', spoil: () => {} },
  { name: 'expired', spoil: (link) => (link.notAfter = NOW - DAY / 2) },
  { name: 'ends this second', spoil: (link) => (link.notAfter = NOW) },
  { name: 'ends the next second', spoil: (link) => (link.notAfter = NOW + 1000) },
  { name: 'not yet valid', spoil: (link) => (link.notBefore = NOW + 1000) },
  { name: 'starts this second', spoil: (link) => (link.notBefore = NOW) },
  {
    name: 'CA where none is',
    only: ['leaf'],
    spoil: (link) => (link.ca = true),
    stricter: { leaf: `${SVID} §5.2` },
  },
  { name: 'no CA', only: ['root', 'intermediate'], spoil: (link) => (link.ca = false) },
  {
    name: 'no basic constraints',
    spoil: (link) => (link.ca = null),
    stricter: { root: 'basic constraints make a CA: what has none is no anchor' },
  },
  { name: 'path length 0', only: ['root', 'intermediate'], spoil: (link) => (link.pathLength = 0) },
  { name: 'path length 1', only: ['root', 'intermediate'], spoil: (link) => (link.pathLength = 1) },
  { name: 'path length 2', only: ['root', 'intermediate'], spoil: (link) => (link.pathLength = 2) },
  {
    name: 'path length without CA',
    only: ['leaf'],
    spoil: (link) => (link.pathLength = 0),
    stricter: { leaf: 'RFC 5280 §4.2.1.9: CAs MUST NOT write it without cA' },
  },
  { name: 'no key usage', spoil: (link) => (link.usage = null) },
  { name: 'key usage without a bit', spoil: (link) => (link.usage = []) },
  {
    name: 'digitalSignature alone',
    spoil: (link) => (link.usage = ['digitalSignature']),
  },
  {
    name: 'keyEncipherment alone',
    spoil: (link) => (link.usage = ['keyEncipherment']),
    stricter: { leaf: `${SVID} §4.3: leaves set digitalSignature, and TLS 1.3 needs it` },
  },
  {
    name: 'keyCertSign too',
    spoil: (link) => (link.usage = [...(link.usage ?? []), 'keyCertSign']),
    stricter: { leaf: `${SVID} §5.2` },
  },
  {
    name: 'cRLSign too',
    spoil: (link) => (link.usage = [...(link.usage ?? []), 'cRLSign']),
    stricter: { leaf: `${SVID} §5.2` },
  },
  { name: 'no extended key usage', spoil: (link) => (link.purposes = null) },
  { name: 'for clients', spoil: (link) => (link.purposes = [CLIENT]) },
  { name: 'for servers', spoil: (link) => (link.purposes = [SERVER]) },
  { name: 'for both', spoil: (link) => (link.purposes = [CLIENT, SERVER]) },
  { name: 'for code signing', spoil: (link) => (link.purposes = ['1.3.6.1.5.5.7.3.3']) },
  { name: 'for any purpose', spoil: (link) => (link.purposes = [ANY_PURPOSE]) },
  {
    name: 'an unknown critical extension',
    spoil: (link) => link.more.push(extension('1.2.3.4', sequence(), true)),
  },
  { name: 'an unknown extension', spoil: (link) => link.more.push(extension('1.2.3.4', sequence())) },
  {
    name: 'critical policies',
    spoil: (link) => link.more.push(extension('2.5.29.32', sequence(sequence(oid('1.2.3'))), true)),
  },
  {
    name: 'critical policy constraints',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(extension('2.5.29.36', sequence(tlv(0x80, Buffer.of(0))), true)),
    stricter: {
      root: 'RFC 5280 §4.2: critical, and we process no policies',
      intermediate: 'RFC 5280 §4.2: critical, and we process no policies',
    },
  },
  {
    name: "another's key",
    spoil: (link) => (link.issuerKey = other.privateKey),
    // nobody checks the signature of an anchor
  },
  { name: "another's name", spoil: (link) => (link.issuer = 'somebody else') },
  { name: "another's key identifier", spoil: (link) => (link.authorityKeyId = Buffer.alloc(20, 7)) },
  {
    name: "another's name and serial number as authority",
    only: ['intermediate', 'leaf'],
    spoil: (link) => {
      link.authorityKeyId = null;
      const issuer = tlv(0xa1, tlv(0xa4, distinguishedName('another')));
      link.more.push(extension('2.5.29.35', sequence(issuer, tlv(0x82, Buffer.of(5)))));
    },
  },
  {
    name: 'an extension twice',
    only: ['intermediate', 'leaf'],
    spoil: (link) => {
      const twice = extension('1.2.3.4', sequence());
      link.more.push(twice, twice);
    },
    stricter: { intermediate: 'RFC 5280 §4.2: MUST NOT', leaf: 'RFC 5280 §4.2: MUST NOT' },
  },
  {
    name: 'version 1, without extensions',
    spoil: (link) => {
      link.ca = link.usage = link.purposes = link.names = link.subjectKeyId = link.authorityKeyId = null;
    },
    stricter: { root: 'basic constraints make a CA' },
  },
  { name: 'no key identifiers', spoil: (link) => (link.authorityKeyId = link.subjectKeyId = null) },
  {
    name: 'a weak RSA key',
    spoil: (link) => (link.keys = weakRsa),
    stricter: { root: 'weak', intermediate: 'weak', leaf: 'weak' },
  },
  { name: 'an RSA key', spoil: (link) => (link.keys = goodRsa) },
  { name: 'a P-384 key', spoil: (link) => (link.keys = p384) },
  {
    name: 'a key of an odd curve',
    spoil: (link) => (link.keys = oddCurve),
    stricter: { root: 'odd curve', intermediate: 'odd curve', leaf: 'odd curve' },
  },
  // a curve spelled out may have another generator, for which anybody knows the key (CVE-2020-0601)
  { name: 'a curve spelled out', spoil: (link) => (link.keys = spelledOut) },
  { name: 'an Ed25519 key', spoil: (link) => (link.keys = ed) },
  {
    name: 'signed with SHA-1',
    only: ['intermediate', 'leaf'],
    spoil: (link) => (link.algorithm = 'ec sha1'),
    stricter: { intermediate: 'weak', leaf: 'weak' },
  },
  { name: 'signed with SHA-1', only: ['root'], spoil: (link) => (link.algorithm = 'ec sha1') },
  { name: 'signed with SHA-384', spoil: (link) => (link.algorithm = 'ec sha384') },
  {
    name: 'permits the trust domain',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(constraints({ permitted: [uriName('cluster.local')] })),
  },
  {
    name: 'permits another trust domain',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(constraints({ permitted: [uriName('evil.example')] })),
  },
  {
    name: 'permits hosts below the trust domain',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(constraints({ permitted: [uriName('.cluster.local')] })),
  },
  {
    name: 'permits hosts below "local"',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(constraints({ permitted: [uriName('.LOCAL')] })),
  },
  {
    name: 'excludes the trust domain',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(constraints({ excluded: [uriName('cluster.local')] })),
  },
  {
    name: 'constrains DNS names, of which there are none',
    only: ['root', 'intermediate'],
    spoil: (link) => link.more.push(constraints({ permitted: [dnsName('example')] })),
  },
  {
    name: 'names a workload',
    only: ['intermediate', 'root'],
    spoil: (link) => (link.names = [uriName('spiffe://cluster.local/ns/a/sa/b')]),
    stricter: { intermediate: `${SVID} §3.2` },
  },
  {
    name: 'names its trust domain',
    only: ['intermediate', 'root'],
    spoil: (link) => (link.names = [uriName('spiffe://cluster.local')]),
  },
];

function placeOf(at: number, length: number): Place {
  if (at === 0) return 'root';
  return at === length - 1 ? 'leaf' : 'intermediate';
}

const ROLES: readonly Role[] = ['client', 'server'];

interface Comparison {
  /** OpenSSL accepts in one role or the other what we refuse. */
  readonly stricter: boolean;
  /** The other way round: never to happen. */
  readonly looser: string | null;
  readonly accepted: number;
}

async function compare(given: Presented, dir: string): Promise<Comparison> {
  let stricter = false;
  let looser: string | null = null;
  let accepted = 0;
  const complaints = await askOpenssl(given, ROLES, dir);
  for (const [i, role] of ROLES.entries()) {
    const ours = ask(given, role);
    const complaint = complaints[i] ?? null;
    if (ours.ok && complaint !== null) looser = `${role}: ${complaint}`;
    if (ours.ok) accepted++;
    if (!ours.ok && complaint === null) stricter = true;
  }
  return { stricter, looser, accepted };
}

t.test('each spoiling in each place', async (t) => {
  const dir = temporaryFolder(t);
  for (const { name, spoil, stricter, only } of spoilings) {
    for (const at of [0, 1, 2, 3]) {
      const place = placeOf(at, 4);
      if (only !== undefined && !only.includes(place)) continue;
      const links = goodLinks(4);
      const link = links[at];
      if (link === undefined) continue;
      spoil(link, links);
      const found = await compare(presented(links), dir);
      const title = `${name}: ${place} ${at}`;
      if (found.looser !== null) t.fail(`${title}: OpenSSL refuses`, { complaint: found.looser });
      t.equal(found.stricter, stricter?.[place] !== undefined, `${title}: stricter where said`);
    }
  }
});

t.test('several at once, in chains of any length', async (t) => {
  const dir = temporaryFolder(t);
  const random = generator(7);
  let accepted = 0;
  for (let round = 0; round < 50; round++) {
    const links = goodLinks(2 + random(4));
    const done: string[] = [];
    let mayDiffer = false;
    for (let times = random(4); times > 0; times--) {
      const at = random(links.length);
      const place = placeOf(at, links.length);
      const [link, spoiling] = [links[at], spoilings[random(spoilings.length)]];
      if (link === undefined || spoiling === undefined) continue;
      if (spoiling.only !== undefined && !spoiling.only.includes(place)) continue;
      spoiling.spoil(link, links);
      done.push(`${spoiling.name}: ${place} ${at}`);
      mayDiffer ||= spoiling.stricter?.[place] !== undefined;
    }
    const found = await compare(presented(links), dir);
    accepted += found.accepted;
    const title = `round ${round}: ${done.join(', ')}`;
    if (found.looser !== null) t.fail(`${title}: OpenSSL refuses`, { complaint: found.looser });
    if (found.stricter && !mayDiffer) t.fail(`${title}: we alone refuse`);
  }
  t.ok(accepted > 15 && accepted < 85, `${accepted} of 100 accepted`);
});

t.test('what is presented, in which order, and what is trusted', async (t) => {
  const dir = temporaryFolder(t);
  const [root, one, two, leaf] = makeAll(goodLinks(4)) as [Buffer, Buffer, Buffer, Buffer];
  const links = goodLinks(4);
  const [rootLink, oneLink] = links as [Link, Link, Link, Link];
  const stranger = makeAll([caLink('root', other)])[0] as Buffer;
  const renewed = makeAll([{ ...rootLink, notAfter: NOW + 900 * DAY, serial: '77' }])[0] as Buffer;
  const expired = makeAll([{ ...rootLink, notAfter: NOW - DAY, serial: '78' }])[0] as Buffer;
  // the first intermediate's name and key, vouched for by another root as well
  const crossed = makeAll([caLink('other root', other), { ...oneLink, serial: '79' }]) as [Buffer, Buffer];
  // OpenSSL takes the first issuer that fits and does not go back where it leads nowhere
  const FIRST_WAY = 'takes the first way up';
  const rows: readonly (readonly [string, Presented, boolean, string?])[] = [
    ['as it should be', { chain: [leaf, two, one], anchors: [root] }, true],
    ['in another order', { chain: [leaf, one, two], anchors: [root] }, true],
    ['with its root', { chain: [leaf, two, one, root], anchors: [root] }, true],
    ['with everything twice', { chain: [leaf, leaf, two, one, two, one], anchors: [root] }, true],
    ['with what does not belong', { chain: [leaf, stranger, two, one], anchors: [root] }, true],
    [
      'a way up that leads nowhere',
      { chain: [leaf, two, crossed[1], one], anchors: [root] },
      true,
      FIRST_WAY,
    ],
    ['the other order', { chain: [leaf, two, one, crossed[1]], anchors: [root] }, true],
    ['without an intermediate', { chain: [leaf, two], anchors: [root] }, false],
    ['the leaf alone', { chain: [leaf], anchors: [root] }, false],
    ['an intermediate first', { chain: [two, leaf, one], anchors: [root] }, false],
    ['without a root', { chain: [leaf, two, one, root], anchors: [] }, false],
    ['a root of the same name and another key', { chain: [leaf, two, one], anchors: [stranger] }, false],
    ['both roots of that name', { chain: [leaf, two, one], anchors: [stranger, root] }, true],
    ['the renewed root', { chain: [leaf, two, one], anchors: [renewed] }, true],
    ['the expired root and its renewal', { chain: [leaf, two, one], anchors: [expired, renewed] }, true],
    ['the expired root', { chain: [leaf, two, one], anchors: [expired] }, false],
    ['a cross-signed intermediate', { chain: [leaf, two, crossed[1]], anchors: [crossed[0]] }, true],
    ['one that leads up', { chain: [leaf, two, crossed[1], one], anchors: [crossed[0]] }, true],
    ['an intermediate as anchor', { chain: [leaf, two], anchors: [one] }, true],
    ['the last intermediate as anchor', { chain: [leaf], anchors: [two] }, true],
    ['the leaf as anchor', { chain: [leaf], anchors: [leaf] }, false],
  ];
  for (const [title, given, ok, looserBecause] of rows) {
    t.equal(ask(given).ok, ok, title);
    const { looser, stricter } = await compare(given, dir);
    t.equal(looser !== null, looserBecause !== undefined, `${title}: looser where said`, { looser });
    // OpenSSL lets a leaf that is trusted vouch for itself
    t.equal(stricter, title === 'the leaf as anchor', `${title}: stricter where said`);
  }
});
