/** `oarlock ca` as its user meets it: real processes, exit codes, files. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { fileSource } from '../../ca-client/files.ts';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import { orders, temporaryFolder } from './helper.ts';

const main = join(import.meta.dirname, '../../cli/main.ts');
const never = new AbortController().signal;
const account = ['--namespace', 'shop', '--service-account', 'orders'];

interface Running {
  readonly child: ChildProcess;
  readonly output: { out: string; err: string };
  readonly exit: Promise<number | null>;
}

function start(...args: string[]): Running {
  const child = spawn(process.execPath, [main, 'ca', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { out: '', err: '' };
  child.stdout?.on('data', (chunk) => {
    output.out += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output.err += chunk;
  });
  const exit = new Promise<number | null>((resolve) => child.on('close', resolve));
  return { child, output, exit };
}

async function run(...args: string[]) {
  const { output, exit } = start(...args);
  return { status: await exit, ...output };
}

async function until(done: () => boolean): Promise<boolean> {
  const end = Date.now() + 30_000;
  while (!done() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 30));
  return done();
}

t.test('serve, token, and a certificate', async (t) => {
  const dir = temporaryFolder(t);
  const token = await run('token', '--dir', dir, ...account);
  t.equal(token.status, 0, 'a token can be had before the CA first ran');
  t.match(token.out, /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
  const tokenFile = join(dir, 'token');
  t.match(await run('token', '--dir', dir, ...account, '--out', tokenFile), { status: 0, out: '', err: '' });
  t.equal(statSync(tokenFile).mode & 0o777, 0o600);

  const ca = start('serve', '--dir', dir, '--listen', '127.0.0.1:0', '--ttl', '30s');
  t.teardown(() => ca.child.kill('SIGKILL'));
  await until(() => ca.output.out.includes('\n'));
  const ready = JSON.parse(ca.output.out);
  t.same(Object.keys(ready), ['ready', 'address', 'root']);
  t.match(ready, { ready: true, address: /^127\.0\.0\.1:\d+$/, root: join(dir, 'root-cert.pem') });
  const { address, root } = ready as { address: string; root: string };
  const source = istioCaSource({ address, caRootFile: root, tokenFile, identity: orders });
  const credentials = await source.obtain(never);
  t.ok(Math.abs(credentials.notAfter - Date.now() - 30_000) < 10_000, '--ttl bounds the 24 h asked for');

  ca.child.kill('SIGTERM');
  t.equal(await ca.exit, 0);
  const lines = ca.output.err
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const requests = lines.filter(({ event }) => event === 'issued' || event === 'refused');
  t.match(requests, [{ event: 'issued', identity: orders.uri, serial: credentials.serial }]);
  t.equal(ca.output.out.split('\n').length, 2, 'one line on stdout');
});

t.test('token --renew keeps the file fresh', async (t) => {
  const dir = temporaryFolder(t);
  const file = join(dir, 'token');
  const renewing = start('token', '--dir', dir, ...account, '--ttl', '2s', '--out', file, '--renew');
  t.teardown(() => renewing.child.kill('SIGKILL'));
  const seen = new Set<string>();
  const read = () => {
    try {
      seen.add(readFileSync(file, 'utf8'));
    } catch {
      // not there yet
    }
    return seen.size >= 3;
  };
  t.ok(await until(read), 'three tokens');
  for (const text of seen) t.match(text, /^[\w-]+\.[\w-]+\.[\w-]+\n$/, 'each whole');
  renewing.child.kill('SIGTERM');
  t.equal(await renewing.exit, 0);
  t.same(renewing.output, { out: '', err: '' });
});

t.test('issue writes what --cert-dir reads', async (t) => {
  const dir = temporaryFolder(t);
  const out = join(dir, 'certs', 'orders');
  t.match(await run('issue', '--dir', dir, ...account, '--out', out, '--ttl', '90m'), {
    status: 0,
    out: '',
    err: '',
  });
  const credentials = await fileSource({ dir: out }).obtain(never);
  t.equal(credentials.identity.uri, orders.uri);
  t.equal(statSync(join(out, 'key.pem')).mode & 0o777, 0o600);
  const td = temporaryFolder(t);
  await run('issue', '--dir', td, ...account, '--out', td, '--trust-domain', 'td1');
  t.equal((await fileSource({ dir: td }).obtain(never)).identity.trustDomain, 'td1');
});

t.test('a folder that is not there is a slip, and none is made', async (t) => {
  const dir = join(temporaryFolder(t), 'typo');
  t.match(await run('token', '--dir', dir, ...account), {
    status: 2,
    out: '',
    err: /typo is not there: --dir/,
  });
  t.notOk(existsSync(dir));
});

t.test('bad usage and bad input exit with 2 and one clear line', async (t) => {
  const dir = temporaryFolder(t);
  await run('issue', '--dir', dir, ...account, '--out', dir);
  const rows: readonly (readonly [RegExp, readonly string[]])[] = [
    [/--dir/, ['serve']],
    [/HOST:PORT/, ['serve', '--dir', dir, '--listen', '15012']],
    [/HOST:PORT/, ['serve', '--dir', dir, '--listen', '127.0.0.1:99999']],
    [/at least 1s/, ['serve', '--dir', dir, '--ttl', '5']],
    [/at least 1s/, ['serve', '--dir', dir, '--ttl', '500ms']],
    [/lower-case/, ['serve', '--dir', dir, '--trust-domain', 'Upper/Case']],
    [
      /root of trust domain cluster.local, not of td1/,
      ['serve', '--dir', dir, '--listen', '127.0.0.1:0', '--trust-domain', 'td1'],
    ],
    [
      /ENOTDIR|not a directory/,
      ['serve', '--dir', join(dir, 'root-cert.pem', 'x'), '--listen', '127.0.0.1:0'],
    ],
    [/--service-account/, ['token', '--dir', dir, '--namespace', 'shop']],
    [/no service account/, ['token', '--dir', dir, '--namespace', 'Shop', '--service-account', 'orders']],
    [/--renew needs --out/, ['token', '--dir', dir, ...account, '--renew']],
    [/--out/, ['issue', '--dir', dir, ...account]],
    [
      /no service account/,
      ['issue', '--dir', dir, '--namespace', 'a/b', '--service-account', 'c', '--out', dir],
    ],
    [
      /no service account/,
      ['issue', '--dir', dir, '--namespace', 'Shop', '--service-account', 'a_b', '--out', dir],
    ],
    [/EEXIST.*root-cert\.pem/, ['issue', '--dir', dir, ...account, '--out', join(dir, 'root-cert.pem')]],
  ];
  const answers = await Promise.all(rows.map(([, args]) => run(...args)));
  for (const [i, [words, args]] of rows.entries()) {
    t.match(answers[i], { status: 2, out: '', err: words }, args.join(' '));
    t.equal(answers[i]?.err.trim().split('\n').length, 1, 'one line');
  }
  const issued = readFileSync(join(dir, 'issued.jsonl'), 'utf8').trim().split('\n');
  t.equal(issued.length, 1, 'nothing is handed out to nowhere');
});
