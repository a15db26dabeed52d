/** The watched file of revocation lists: every replacement counts, half of a file never does, and the last good lists stay. */
import { EventEmitter, once } from 'node:events';
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type CrlFile, watchCrl } from '../../ca-client/crl-file.ts';
import { ecKeys, pem, revocationList } from '../mesh/pki.ts';
import { temporaryFolder } from './helper.ts';

const { privateKey } = ecKeys();
const NOW = Date.UTC(2026, 5, 1);

/** A list told apart by how many entries it has. */
function listOf(entries: number, nextUpdate: number | null = null): string {
  const revoked = Array.from({ length: entries }, (_, i) => (0x1000 + i).toString(16));
  const wish = { issuer: 'ca', key: privateKey, thisUpdate: NOW, nextUpdate, revoked };
  return pem(revocationList(wish), 'X509 CRL');
}

type Tap = Parameters<typeof temporaryFolder>[0];

/** A watch whose events can be awaited; `events` has them all. */
async function watching(t: Tap, file: string) {
  const told = new EventEmitter();
  const events: string[] = [];
  const tell = (name: string, text = '') => {
    events.push(`${name} ${text}`.trim());
    told.emit(name, text);
  };
  const watch: CrlFile = await watchCrl({
    file,
    pollMs: 100,
    onLists: ({ lists }) => tell('lists', String(lists.summaries[0]?.entries)),
    onProblem: (message) => tell('problem', message),
    onRecovered: () => tell('recovered'),
  });
  t.teardown(() => watch.close());
  const next = async (name: string): Promise<string> => {
    const [text] = await once(told, name, { signal: AbortSignal.timeout(10_000) });
    return String(text);
  };
  const entries = () => watch.current.lists.summaries[0]?.entries;
  return { watch, events, next, entries };
}

t.test('a start without usable lists is refused', async (t) => {
  const dir = temporaryFolder(t);
  const file = join(dir, 'crl.pem');
  const start = () => watchCrl({ file, onLists: () => {}, onProblem: () => {} });
  await t.rejects(start(), {
    name: 'CredentialsError',
    message: /crl\.pem is not there: create it, or leave out --crl/,
  });
  for (const [text, message] of [
    ['', /crl\.pem cannot be used: list 1 of 1: ends too early/],
    [listOf(1).slice(0, 100), /something besides whole PEM/],
    ['a'.repeat(8_388_609), /longer than 8388608 bytes/],
  ] as const) {
    writeFileSync(file, text);
    await t.rejects(start(), { name: 'CredentialsError', message });
  }
  rmSync(file);
  mkdirSync(file);
  await t.rejects(start(), { name: 'CredentialsError', message: /is no regular file/ });
});

t.test('every kind of replacement, the tenth as the first', async (t) => {
  const kinds: Record<string, (dir: string, text: string, round: number) => void> = {
    rename(dir, text) {
      writeFileSync(join(dir, 'new'), text);
      renameSync(join(dir, 'new'), join(dir, 'crl.pem'));
    },
    'write in place'(dir, text) {
      writeFileSync(join(dir, 'crl.pem'), text);
    },
    "swap of Kubernetes' ..data link"(dir, text, round) {
      mkdirSync(join(dir, `..${round}`));
      writeFileSync(join(dir, `..${round}`, 'crl.pem'), text);
      symlinkSync(`..${round}`, join(dir, '..new'));
      renameSync(join(dir, '..new'), join(dir, '..data'));
      if (round === 0) symlinkSync('..data/crl.pem', join(dir, 'crl.pem'));
      else rmSync(join(dir, `..${round - 1}`), { recursive: true });
    },
  };
  for (const [kind, replace] of Object.entries(kinds)) {
    const dir = temporaryFolder(t);
    replace(dir, listOf(0), 0);
    const { entries, next, events } = await watching(t, join(dir, 'crl.pem'));
    t.equal(entries(), 0, kind);
    for (let round = 1; round <= 10; round++) {
      const told = next('lists');
      replace(dir, listOf(round), round);
      t.equal(await told, String(round), `${kind} ${round}`);
      t.equal(entries(), round);
    }
    t.same(
      events,
      Array.from({ length: 10 }, (_, i) => `lists ${i + 1}`),
      `${kind}: each once, and no problem`,
    );
  }
});

t.test('what is half-written or gone leaves the last good lists in force, and is told once', async (t) => {
  const file = join(temporaryFolder(t), 'crl.pem');
  const good = listOf(3);
  writeFileSync(file, good);
  const { watch, entries, next, events } = await watching(t, file);

  let told = next('problem');
  writeFileSync(file, listOf(4).slice(0, 150));
  t.match(await told, /crl\.pem cannot be used: .*; the lists read before stay in force$/);
  t.equal(entries(), 3);
  t.match(watch.problem, /cannot be used/);

  told = next('problem');
  rmSync(file);
  t.match(await told, /crl\.pem is not there/);
  t.equal(entries(), 3);

  told = next('recovered');
  writeFileSync(file, good);
  await told;
  t.equal(watch.problem, null);

  told = next('lists');
  writeFileSync(file, listOf(5));
  await told;
  t.equal(entries(), 5);
  t.same(
    events.map((event) => event.split(' ')[0]),
    ['problem', 'problem', 'recovered', 'lists'],
  );
});

t.test('a large file written slowly is used when it is whole', async (t) => {
  const file = join(temporaryFolder(t), 'crl.pem');
  writeFileSync(file, listOf(0));
  const { entries, next } = await watching(t, file);
  const told = next('lists');
  const text = listOf(2_000);
  for (let at = 0; at < text.length; at += 20_000) {
    writeFileSync(file, text.slice(at, at + 20_000), { flag: at === 0 ? 'w' : 'a' });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  t.equal(await told, '2000', 'and nothing else before');
  t.equal(entries(), 2000);
});

t.test('a list past its time stays in force, and is told', async (t) => {
  const file = join(temporaryFolder(t), 'crl.pem');
  const due = Math.ceil(Date.now() / 1000) * 1000 + 2000;
  writeFileSync(file, listOf(3, due));
  const { watch, entries, next } = await watching(t, file);
  t.equal(watch.problem, null);
  t.match(
    await next('problem'),
    `that of CN=ca in ${file} should have been renewed by ${new Date(due).toISOString()}`,
  );
  t.ok(Date.now() >= due, 'and not before');
  t.equal(entries(), 3);
  const told = next('recovered');
  writeFileSync(file, listOf(3, due + 3_600_000));
  await told;
  t.equal(watch.problem, null);
});

t.test('a closed watch is silent', async (t) => {
  const dir = temporaryFolder(t);
  const file = join(dir, 'crl.pem');
  writeFileSync(file, listOf(0));
  const closed = await watching(t, file);
  const open = await watching(t, file);
  closed.watch.close();
  const told = open.next('lists');
  writeFileSync(file, listOf(1));
  await told;
  t.same(closed.events, []);
});
