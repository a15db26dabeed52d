/** Of each CA's revocation lists the newest edition stays in force (RFC 5280 §5.2.3, §5.1.2.4), that of a CA we know for good, and none of the future counts. */
import { EventEmitter, once } from 'node:events';
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { watchCrl } from '../../ca-client/crl-file.ts';
import { succeed } from '../../ca-client/crl-succession.ts';
import { RevocationLists } from '../../mesh/crl.ts';
import { openCertificate } from '../../mesh/path-rules.ts';
import type { ListIssuer } from '../../mesh/revocation-list.ts';
import { caLink, keysAt, makeAll } from '../mesh/chain-world.ts';
import { authorityKeyId, extension, keyId, pem, revocationList, tlv } from '../mesh/pki.ts';
import { temporaryFolder } from './helper.ts';

const NOW = Date.UTC(2026, 5, 1);
const MINUTE = 60_000;

interface Wish {
  readonly issuer?: string;
  /** Of its CA's keys. */
  readonly place?: number;
  /** Below 128. */
  readonly number?: number | null;
  readonly thisUpdate?: number;
  readonly keyId?: boolean;
  /** Place of the key whose identifier it names, where that is another than the one that signs. */
  readonly claims?: number;
  readonly revoked?: readonly string[];
}

function listOf(wish: Wish): string {
  const { issuer = 'ca', place = 0, number = null, thisUpdate = NOW, revoked = [] } = wish;
  const { privateKey } = keysAt(place);
  const { publicKey: claimed } = keysAt(wish.claims ?? place);
  const extensions = [
    ...(wish.keyId === false ? [] : [authorityKeyId(keyId(claimed))]),
    ...(number === null ? [] : [extension('2.5.29.20', tlv(0x02, Buffer.of(number)))]),
  ];
  const made = { issuer, key: privateKey, thisUpdate, nextUpdate: Date.UTC(2040, 0, 1), revoked, extensions };
  return pem(revocationList(made), 'X509 CRL');
}

const read = (wishes: readonly Wish[]) => wishes.flatMap((wish) => RevocationLists.read(listOf(wish)).lists);
const [caDer, renewedDer] = [0, 1].map((place) => makeAll([caLink('ca', keysAt(place))])[0] as Buffer);
const ca = openCertificate(pem(caDer as Buffer));
const renewed = openCertificate(pem(renewedDer as Buffer));
const [certSignAlone] = makeAll([caLink('ca', keysAt(0), { usage: ['keyCertSign'] })]);
const mayNotSign = openCertificate(pem(certSignAlone as Buffer));

t.test('which lists follow those in force', async (t) => {
  const old = { number: 4, thisUpdate: NOW - MINUTE };
  const late = { number: 5, thisUpdate: NOW };
  const next = { number: 6, thisUpdate: NOW };
  const other = { issuer: 'other', place: 2 };
  const future = { number: 6, thisUpdate: NOW + 61_000 };
  const rows: readonly {
    title: string;
    before: readonly Wish[];
    file: readonly Wish[];
    expected?: readonly Wish[];
    passedOver?: readonly RegExp[];
    authorities?: readonly ListIssuer[];
    vanished?: readonly ListIssuer[];
  }[] = [
    { title: 'the next edition', before: [late], file: [next] },
    { title: 'the same again', before: [late], file: [late] },
    {
      title: 'a lower number',
      before: [late],
      file: [old],
      expected: [late],
      passedOver: [
        /^CN=ca number 4 of 2026-05-31T23:59:00\.000Z is older than CN=ca number 5 of 2026-06-01T0/,
      ],
    },
    {
      title: 'a lower number with a later date: the CA counts anew, or its clock was wrong',
      before: [late],
      file: [{ number: 1, thisUpdate: NOW + MINUTE }],
      expected: [late],
      passedOver: [/restart, which takes what is there$/],
    },
    {
      title: 'a higher number with an earlier date',
      before: [late],
      file: [{ number: 6, thisUpdate: NOW - MINUTE }],
    },
    {
      title: 'an earlier date, without numbers',
      before: [{}],
      file: [{ thisUpdate: NOW - 1000 }],
      expected: [{}],
      passedOver: [/^CN=ca of 2026-05-31T23:59:59\.000Z is older/],
    },
    {
      title: 'an earlier date, where one alone has a number',
      before: [late],
      file: [{ thisUpdate: NOW - 1000 }],
      expected: [late],
      passedOver: [/is older/],
    },
    {
      title: 'an earlier date of the same number',
      before: [late],
      file: [{ ...late, thisUpdate: NOW - 1000 }],
      expected: [late],
      passedOver: [/is older/],
    },
    { title: 'the older beside the newer', before: [late], file: [old, next] },
    {
      title: 'what the file has of other CAs counts',
      before: [late, { ...other, number: 1 }],
      file: [old, { ...other, number: 2 }],
      expected: [{ ...other, number: 2 }, late],
      passedOver: [/^CN=ca number 4/],
    },
    {
      title: 'a CA of the same name with another key',
      before: [late],
      file: [{ ...old, place: 1 }],
      authorities: [],
    },
    {
      title: 'that, its lists without key identifiers, told apart by signature',
      before: [{ ...late, keyId: false }],
      file: [{ ...old, place: 1, keyId: false }],
      expected: [
        { ...old, place: 1, keyId: false },
        { ...late, keyId: false },
      ],
      authorities: [ca, renewed],
      vanished: [ca],
    },
    {
      title: 'that, neither of them known',
      before: [{ ...late, keyId: false }],
      file: [{ ...old, place: 1, keyId: false }],
      expected: [{ ...late, keyId: false }],
      passedOver: [/is older/],
      authorities: [],
    },
    {
      title: 'a list of the future',
      before: [late],
      file: [future],
      expected: [late],
      passedOver: [/^CN=ca number 6 of 2026-06-01T00:01:01\.000Z is of the future and does not count before/],
    },
    {
      title: 'one of the future beside the next',
      before: [late],
      file: [next, { ...future, number: 7 }],
      expected: [next],
      passedOver: [/number 7 .* is of the future/],
    },
    {
      title: 'one of the future by as little as clocks may differ',
      before: [late],
      file: [{ ...future, thisUpdate: NOW + MINUTE }],
    },
    { title: 'a CA that had none', before: [], file: [old] },
    { title: 'a CA nobody knows has none any more', before: [late], file: [other], authorities: [] },
    {
      title: 'a CA we know has none any more',
      before: [late, other],
      file: [{ ...other, number: 2 }],
      expected: [{ ...other, number: 2 }, late],
      authorities: [ca],
      vanished: [ca],
    },
    {
      title: 'it has one of its name, of another key',
      before: [late],
      file: [{ ...late, place: 1 }],
      expected: [{ ...late, place: 1 }, late],
      authorities: [ca],
      vanished: [ca],
    },
    {
      title: 'one of the future is none that is gone',
      before: [late],
      file: [future],
      expected: [late],
      passedOver: [/is of the future/],
      authorities: [ca],
    },
    {
      title: 'each of two that are gone is told once',
      before: [late, { ...old, revoked: ['07'] }, { ...late, place: 1 }],
      file: [other],
      expected: [other, late, { ...old, revoked: ['07'] }, { ...late, place: 1 }],
      authorities: [ca, renewed],
      vanished: [ca, renewed],
    },
    {
      title: 'a CA that may not sign lists: to take it out lets its certificates pass again',
      before: [late],
      file: [other],
      authorities: [mayNotSign],
    },
  ];
  const told = (wishes: readonly Wish[]) => read(wishes).map(({ facts }) => brief(facts));
  const brief = ({ issuerName, number, thisUpdate }: ReturnType<typeof read>[number]['facts']) => ({
    issuerName,
    number,
    thisUpdate,
  });
  for (const { title, before, file, expected = file, passedOver = [], authorities, vanished = [] } of rows) {
    for (const known of authorities === undefined ? [[ca], []] : [authorities]) {
      const found = succeed(read(before), read(file), known, NOW);
      const label = `${title}; ${known.length} CAs known`;
      t.same(
        found.lists.map(({ facts }) => brief(facts)),
        told(expected),
        label,
      );
      t.match(found.passedOver, passedOver, label);
      t.equal(found.passedOver.length, passedOver.length, label);
      t.equal(found.vanished.length, vanished.length, label);
      t.ok(
        vanished.every((gone) => found.vanished.includes(gone)),
        label,
      );
    }
  }
  t.equal(succeed([], read([old, future]), [], NOW).nextStart, NOW + 1000, 'when the future begins to count');
  t.equal(succeed([], read([old]), [], NOW).nextStart, Number.POSITIVE_INFINITY);
});

t.test('in one file the highest number counts, whatever the dates', async (t) => {
  const wishes = [
    { number: 5, thisUpdate: NOW, revoked: ['05'] },
    { number: 6, thisUpdate: NOW - MINUTE, revoked: ['06'] },
  ];
  const lists = RevocationLists.read(wishes.map(listOf).join(''));
  t.match(lists.check('06', ca), { reason: 'revoked' });
  t.equal(lists.check('05', ca), 'good');
});

t.test('numbers as RFC 5280 has them', async (t) => {
  const numbered = (...bytes: readonly number[]) =>
    revocationList({
      issuer: 'ca',
      key: keysAt(0).privateKey,
      thisUpdate: NOW,
      extensions: [extension('2.5.29.20', tlv(0x02, Buffer.from(bytes)))],
    });
  const twenty = [0x7f, ...Array<number>(19).fill(0xff)];
  for (const [bytes, number] of [
    [[0], 0n],
    [[0, 0x80], 128n],
    [twenty, 2n ** 159n - 1n],
  ] as const) {
    t.equal(RevocationLists.read(numbered(...bytes)).lists[0]?.facts.number, number);
  }
  for (const bytes of [[], [0x80], [0, ...twenty]]) {
    t.throws(() => RevocationLists.read(numbered(...bytes)), { message: /cRLNumber/ }, bytes.join(' '));
  }
});

type Tap = Parameters<typeof temporaryFolder>[0];

async function watching(t: Tap, first: string, authorities: () => readonly ListIssuer[] = () => [ca]) {
  const file = join(temporaryFolder(t), 'crl.pem');
  const told = new EventEmitter();
  writeFileSync(file, first);
  const watch = await watchCrl({
    file,
    pollMs: 100,
    authorities,
    onLists: () => told.emit('lists'),
    onProblem: (message) => told.emit('problem', message),
    onRecovered: () => told.emit('recovered'),
  });
  t.teardown(() => watch.close());
  const next = async (name: string): Promise<string> => {
    const [text] = await once(told, name, { signal: AbortSignal.timeout(10_000) });
    return String(text);
  };
  const replace = (text: string) => {
    writeFileSync(`${file}.new`, text);
    renameSync(`${file}.new`, file);
  };
  const revokes = (serial: string) =>
    [watch.current.lists, RevocationLists.read(watch.current.bytes)].map(
      (lists) => lists.check(serial, ca) !== 'good',
    );
  return { file, watch, next, replace, revokes };
}

t.test('an older edition does not let the revoked in again', async (t) => {
  const { file, watch, next, replace, revokes } = await watching(t, listOf({ number: 5, revoked: ['0a'] }));
  let told = next('problem');
  replace(listOf({ number: 1, thisUpdate: NOW - 120 * MINUTE }));
  t.match(
    await told,
    `revocation lists: in ${file} that of CN=ca number 1 of 2026-05-31T22:00:00.000Z is older than CN=ca number 5`,
  );
  t.match(watch.problem, /stays in force: write the newest there/);
  t.same(revokes('0a'), [true, true], 'here and in other threads');

  // Of another CA there is news: it counts nevertheless.
  told = next('lists');
  const other = { issuer: 'other', place: 2, number: 9 };
  replace(listOf({ number: 1, thisUpdate: NOW - 120 * MINUTE }) + listOf(other));
  await told;
  t.same(
    watch.current.lists.summaries.map(({ issuer, entries }) => [issuer, entries]),
    [
      ['CN=other', 0],
      ['CN=ca', 1],
    ],
  );
  t.same(revokes('0a'), [true, true]);
  t.match(watch.problem, /is older/);

  told = next('recovered');
  replace(listOf({ number: 6, thisUpdate: NOW + MINUTE }));
  await told;
  t.equal(watch.problem, null);
  t.same(revokes('0a'), [false, false], 'a newer one does');
});

t.test("a CA that gives up its old key keeps nobody from its new one's list", async (t) => {
  let trusted = [ca, renewed];
  const [first, second] = [
    { number: 5, revoked: ['0a'] },
    { number: 5, place: 1 },
  ];
  const { file, watch, next, replace, revokes } = await watching(
    t,
    listOf(first) + listOf(second),
    () => trusted,
  );
  const shutOut = (serial: string) => watch.current.lists.check(serial, renewed) !== 'good';
  let told = next('problem');
  replace(listOf({ ...second, number: 6, revoked: ['0b'] }));
  t.match(
    await told,
    `revocation lists: ${file} has no list any more that CN=ca has signed, whom we still trust; the one before stays in force`,
  );
  t.ok(shutOut('0b'), 'by the new one');
  t.same(revokes('0a'), [true, true], 'the old one shuts out whom it did');

  told = next('lists');
  replace(listOf({ ...second, number: 7, revoked: ['0b', '0c'] }));
  await told;
  t.ok(shutOut('0c'), 'and so it goes on');
  t.same(revokes('0a'), [true, true]);
  t.match(watch.problem, /has no list any more/);

  trusted = [renewed];
  told = next('recovered');
  watch.look();
  await told;
  t.equal(watch.problem, null, 'once nothing of that key is trusted');
  t.equal(watch.current.lists.lists.length, 1);
  t.ok(shutOut('0c'));
});

t.test('a list that claims a key without its signature takes the place of none', async (t) => {
  const { watch, next, replace, revokes } = await watching(t, listOf({ number: 5, revoked: ['0a'] }));
  const told = next('problem');
  replace(listOf({ number: 6, thisUpdate: NOW + MINUTE, place: 1, claims: 0 }));
  t.match(
    await told,
    /names the key of CN=ca without its signature: .*; the lists read before stay in force$/,
  );
  t.same(revokes('0a'), [true, true]);
  t.equal(watch.current.lists.lists.length, 1);
  t.equal(watch.current.lists.check('0b', ca), 'good');
});

t.test('a restart takes what is there', async (t) => {
  const { watch, revokes } = await watching(t, listOf({ number: 1, thisUpdate: NOW - 120 * MINUTE }));
  t.equal(watch.problem, null);
  t.same(revokes('0a'), [false, false]);
});

t.test('a list of the future counts when its time comes, and is told before', async (t) => {
  const soon = Math.ceil(Date.now() / 1000) * 1000 + 2 * MINUTE;
  const file = join(temporaryFolder(t), 'crl.pem');
  writeFileSync(file, listOf({ number: 6, thisUpdate: soon }));
  await t.rejects(watchCrl({ file, onLists: () => {}, onProblem: () => {} }), {
    name: 'CredentialsError',
    message: /crl\.pem that of CN=ca number 6 of .* is of the future/,
  });

  const { watch, next, replace, revokes } = await watching(t, listOf({ number: 5, revoked: ['0a'] }));
  let told = next('problem');
  replace(listOf({ number: 6, thisUpdate: soon, revoked: ['0b'] }));
  t.match(await told, /number 6 of .* is of the future and does not count before/);
  t.same(revokes('0a'), [true, true]);
  t.same(revokes('0b'), [false, false]);

  const begin = Math.ceil(Date.now() / 1000) * 1000 + MINUTE + 2000;
  told = next('problem');
  replace(listOf({ number: 7, thisUpdate: begin, revoked: ['0c'] }));
  await told;
  told = next('recovered');
  await told;
  t.ok(Date.now() >= begin - MINUTE, 'within the minute that clocks may differ');
  t.same(revokes('0c'), [true, true]);
  t.equal(watch.problem, null);
});
