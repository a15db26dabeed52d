/** The embedded CA's audit log: what stands in it, what it survives, and that nothing is issued without it. */

import { spawn } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { appendFileSync, chmodSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { AuditLog, type AuditRecord, type IssuedRecord } from '../../ca-client/ca-audit.ts';
import { withLock } from '../../ca-client/ca-lock.ts';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { makeRequest } from '../../ca-client/request.ts';
import { HOUR } from './ca-world.ts';
import { orders, temporaryFolder } from './helper.ts';

const NOW = Date.UTC(2030, 0, 1);

function linesOf(dir: string, name = 'issued.jsonl'): Record<string, unknown>[] {
  return readFileSync(join(dir, name), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

function issuedRecord(serial: string, notAfter = NOW + HOUR): IssuedRecord {
  return {
    event: 'issued',
    time: new Date(NOW).toISOString(),
    identity: orders.uri,
    serial,
    notBefore: new Date(NOW).toISOString(),
    notAfter: new Date(notAfter).toISOString(),
    publicKey: 'ab'.repeat(32),
    peer: null,
    by: 'cli',
    issuer: 'cd'.repeat(32),
    root: 'cd'.repeat(32),
    roots: ['cd'.repeat(32)],
  };
}

const refusal: AuditRecord = {
  event: 'refused',
  time: new Date(NOW).toISOString(),
  status: 'X',
  reason: 'y'.repeat(80),
  account: null,
  peer: 'p',
  by: 'server',
};

t.test('a line for each certificate', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const { csrPem } = await makeRequest(orders);
  const issued = await ca.issueForRequest(csrPem, orders, HOUR, { by: 'server', peer: '127.0.0.1:4711' });
  const x509 = new X509Certificate(issued.certificatePem);
  const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
  const root = sha256(new X509Certificate(ca.rootPem).raw);
  t.same(linesOf(dir), [
    {
      event: 'issued',
      time: linesOf(dir)[0]?.time,
      identity: 'spiffe://cluster.local/ns/shop/sa/orders',
      serial: x509.serialNumber.toLowerCase(),
      notBefore: x509.validFromDate.toISOString(),
      notAfter: x509.validToDate.toISOString(),
      publicKey: sha256(x509.publicKey.export({ type: 'spki', format: 'der' })),
      peer: '127.0.0.1:4711',
      by: 'server',
      issuer: root,
      root,
      roots: [root],
    },
  ]);
  t.ok(Math.abs(Date.parse(String(linesOf(dir)[0]?.time)) - Date.now()) < 10_000);
  t.equal(statSync(join(dir, 'issued.jsonl')).mode & 0o777, 0o600);
  ca.noteRefusal({
    status: 'UNAUTHENTICATED',
    reason: 'no',
    account: null,
    peer: '10.0.0.1:1',
    by: 'server',
  });
  await ca.issueServer(['localhost'], HOUR);
  t.match(linesOf(dir).slice(1), [
    { event: 'refused', reason: 'no', peer: '10.0.0.1:1' },
    { identity: null },
  ]);
});

t.test('who is refused cannot flush the log', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const refused = {
    status: 'UNAUTHENTICATED',
    reason: 'no',
    account: null,
    peer: 'p',
    by: 'server',
  } as const;
  for (let i = 0; i < 5_000; i++) ca.noteRefusal(refused);
  await ca.issueWithKey(orders, HOUR);
  const lines = linesOf(dir);
  t.equal(lines.filter(({ event }) => event === 'refused').length, 100);
  t.equal(lines.filter(({ event }) => event === 'issued').length, 1);
});

t.test('valid certificates are bounded, one identity’s more so', async (t) => {
  const dir = temporaryFolder(t);
  const log = new AuditLog(dir, 1e9);
  const records = Array.from({ length: 10_000 }, (_, i) => issuedRecord(`${i}`));
  await withLock(dir, () => log.append(records, NOW));
  t.notOk(log.hasRoom(orders.uri));
  t.ok(log.hasRoom('spiffe://cluster.local/ns/shop/sa/web'));
  await log.catchUp(NOW + 2 * HOUR);
  t.ok(log.hasRoom(orders.uri), 'they have expired');
});

t.test('what cannot be written down is not issued', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  mkdirSync(join(dir, 'issued.jsonl'));
  const words = /the audit log .*issued.jsonl cannot be (read|written, so nothing is issued)/;
  await t.rejects(ca.issueWithKey(orders, HOUR), { name: 'CredentialsError', message: words });
  rmSync(join(dir, 'issued.jsonl'), { recursive: true });
  const { serial } = await ca.issueWithKey(orders, HOUR);
  t.match(linesOf(dir), [{ serial }], 'and the next one is');
});

t.test('a line cut off by a crash is nobody’s, and the next stands on its own', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const one = await ca.issueWithKey(orders, HOUR);
  const file = join(dir, 'issued.jsonl');
  const line = readFileSync(file, 'utf8');
  appendFileSync(file, line.slice(0, 100).replace(one.serial, 'f'.repeat(32)));
  const later = await openEmbeddedCa({ dir, trustDomain: null });
  const two = await later.issueWithKey(orders, HOUR);
  const log = new AuditLog(dir);
  await log.catchUp(Date.now());
  t.same([...log.valid.keys()], [one.serial, two.serial]);
  t.equal(readFileSync(file, 'utf8').split('\n').length, 4, 'half a line, a whole one before and after');
});

t.test('bounded: what still counts goes over, all of it stays beside', async (t) => {
  const dir = temporaryFolder(t);
  const log = new AuditLog(dir, 4_000);
  const append = (records: readonly AuditRecord[], now = NOW) =>
    withLock(dir, async () => {
      await log.catchUp(now);
      await log.append(records, now);
    });
  const time = new Date(NOW).toISOString();
  await append([
    { event: 'root-added', time, certificate: 'ee' },
    issuedRecord('01'),
    { ...issuedRecord('02', NOW + 1_000), publicKey: '02' },
    {
      event: 'revoked',
      time,
      identity: null,
      serial: '02',
      notAfter: time,
      publicKey: '02',
      issuer: 'cd',
      reason: null,
    },
  ]);
  const noise = Array.from({ length: 40 }, () => refusal);
  await append(noise);
  await append([issuedRecord('03')], NOW + 10_000);
  t.same(
    linesOf(dir).map(({ event, serial }) => [event, serial]),
    [
      ['root-added', undefined],
      ['revoked', '02'],
      ['issued', '01'],
      ['issued', '03'],
    ],
  );
  t.equal(linesOf(dir, 'issued.jsonl.1').length, 44);
  t.equal(statSync(join(dir, 'issued.jsonl')).mode & 0o777, 0o600);
  const again = new AuditLog(dir);
  await again.catchUp(NOW + 10_000);
  t.same([...again.valid.keys()], ['01', '03']);
  t.same([...again.revokedKeys], ['02'], 'a revoked key is remembered past its certificate');
  t.match(again.changes, [{ event: 'root-added' }]);
  for (let i = 0; i < 60; i++) await append([issuedRecord(`a${i}`)], NOW + 20_000);
  await append(noise, NOW + 20_000);
  const kept = new AuditLog(dir);
  await kept.catchUp(NOW + 20_000);
  t.equal(kept.valid.size, 62, 'none that is valid is ever lost');
});

t.test('two that write at once, one of them compacting', async (t) => {
  const dir = temporaryFolder(t);
  const [one, two] = [5_000, 1_000_000].map((bytes) => new AuditLog(dir, bytes));
  const write = (log: AuditLog | undefined, name: string) =>
    withLock(dir, async () => {
      await log?.catchUp(NOW);
      await log?.append([issuedRecord(name), refusal], NOW);
    });
  await Promise.all(Array.from({ length: 40 }, (_, i) => write(i % 2 === 0 ? one : two, `0${i}`)));
  for (const log of [one, two, new AuditLog(dir)]) {
    await log?.catchUp(NOW);
    t.equal(log?.valid.size, 40);
  }
});

t.test('several processes issue from one folder', async (t) => {
  const dir = temporaryFolder(t);
  const module = JSON.stringify(join(import.meta.dirname, '../../ca-client/embedded-ca.ts'));
  const program = `import { openEmbeddedCa } from ${module};
    const ca = await openEmbeddedCa({ dir: ${JSON.stringify(dir)}, trustDomain: null, auditMaxBytes: 3000 });
    const identity = ${JSON.stringify(orders)};
    for (let i = 0; i < 5; i++) await Promise.all([1, 2, 3].map(() => ca.issueWithKey(identity, 3600000)));`;
  const run = () =>
    new Promise<number | null>((resolve) => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'inherit' });
      child.on('close', resolve);
    });
  t.same(await Promise.all([run(), run(), run()]), [0, 0, 0]);
  const log = new AuditLog(dir);
  await log.catchUp(Date.now());
  t.equal(log.valid.size, 45);
});

/** A process that takes the folder's lock: what it does before, and what with it. It is gone when the test is over. */
function locking(t: Test, dir: string, before: string, work: string) {
  const module = JSON.stringify(join(import.meta.dirname, '../../ca-client/ca-lock.ts'));
  const program = `import { withLock } from ${module};
    ${before};
    await withLock(${JSON.stringify(dir)}, ${work});`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

t.test('who waits in the process that has the lock lets no other process in', async (t) => {
  const dir = temporaryFolder(t);
  let release = (): void => {};
  const first = withLock(dir, () => new Promise<void>((resolve) => (release = resolve)));
  const second = withLock(dir, async () => {});
  const child = locking(t, dir, "console.log('waits')", "async () => console.log('in')");
  let said = '';
  child.stdout.on('data', (text: Buffer) => (said += text));
  const over = new Promise((resolve) => child.once('close', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  // What must not happen.
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.equal(said, 'waits\n');
  release();
  await Promise.all([first, second, over]);
  t.equal(said, 'waits\nin\n');
});

t.test('a lock dies with its process', async (t) => {
  const dir = temporaryFolder(t);
  // What nobody can end any more would be collected, and the lock with it: there must be a way to.
  const forEver =
    "() => new Promise((end) => { console.log('held'); setInterval(() => globalThis.over && end(), 1000); })";
  const child = locking(t, dir, '', forEver);
  await new Promise((resolve) => child.stdout.once('data', resolve));
  let done = false;
  const waiting = withLock(dir, async () => {
    done = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.notOk(done, 'held by another');
  child.kill('SIGKILL');
  await waiting;
  t.ok(done);
});

t.test(
  'a log nobody may read',
  { skip: process.getuid?.() === 0 && 'root may read everything' },
  async (t) => {
    const dir = temporaryFolder(t);
    const ca = await openEmbeddedCa({ dir, trustDomain: null });
    writeFileSync(join(dir, 'issued.jsonl'), '{}\n');
    chmodSync(join(dir, 'issued.jsonl'), 0);
    await t.rejects(ca.issueWithKey(orders, HOUR), /the audit log .* cannot be read/);
  },
);
