/** Credentials from files: every kind of replacement is noticed, the tenth as the first, and half a set is never used. */
import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { fileSource } from '../../ca-client/files.ts';
import { CredentialKeeper } from '../../ca-client/keeper.ts';
import { identityOf } from '../../mesh/identity.ts';
import { orders, temporaryFolder } from './helper.ts';

const HOUR = 3_600_000;
const never = new AbortController().signal;

interface Files {
  readonly chain: string;
  readonly key: string;
  readonly roots: string;
  readonly serial: string;
}
type Tap = Parameters<typeof temporaryFolder>[0];

/** Names of chain, key and roots. */
type Names = readonly [string, string, string];
const ISTIO: Names = ['cert-chain.pem', 'key.pem', 'root-cert.pem'];
const KUBERNETES: Names = ['tls.crt', 'tls.key', 'ca.crt'];
const SPIFFE_HELPER: Names = ['svid.pem', 'svid_key.pem', 'svid_bundle.pem'];

async function issuer(t: Tap) {
  const ca = await openEmbeddedCa({ dir: temporaryFolder(t), trustDomain: null });
  return async (identity = orders): Promise<Files> => {
    const { certificatePem, keyPem, serial } = await ca.issueWithKey(identity, HOUR);
    return { chain: certificatePem, key: keyPem, roots: ca.rootPem, serial };
  };
}

/** Writes in place what is given, roots first. */
function write(dir: string, { chain, key, roots }: Partial<Files>, names = ISTIO): void {
  mkdirSync(dir, { recursive: true });
  for (const [name, text] of [
    [names[2], roots],
    [names[1], key],
    [names[0], chain],
  ] as const) {
    if (text !== undefined) writeFileSync(join(dir, name), text, { mode: 0o600 });
  }
}

/** A keeper on the folder; `until` waits for what it says. */
function keeping(t: Tap, dir: string, pollMs = 100) {
  const taken: string[] = [];
  const failures: string[] = [];
  const warnings: string[] = [];
  const onWarning = (message: string) => warnings.push(message);
  const keeper = new CredentialKeeper({
    source: fileSource({ dir, pollMs, onWarning }),
    onCredentials: ({ serial }) => taken.push(serial),
    onFailure: ({ message }) => failures.push(message),
  });
  keeper.start();
  t.teardown(() => keeper.stop());
  async function until(done: () => boolean): Promise<boolean> {
    const end = Date.now() + 30_000;
    while (!done() && Date.now() < end) await pause(10);
    return done();
  }
  return { taken, failures, warnings, keeper, until };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A way to replace a set: `dir` is what the source is given; `round` counts from 0. */
interface Swap {
  readonly title: string;
  readonly names: Names;
  readonly swap: (dir: string, next: Files, round: number, names: Names) => void;
}

/** As the kubelet's and csi-driver-spiffe's atomic writer: a new folder, then the link, then the old folder goes. */
function swapData(dir: string, next: Files, round: number, names: Names): void {
  write(join(dir, `..2026_01_15_${round}`), next, names);
  symlinkSync(`..2026_01_15_${round}`, join(dir, '..data_tmp'));
  renameSync(join(dir, '..data_tmp'), join(dir, '..data'));
  if (round === 0) for (const name of names) symlinkSync(join('..data', name), join(dir, name));
  else rmSync(join(dir, `..2026_01_15_${round - 1}`), { recursive: true });
}

/** The folder itself is a link to one elsewhere. */
function swapFolder(dir: string, next: Files, round: number, names: Names): void {
  write(`${dir}-${round}`, next, names);
  symlinkSync(`${dir}-${round}`, `${dir}.new`);
  renameSync(`${dir}.new`, dir);
}

/** Each file is a link to one elsewhere, whose folder tells us nothing. */
function swapTargets(dir: string, next: Files, round: number, names: Names): void {
  write(`${dir}-elsewhere`, next, names);
  mkdirSync(dir, { recursive: true });
  if (round === 0) for (const name of names) symlinkSync(join(`${dir}-elsewhere`, name), join(dir, name));
}

function renameOver(dir: string, next: Files, _round: number, names: Names): void {
  write(join(dir, '.new'), next, names);
  for (const name of names) renameSync(join(dir, '.new', name), join(dir, name));
}

function makeAnew(dir: string, next: Files, _round: number, names: Names): void {
  rmSync(dir, { recursive: true, force: true });
  write(dir, next, names);
}

const swaps: readonly Swap[] = [
  { title: 'renamed over', names: ISTIO, swap: renameOver },
  { title: 'renamed over, spiffe-helper', names: SPIFFE_HELPER, swap: renameOver },
  { title: 'written in place', names: ISTIO, swap: (dir, next, _round, names) => write(dir, next, names) },
  {
    title: 'written in place, Kubernetes',
    names: KUBERNETES,
    swap: (dir, next, _round, names) => write(dir, next, names),
  },
  { title: "Kubernetes' ..data link", names: KUBERNETES, swap: swapData },
  { title: "a ..data link with Istio's names", names: ISTIO, swap: swapData },
  { title: 'the folder is a link', names: ISTIO, swap: swapFolder },
  { title: 'the files are links', names: SPIFFE_HELPER, swap: swapTargets },
  { title: 'the folder is made anew', names: KUBERNETES, swap: makeAnew },
];

t.test('ten swaps of every kind', async (t) => {
  const issue = await issuer(t);
  const rounds = async ({ title, names, swap }: Swap) => {
    const dir = join(temporaryFolder(t), 'certs');
    swap(dir, await issue(), 0, names);
    const { taken, until, warnings } = keeping(t, dir);
    await until(() => taken.length === 1);
    for (let round = 1; round <= 10; round++) {
      const next = await issue();
      swap(dir, next, round, names);
      t.ok(await until(() => taken.at(-1) === next.serial), `${title}: swap ${round}`);
    }
    t.equal(taken.length, 11, `${title}: each set once, and nothing else`);
    t.same(warnings, [], title);
  };
  await Promise.all(swaps.map(rounds));
});

t.test('a folder that comes later', async (t) => {
  const issue = await issuer(t);
  for (const names of [ISTIO, KUBERNETES, SPIFFE_HELPER]) {
    const dir = join(temporaryFolder(t), 'not', 'yet');
    const { taken, failures, until } = keeping(t, dir);
    await until(() => failures.length > 0);
    t.match(
      failures[0],
      /none of its files is there \(yet\): it must hold cert-chain.pem, key.pem and root-cert.pem, or/,
    );
    const first = await issue();
    write(dir, first, names);
    t.ok(await until(() => taken.at(-1) === first.serial), names[0]);
  }
});

t.test('a set not yet whole is not used, and used as soon as it is', async (t) => {
  const issue = await issuer(t);
  const stranger = await issuer(t);
  const rows: readonly (readonly [string, RegExp, (next: Files) => Promise<Partial<Files>>])[] = [
    ['only the key', /private key is not the certificate's/, async ({ key }) => ({ key })],
    ['only the certificate', /private key is not the certificate's/, async ({ chain }) => ({ chain })],
    [
      'half a certificate',
      /cert-chain.pem holds no PEM/,
      async ({ chain }) => ({ chain: chain.slice(0, 200) }),
    ],
    ['half a mark', /no PEM|besides whole PEM/, async ({ chain }) => ({ chain: chain.slice(0, -5) })],
    ['half a key', /private key/, async ({ key }) => ({ key: key.slice(0, 100) })],
    ['an empty key', /private key/, async () => ({ key: '' })],
    ['an empty certificate', /cert-chain.pem holds no PEM/, async () => ({ chain: '' })],
    ['empty roots', /root-cert.pem holds no PEM/, async () => ({ roots: '' })],
    ['half a root', /root-cert.pem holds/, async ({ roots }) => ({ roots: roots.slice(0, 300) })],
    [
      "another's root",
      /does not lead to any of the roots/,
      async () => ({ roots: (await stranger()).roots }),
    ],
    ['a wrong kind', /besides whole PEM/, async ({ chain, key }) => ({ chain: chain + key })],
  ];
  const dir = temporaryFolder(t);
  let last = await issue();
  write(dir, last);
  const { taken, failures, keeper, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  for (const [title, words, part] of rows) {
    const next = await issue();
    write(dir, await part(next));
    t.ok(await until(() => words.test(keeper.state.lastError ?? '')), `${title}: ${keeper.state.lastError}`);
    t.equal(keeper.current?.serial, last.serial, `${title}: the old one stays`);
    write(dir, next);
    t.ok(await until(() => taken.at(-1) === next.serial), `${title}: then whole`);
    t.equal(keeper.state.lastError, null);
    last = next;
  }
  t.equal(taken.length, rows.length + 1);
  t.notMatch(failures.join(), /PRIVATE KEY|MII/, 'nothing of a key is quoted');
});

t.test('what is broken or gone changes nothing', async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  const first = await issue();
  write(dir, first);
  const { taken, keeper, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  const another = await issue(identityOf('cluster.local', 'shop', 'payments'));
  const root = join(dir, 'root-cert.pem');
  const rows: readonly (readonly [string, RegExp, () => void])[] = [
    ['a file gone', /: root-cert.pem is not there \(yet\)$/, () => unlinkSync(root)],
    ['a folder in its place', /root-cert.pem cannot be used: .* is no regular file/, () => mkdirSync(root)],
    [
      'far too long',
      /root-cert.pem is longer than 1048576 bytes/,
      () => {
        rmSync(root, { recursive: true });
        writeFileSync(root, '#'.repeat(2_000_000));
      },
    ],
    ['another identity', /offers the identity .*payments/, () => write(dir, another)],
    ['all gone', /none of its files is there/, () => rmSync(dir, { recursive: true })],
  ];
  for (const [title, words, breakIt] of rows) {
    breakIt();
    t.ok(await until(() => words.test(keeper.state.lastError ?? '')), `${title}: ${keeper.state.lastError}`);
    t.equal(keeper.current?.serial, first.serial);
  }
  write(dir, first);
  t.ok(await until(() => keeper.state.lastError === null), 'the same set again heals it');
  t.equal(taken.length, 1);
});

t.test('a root added is a new set', async (t) => {
  const issue = await issuer(t);
  const other = await (await issuer(t))();
  const dir = temporaryFolder(t);
  const first = await issue();
  write(dir, first);
  const { taken, keeper, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  write(dir, { roots: first.roots + other.roots });
  t.ok(await until(() => taken.length === 2));
  t.equal(keeper.current?.rootsPem.length, 2);
});

t.test('which of several sets counts', async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  const [one, two, three] = [await issue(), await issue(), await issue()];
  write(dir, { chain: 'rubbish' });
  write(dir, three, SPIFFE_HELPER);
  const { taken, warnings, until } = keeping(t, dir);
  t.ok(await until(() => taken.at(-1) === three.serial), 'the whole one before the one begun');
  t.same(warnings, []);
  write(dir, two, KUBERNETES);
  t.ok(await until(() => taken.at(-1) === two.serial), 'of two whole ones the first by name');
  t.same(warnings, [
    `${dir} holds 2 whole sets: ${join(dir, 'tls.crt')} is used, not ${join(dir, 'svid.pem')}`,
  ]);
  write(dir, one);
  t.ok(await until(() => taken.at(-1) === one.serial), "Istio's before all");
  unlinkSync(join(dir, 'key.pem'));
  t.ok(await until(() => taken.at(-1) === two.serial), 'back to the next');
  t.equal(warnings.length, 2, 'each is told once');
});

t.test('what is missing is named', async (t) => {
  const issue = await issuer(t);
  const { chain, key } = await issue();
  const rows: readonly (readonly [Partial<Files>, Names, RegExp])[] = [
    [{ chain }, ISTIO, /: key.pem and root-cert.pem are not there \(yet\)$/],
    [
      { chain, key },
      KUBERNETES,
      /: ca.crt is not there \(yet\): it holds the roots to trust; cert-manager writes it where .*sourceCABundle$/,
    ],
    [{ chain, key }, SPIFFE_HELPER, /: svid_bundle.pem is not there \(yet\)$/],
  ];
  for (const [files, names, words] of rows) {
    const dir = temporaryFolder(t);
    write(dir, files, names);
    await t.rejects(fileSource({ dir }).obtain(never), { name: 'CredentialsError', message: words });
  }
});

t.test('a key that everyone may read is told of once', async (t) => {
  const issue = await issuer(t);
  for (const [mode, warned] of [
    [0o600, 0],
    [0o640, 0],
    [0o644, 1],
    [0o606, 1],
  ] as const) {
    const dir = temporaryFolder(t);
    write(dir, await issue());
    chmodSync(join(dir, 'key.pem'), mode);
    const warnings: string[] = [];
    const source = fileSource({ dir, onWarning: (message) => warnings.push(message) });
    await source.obtain(never);
    await source.obtain(never);
    t.equal(warnings.length, warned, mode.toString(8));
    if (warned > 0)
      t.match(warnings[0], /may open the private key .*key.pem \(mode 06\d\d\): .*chmod o=.*defaultMode/);
  }
});

t.test('one attempt, without a keeper', async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  write(dir, await issue());
  const credentials = await fileSource({ dir }).obtain(never);
  t.match(credentials, { origin: `files ${dir}`, identity: { uri: orders.uri }, clockSkewMs: null });
  await t.rejects(fileSource({ dir: '/nowhere' }).obtain(never), {
    name: 'CredentialsError',
    message: /^files \/nowhere/,
  });
});

t.test(
  'a whole set that stays wrong is refused, for an alarm; one that may be half-way is not',
  async (t) => {
    const dir = join(temporaryFolder(t), 'certs');
    const issue = await issuer(t);
    const [one, other] = [await issue(), await issue()];
    let at = Date.now();
    const source = fileSource({ dir, now: () => at });
    const kind = async (): Promise<string> =>
      source.obtain(never).then(
        () => 'taken',
        (error: Error) => error.constructor.name,
      );
    write(dir, { ...one, key: other.key });
    t.equal(await kind(), 'CredentialsError', 'at first');
    at += 6_000;
    t.equal(await kind(), 'RefusedSet', 'six seconds later');
    write(dir, { ...other, key: one.key, roots: '' });
    t.equal(await kind(), 'CredentialsError', 'another fault begins anew');
    write(dir, one);
    t.equal(await kind(), 'taken');
    write(dir, { ...one, key: other.key });
    t.equal(await kind(), 'CredentialsError', 'as after a good one');
    unlinkSync(join(dir, 'key.pem'));
    at += 6_000;
    t.equal(await kind(), 'CredentialsError', 'and half a set never is');
  },
);
