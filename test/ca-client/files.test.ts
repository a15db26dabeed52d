/** Credentials from files: every kind of replacement is noticed, the tenth as the first, and half a set is never used. */
import { mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
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

async function issuer(t: Tap) {
  const ca = await openEmbeddedCa({ dir: temporaryFolder(t), trustDomain: null });
  return async (identity = orders): Promise<Files> => {
    const { certificatePem, keyPem, serial } = await ca.issueWithKey(identity, HOUR);
    return { chain: certificatePem, key: keyPem, roots: ca.rootPem, serial };
  };
}

function write(dir: string, { chain, key, roots }: Partial<Files>): void {
  mkdirSync(dir, { recursive: true });
  if (roots !== undefined) writeFileSync(join(dir, 'root-cert.pem'), roots);
  if (key !== undefined) writeFileSync(join(dir, 'key.pem'), key);
  if (chain !== undefined) writeFileSync(join(dir, 'cert-chain.pem'), chain);
}

/** A keeper on the folder; `until` waits for a serial to be taken. */
function keeping(t: Tap, dir: string, pollMs = 200) {
  const taken: string[] = [];
  const failures: string[] = [];
  const keeper = new CredentialKeeper({
    source: fileSource({ dir, pollMs }),
    onCredentials: ({ serial }) => taken.push(serial),
    onFailure: ({ message }) => failures.push(message),
  });
  keeper.start();
  t.teardown(() => keeper.stop());
  async function until(done: () => boolean): Promise<boolean> {
    const end = Date.now() + 5_000;
    while (!done() && Date.now() < end) await pause(20);
    return done();
  }
  return { taken, failures, keeper, until };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

t.test('ten replacements by rename', async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  write(dir, await issue());
  const { taken, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  for (let round = 1; round <= 10; round++) {
    const next = await issue();
    const names = { 'root-cert.pem': next.roots, 'key.pem': next.key, 'cert-chain.pem': next.chain };
    for (const [name, text] of Object.entries(names)) {
      writeFileSync(join(dir, `.${name}`), text);
      renameSync(join(dir, `.${name}`), join(dir, name));
    }
    t.ok(await until(() => taken.at(-1) === next.serial), `replacement ${round}`);
  }
  t.equal(taken.length, 11);
});

t.test("ten swaps of Kubernetes' ..data link", async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  const swap = async (round: number) => {
    const next = await issue();
    write(join(dir, `..version-${round}`), next);
    symlinkSync(`..version-${round}`, join(dir, '..data_tmp'));
    renameSync(join(dir, '..data_tmp'), join(dir, '..data'));
    if (round > 0) rmSync(join(dir, `..version-${round - 1}`), { recursive: true });
    return next.serial;
  };
  await swap(0);
  for (const name of ['root-cert.pem', 'key.pem', 'cert-chain.pem'])
    symlinkSync(join('..data', name), join(dir, name));
  const { taken, failures, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  for (let round = 1; round <= 10; round++) {
    const serial = await swap(round);
    t.ok(await until(() => taken.at(-1) === serial), `swap ${round}`);
  }
  t.equal(taken.length, 11);
  t.same(failures, []);
});

t.test('a folder that comes later, and one that is made anew', async (t) => {
  const issue = await issuer(t);
  const dir = join(temporaryFolder(t), 'certs');
  const { taken, failures, until } = keeping(t, dir);
  await until(() => failures.length > 0);
  t.match(
    failures[0],
    /none of its files is there \(yet\): it must hold cert-chain.pem, key.pem and root-cert.pem, or tls.crt/,
  );
  for (let round = 1; round <= 2; round++) {
    const next = await issue();
    rmSync(dir, { recursive: true, force: true });
    write(dir, next);
    t.ok(await until(() => taken.at(-1) === next.serial), `made ${round} times`);
  }
});

t.test('a set written slowly is used once it is whole', async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  const first = await issue();
  write(dir, first);
  const { taken, keeper, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  const next = await issue();
  write(dir, { key: next.key });
  await pause(600);
  t.equal(keeper.current?.serial, first.serial, 'new key, old chain');
  t.match(keeper.state.lastError, /private key is not the certificate's/);
  write(dir, { chain: next.chain.slice(0, 200) });
  await pause(600);
  t.equal(keeper.current?.serial, first.serial, 'half a chain');
  write(dir, { chain: next.chain });
  t.ok(await until(() => taken.at(-1) === next.serial));
  t.same(taken, [first.serial, next.serial]);
  t.equal(keeper.state.lastError, null);
});

t.test('what is broken or gone changes nothing', async (t) => {
  const issue = await issuer(t);
  const other = await issuer(t);
  const dir = temporaryFolder(t);
  const first = await issue();
  write(dir, first);
  const { taken, failures, keeper, until } = keeping(t, dir);
  await until(() => taken.length === 1);
  const another = await issue(identityOf('cluster.local', 'shop', 'payments'));
  const rows: readonly (readonly [string, RegExp, () => void])[] = [
    ['another root', /does not lead to any of the roots/, () => write(dir, { roots: foreign.roots })],
    ['an empty file', /root-cert.pem holds no PEM/, () => write(dir, { roots: '' })],
    ['a file gone', /root-cert.pem is not there/, () => unlinkSync(join(dir, 'root-cert.pem'))],
    ['another identity', /offers the identity .*payments/, () => write(dir, another)],
  ];
  const foreign = await other();
  for (const [title, words, breakIt] of rows) {
    breakIt();
    t.ok(await until(() => words.test(keeper.state.lastError ?? '')), title);
    t.equal(keeper.current?.serial, first.serial);
  }
  t.notMatch(failures.join(), /PRIVATE KEY/);
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

t.test('one attempt, without a keeper', async (t) => {
  const issue = await issuer(t);
  const dir = temporaryFolder(t);
  write(dir, await issue());
  const credentials = await fileSource({ dir }).obtain(never);
  t.match(credentials, { origin: `files ${dir}`, identity: { uri: orders.uri } });
  await t.rejects(fileSource({ dir: '/nowhere' }).obtain(never), {
    name: 'CredentialsError',
    message: /^files \/nowhere/,
  });
});
