/** Revocation lists: whose they are, what they take back, which are refused; those of other makers, and damaged ones. */
import { createPrivateKey } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { loadX509 } from '../../ca-client/x509.ts';
import { CrlError, RevocationLists } from '../../mesh/crl.ts';
import { openssl, temporaryFolder } from '../ca-client/helper.ts';
import { ask, askOpenssl, caLink, DAY, keysAt, leafLink, makeAll, NOW } from './chain-world.ts';
import { damaged, generator } from './damage.ts';
import {
  authorityKeyId,
  ecKeys,
  edKeys,
  entry,
  extension,
  keyId,
  type ListWish,
  oid,
  pem,
  revocationList,
  rsaKeys,
  sequence,
  tlv,
} from './pki.ts';

const LEAF = 'abcdef01';
const INTERMEDIATE = '0c0ffee0';
const links = [
  caLink('root', keysAt(0), { serial: '01' }),
  caLink('issuer', keysAt(1), { serial: INTERMEDIATE }),
  leafLink(keysAt(2), { serial: LEAF }),
];
const [root, issuer, leaf] = makeAll(links) as [Buffer, Buffer, Buffer];
const given = { chain: [leaf, issuer], anchors: [root] };

/** A list as its CA would write it. */
function listOf(place: 0 | 1, wish: Partial<ListWish> = {}): Buffer {
  const { publicKey, privateKey } = keysAt(place);
  return revocationList({
    issuer: place === 0 ? 'root' : 'issuer',
    key: privateKey,
    thisUpdate: NOW - DAY,
    nextUpdate: NOW + DAY,
    extensions: [authorityKeyId(keyId(publicKey)), extension('2.5.29.20', tlv(0x02, Buffer.of(7)))],
    ...wish,
  });
}

const textOf = (...lists: readonly Uint8Array[]) => lists.map((der) => pem(der, 'X509 CRL')).join('# and\n');
const verdict = (...lists: readonly Uint8Array[]) =>
  ask(given, 'both', RevocationLists.read(textOf(...lists)));

t.test('what a chain is held against', (t) => {
  const stranger = ecKeys().privateKey;
  const noKeyId = { extensions: [] };
  const revokesLeaf = { revoked: ['11', LEAF, '22'] };
  const rows: readonly (readonly [
    string,
    readonly Buffer[],
    'ok' | 'revoked' | 'bad_certificate',
    RegExp?,
  ])[] = [
    ['lists that name others', [listOf(0, { revoked: ['05'] }), listOf(1, { revoked: ['11'] })], 'ok'],
    ['lists without an entry', [listOf(0), listOf(1)], 'ok'],
    ['no list of the CA', [listOf(0)], 'ok'],
    [
      'the leaf',
      [listOf(1, revokesLeaf)],
      'revoked',
      /web: its serial abcdef01 is on its issuer's revocation list of/,
    ],
    ['the leaf, in version 1', [listOf(1, { ...revokesLeaf, ...noKeyId })], 'revoked'],
    ['the leaf, with a reason', [listOf(1, { revoked: [reason(LEAF, 1)] })], 'revoked'],
    ['the leaf, on hold', [listOf(1, { revoked: [reason(LEAF, 6)] })], 'revoked'],
    [
      'the intermediate',
      [listOf(0, { revoked: [INTERMEDIATE] })],
      'revoked',
      /CN=issuer: its serial 0c0ffee0/,
    ],
    [
      "the root, on its own list: it ends a path and is the bundle's affair",
      [listOf(0, { revoked: ['01'] })],
      'ok',
    ],
    ["the leaf's serial on the list of another CA", [listOf(0, revokesLeaf)], 'ok'],
    ['a list that is out of date', [listOf(1, { ...revokesLeaf, nextUpdate: NOW - 1000 })], 'revoked'],
    ['a list without a next one', [listOf(1, { ...revokesLeaf, nextUpdate: null })], 'revoked'],
    [
      'the newer of two lists takes it back',
      [listOf(1), listOf(1, { ...revokesLeaf, thisUpdate: NOW })],
      'revoked',
    ],
    ['the newer of two lists lets it go', [listOf(1, revokesLeaf), listOf(1, { thisUpdate: NOW })], 'ok'],
    ['the list of a CA of the same name', [listOf(1, { ...revokesLeaf, ...noKeyId, key: stranger })], 'ok'],
    [
      'a list in the name of the CA, with its key identifier and a forged signature',
      [listOf(1, { key: stranger })],
      'bad_certificate',
      /does not bear its issuer's signature/,
    ],
    [
      'a forged list beside the older good one',
      [listOf(1), listOf(1, { key: stranger, thisUpdate: NOW })],
      'bad_certificate',
    ],
  ];
  for (const [title, lists, expected, detail = /./] of rows) {
    const found = verdict(...lists);
    t.match(found, expected === 'ok' ? { ok: true } : { ok: false, reason: expected, detail }, title);
  }
  t.end();
});

t.test('the issuer of a list may be written in another kind of string', (t) => {
  // RFC 5280 §7.1; byte by byte it would be nobody's list, and the revoked would pass
  const printable = tlv(0x13, Buffer.from(' ISSUER'));
  const issuerDer = sequence(tlv(0x31, sequence(oid('2.5.4.3'), printable)));
  t.match(verdict(listOf(1, { revoked: [LEAF], issuerDer })), { ok: false, reason: 'revoked' });
  t.end();
});

function reason(serial: string, code: number): Buffer {
  return entry(serial, NOW - DAY, extension('2.5.29.21', tlv(0x0a, Buffer.of(code))));
}

t.test('OpenSSL judges the same where each CA has a list', async (t) => {
  const dir = temporaryFolder(t);
  const rows: readonly (readonly [string, readonly Buffer[]])[] = [
    ['none revoked', [listOf(0), listOf(1)]],
    ['the leaf', [listOf(0), listOf(1, { revoked: [LEAF] })]],
    ['the intermediate', [listOf(0, { revoked: [INTERMEDIATE] }), listOf(1)]],
    ['forged', [listOf(0), listOf(1, { key: keysAt(5).privateKey })]],
  ];
  for (const [title, lists] of rows) {
    const complaints = await askOpenssl(given, ['client', 'server'], dir, lists);
    t.same(
      complaints.map((one) => one === null),
      Array(2).fill(verdict(...lists).ok),
      title,
    );
  }
});

t.test('a CA that may not sign lists has none, and nobody passes for it', (t) => {
  // RFC 5280 §6.3.3 (f)
  const mute = [caLink('root', keysAt(0), { usage: ['keyCertSign'] }), leafLink(keysAt(2), { serial: LEAF })];
  const [anchor, cert] = makeAll(mute) as [Buffer, Buffer];
  const found = ask({ chain: [cert], anchors: [anchor] }, 'both', RevocationLists.read(textOf(listOf(0))));
  t.match(found, { ok: false, reason: 'bad_certificate', detail: /lacks cRLSign/ });
  t.end();
});

t.test('what is told of the lists', (t) => {
  const lists = RevocationLists.read(
    textOf(listOf(0, { revoked: ['05', '06'] }), listOf(1, { nextUpdate: null })),
  );
  t.same(lists.summaries, [
    { issuer: 'CN=root', thisUpdate: NOW - DAY, nextUpdate: NOW + DAY, entries: 2 },
    { issuer: 'CN=issuer', thisUpdate: NOW - DAY, nextUpdate: null, entries: 0 },
  ]);
  t.same(lists.stale(NOW), []);
  t.same(lists.stale(NOW + DAY), [lists.summaries[0]]);
  t.same(RevocationLists.none.summaries, []);
  t.end();
});

t.test('lists that are refused, with the whole file', (t) => {
  const good = listOf(1);
  const critical = (oid: string, value = sequence()) => extension(oid, value, true);
  const rows: readonly (readonly [string, Uint8Array | string, RegExp])[] = [
    ['nothing', '', /list 1 of 1: ends too early/],
    ['not a list', 'rubbish', /list 1 of 1: /],
    ['a certificate', pem(root), /something besides whole PEM blocks of X509 CRL/],
    ['a list and a certificate', textOf(good) + pem(root), /something besides/],
    ['a certificate under the name of a list', pem(root, 'X509 CRL'), /list 1 of 1: /],
    ['half of the text', textOf(good).slice(0, 300), /something besides/],
    ['half of the second', textOf(good, good).slice(0, -60), /something besides/],
    ['a byte more', Buffer.concat([good, Buffer.of(0)]), /left over/],
    ['delta', listOf(1, { extensions: [critical('2.5.29.27', tlv(0x02, Buffer.of(1)))] }), /a delta list/],
    ['a part', listOf(1, { extensions: [critical('2.5.29.28')] }), /issuingDistributionPoint/],
    ['unknown', listOf(1, { extensions: [critical('1.2.3.4')] }), /the critical extension 1\.2\.3\.4/],
    ['twice', listOf(1, { extensions: [critical('2.5.29.20'), critical('2.5.29.20')] }), /./],
    ['indirect', listOf(1, { revoked: [entry('01', NOW, critical('2.5.29.29'))] }), /an indirect list/],
    [
      'an entry',
      listOf(1, { revoked: [entry('01', NOW, critical('1.2.3.5'))] }),
      /an entry with the critical/,
    ],
    ['removal', listOf(1, { revoked: [reason('01', 8)] }), /a delta list/],
    ['SHA-1', listOf(1, { algorithm: 'ec sha1' }), /signed by ecdsa-with-SHA1, which is too weak/],
    ['the second of two', textOf(good, listOf(1, { algorithm: 'ec sha1' })), /^list 2 of 2: signed by/],
    ['too long', Buffer.alloc(9_000_000), /longer than 8388608 bytes/],
  ];
  for (const [title, file, message] of rows) {
    t.throws(() => RevocationLists.read(file), { name: 'CrlError', message }, title);
  }
  for (let length = 1; length < good.length; length++) {
    t.throws(() => RevocationLists.read(good.subarray(0, length)), CrlError);
  }
  t.doesNotThrow(() => RevocationLists.read(listOf(1, { extensions: [extension('1.2.3.4', sequence())] })));
  t.end();
});

t.test('keys of every kind sign lists', (t) => {
  for (const [title, keys, algorithm] of [
    ['RSA', rsaKeys(), 'rsa sha256'],
    ['RSA-PSS', rsaKeys(), 'rsa pss'],
    ['P-384', ecKeys('P-384'), 'ec sha384'],
    ['Ed25519', edKeys(), 'ed25519'],
  ] as const) {
    const [anchor, cert] = makeAll([caLink('root', keys), leafLink(keysAt(1), { serial: LEAF })]) as [
      Buffer,
      Buffer,
    ];
    const wish = { issuer: 'root', key: keys.privateKey, thisUpdate: NOW, algorithm };
    const found = (revoked: string[]) =>
      ask(
        { chain: [cert], anchors: [anchor] },
        'both',
        RevocationLists.read(revocationList({ ...wish, revoked })),
      );
    t.match([found([LEAF]), found(['01'])], [{ ok: false, reason: 'revoked' }, { ok: true }], title);
  }
  t.end();
});

t.test("lists of other makers: OpenSSL's and @peculiar/x509's", async (t) => {
  const dir = temporaryFolder(t);
  const at = (name: string) => join(dir, name);
  const keyPem = keysAt(1).privateKey.export({ type: 'pkcs8', format: 'pem' });
  writeFileSync(at('key.pem'), keyPem);
  writeFileSync(at('ca.pem'), pem(issuer));
  writeFileSync(at('leaf.pem'), pem(leaf));
  writeFileSync(at('index.txt'), '');
  writeFileSync(at('number'), '01\n');
  const settings = [
    '[ca]',
    'default_ca=a',
    '[a]',
    `database=${at('index.txt')}`,
    `crlnumber=${at('number')}`,
  ];
  settings.push(
    'default_md=sha256',
    'default_crl_days=1',
    'crl_extensions=e',
    '[e]',
    'authorityKeyIdentifier=keyid',
  );
  writeFileSync(at('openssl.cnf'), settings.join('\n'));
  const tool = (...args: string[]) =>
    openssl('ca', '-config', at('openssl.cnf'), '-cert', at('ca.pem'), '-keyfile', at('key.pem'), ...args);
  await tool('-gencrl', '-out', at('before.pem'));
  await tool('-revoke', at('leaf.pem'), '-crl_reason', 'keyCompromise');
  await tool('-gencrl', '-out', at('after.pem'));
  const read = (name: string) => ask(given, 'both', RevocationLists.read(readFileSync(at(name))));
  t.match([read('before.pem'), read('after.pem')], [{ ok: true }, { ok: false, reason: 'revoked' }]);

  const x509 = await loadX509();
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const pkcs8 = createPrivateKey(keyPem).export({ type: 'pkcs8', format: 'der' });
  const made = await x509.X509CrlGenerator.create({
    issuer: new x509.X509Certificate(new Uint8Array(issuer)).subject,
    thisUpdate: new Date(NOW),
    signingAlgorithm: algorithm,
    signingKey: await crypto.subtle.importKey('pkcs8', new Uint8Array(pkcs8), algorithm, false, ['sign']),
    entries: [
      { serialNumber: LEAF, revocationDate: new Date(NOW), reason: x509.X509CrlReason.keyCompromise },
    ],
  });
  t.match(ask(given, 'both', RevocationLists.read(new Uint8Array(made.rawData))), {
    ok: false,
    reason: 'revoked',
  });
});

t.test('random damage: lists or the one named error, and no waiting', (t) => {
  const good = listOf(1, { revoked: [LEAF, reason('05', 1)] });
  const random = generator(20260602);
  const began = performance.now();
  let refused = 0;
  for (let round = 0; round < 10_000; round++) {
    const bytes = damaged(good, random);
    try {
      const found = ask(given, 'both', RevocationLists.read(bytes));
      if (!found.ok && found.reason === 'revoked' && !good.equals(bytes)) t.fail(`round ${round}: believed`);
    } catch (error) {
      if (!(error instanceof CrlError)) {
        t.fail(`round ${round}: ${error}`);
        break;
      }
      refused++;
    }
  }
  t.ok(refused > 1_000 && refused < 10_000, `${refused} refused`);
  t.ok(performance.now() - began < 60_000);
  t.end();
});

t.test('a long list is read in a moment', (t) => {
  const revoked = Array.from({ length: 100_000 }, (_, i) => (0x10_0000_0000 + i).toString(16));
  const file = textOf(listOf(1, { revoked: [...revoked, LEAF] }));
  const began = performance.now();
  const lists = RevocationLists.read(file);
  t.ok(performance.now() - began < 5_000);
  t.equal(lists.summaries[0]?.entries, 100_001);
  t.match(ask(given, 'both', lists), { ok: false, reason: 'revoked' });
  t.end();
});
