/** `oarlock ca rotate-root` while `ca serve` runs: by processes, with certificates that live for seconds. */
import { type ChildProcess, spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { CaAccess } from '../../ca-client/ca-access.ts';
import { rotationStatus } from '../../ca-client/ca-rotation.ts';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { openssl, orders, temporaryFolder } from './helper.ts';

const main = join(import.meta.dirname, '../../cli/main.ts');
const never = new AbortController().signal;
const account = ['--namespace', 'shop', '--service-account', 'orders'];

interface Answer {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

function spawned(args: readonly string[]): {
  child: ChildProcess;
  answer: Promise<Answer>;
  firstLine: Promise<string>;
} {
  const child = spawn(process.execPath, [main, 'ca', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, err] = ['', ''];
  const firstLine = new Promise<string>((resolve) => {
    child.stdout.on('data', (chunk) => {
      out += chunk;
      if (out.includes('\n')) resolve(out);
    });
  });
  child.stderr.on('data', (chunk) => {
    err += chunk;
  });
  const answer = new Promise<Answer>((resolve) =>
    child.on('close', (status) => resolve({ status, out, err })),
  );
  return { child, answer, firstLine };
}

const run = (...args: readonly string[]) => spawned(args).answer;

/** A workload: it takes certificates all the time, and each must suit every other that is still valid. */
class Workload {
  readonly taken: Credentials[] = [];
  readonly faults: string[] = [];
  readonly #source;
  #stopped = false;
  readonly #running: Promise<void>;

  constructor(address: string, caRootFile: string, tokenFile: string) {
    this.#source = istioCaSource({ address, caRootFile, tokenFile, identity: orders });
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      try {
        const fresh = await this.#source.obtain(never);
        for (const other of this.taken.filter(({ notAfter }) => notAfter > Date.now())) {
          if (!trusts(other, fresh)) this.faults.push(`${other.serial} does not trust ${fresh.serial}`);
          if (!trusts(fresh, other)) this.faults.push(`${fresh.serial} does not trust ${other.serial}`);
        }
        this.taken.push(fresh);
      } catch (error) {
        this.faults.push((error as Error).message);
      }
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }
}

function trusts({ rootsPem }: Credentials, { chainPem }: Credentials): boolean {
  const last = chainPem.slice(chainPem.lastIndexOf('-----BEGIN'));
  const certificate = new X509Certificate(last);
  return rootsPem.some((pem) => {
    const root = new X509Certificate(pem);
    return certificate.checkIssued(root) && certificate.verify(root.publicKey);
  });
}

for (const kind of ['its own root', 'an intermediate'] as const) {
  t.test(`${kind}: three steps under a workload, none of which it notices`, async (t) => {
    const dir = temporaryFolder(t);
    const at = kind === 'its own root' ? [] : ['--root-dir', join(temporaryFolder(t), 'root')];
    const tokenFile = join(dir, 'token');
    await run('token', '--dir', dir, ...account, '--out', tokenFile);
    const serve = spawned(['serve', '--dir', dir, ...at, '--listen', '127.0.0.1:0', '--ttl', '3s']);
    t.teardown(() => serve.child.kill('SIGKILL'));
    const { address, root } = JSON.parse(await serve.firstLine);
    const workload = new Workload(address, root, tokenFile);
    const access = new CaAccess({ dir });

    for (const [step, phase] of [
      ['add', 'added'],
      ['issue', 'issuing'],
      ['retire', 'settled'],
    ] as const) {
      const args = ['rotate-root', '--dir', dir, ...at, '--step', step, '-o', 'json'];
      const waiting = () => access.locked(async (view) => rotationStatus(view).waiting);
      while ((await waiting()) !== null) await new Promise((resolve) => setTimeout(resolve, 50));
      const both = await Promise.all([run(...args), run(...args)]);
      const values = both.map(({ out }) => JSON.parse(out));
      t.same(values.map(({ taken }) => taken).sort(), [false, true], `${step}: of two at once one takes it`);
      t.ok(both.every(({ status }, i) => status === (values[i].refused === null ? 0 : 1)));
      t.match(values, [{ phase }, { phase }]);
      const had = workload.taken.length;
      while (workload.taken.length < had + 3) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await workload.stop();
    t.same(workload.faults, []);
    const [first, last] = [workload.taken[0], workload.taken.at(-1)];
    t.equal(first?.rootsPem.length, 1);
    t.equal(last?.rootsPem.length, 1);
    t.not(first?.rootsPem[0], last?.rootsPem[0], 'another root');
    t.equal(readFileSync(root, 'utf8').trim(), last?.rootsPem[0]?.trim());
    serve.child.kill('SIGTERM');
    t.equal((await serve.answer).status, 0);
  });
}

t.test('a running CA renews its intermediate, and no workload notices', async (t) => {
  const dir = temporaryFolder(t);
  const at = ['--root-dir', join(temporaryFolder(t), 'root')];
  const tokenFile = join(dir, 'token');
  await run('token', '--dir', dir, ...account, '--out', tokenFile);
  await run('intermediate', '--dir', dir, ...at, '--ttl', '9s');
  const serve = spawned(['serve', '--dir', dir, ...at, '--listen', '127.0.0.1:0', '--ttl', '2s']);
  t.teardown(() => serve.child.kill('SIGKILL'));
  const { address, root } = JSON.parse(await serve.firstLine);
  const workload = new Workload(address, root, tokenFile);
  const intermediates = () =>
    new Set(workload.taken.map(({ chainPem }) => chainPem.slice(chainPem.lastIndexOf('-----BEGIN'))));
  while (intermediates().size < 3 && workload.faults.length === 0) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await workload.stop();
  t.same(workload.faults, []);
  serve.child.kill('SIGTERM');
  const { status, err } = await serve.answer;
  t.equal(status, 0);
  t.ok((err.match(/"event":"intermediate"/g)?.length ?? 0) >= 2, 'the log tells');
});

t.test('a step that comes too early exits with 1 and says until when', async (t) => {
  const dir = temporaryFolder(t);
  await run('issue', '--dir', dir, ...account, '--out', join(dir, 'orders'), '--ttl', '1h');
  const step = (name: string, ...more: readonly string[]) =>
    run('rotate-root', '--dir', dir, '--step', name, ...more);
  t.match(await step('add'), { status: 0, out: /^step add is taken\nphase {4}added/ });
  const words =
    /step issue is refused: 1 valid certificate handed out without the new root .*; the last expires at .*; --force takes it/;
  t.match(await step('issue'), {
    status: 1,
    err: words,
    out: /^phase {4}added: .*\nnext {5}issue, not before 2/s,
  });
  const early = await step('issue', '-o', 'json');
  t.match(JSON.parse(early.out), {
    taken: false,
    refused: words,
    phase: 'added',
    next: 'issue',
    roots: [{ signs: true }, { signs: false }],
    waiting: { certificates: 1, identities: [orders.uri], until: /Z$/ },
  });
  t.match(await step('issue', '--force'), { status: 0, out: /^step issue is taken\nphase {4}issuing/ });
  t.match(await step('issue'), { status: 0, out: /^step issue had been taken before\n/ });
});

t.test('intermediate, revoke and crl, as people and as machines read them', async (t) => {
  const dir = join(temporaryFolder(t), 'ca');
  const rootDir = join(temporaryFolder(t), 'root');
  const out = join(temporaryFolder(t), 'orders');
  t.match(
    await run('intermediate', '--dir', dir, '--root-dir', rootDir, '--ttl', '48h', '--trust-domain', 'td1'),
    {
      status: 0,
      out: /^intermediate {2}[0-9a-f]{64} {2}valid until \d{4}-.*Z\nroot {10}[0-9a-f]{64}\n$/,
      err: '',
    },
  );
  const issued = JSON.parse((await run('issue', '--dir', dir, ...account, '--out', out, '-o', 'json')).out);
  t.match(issued, { identity: 'spiffe://td1/ns/shop/sa/orders', serial: /^[0-9a-f]{32}$/, dir: out });
  const chain = join(out, 'cert-chain.pem');
  t.equal(readFileSync(chain, 'utf8').match(/BEGIN CERTIFICATE/g)?.length, 2, 'leaf and intermediate');
  const verify = ['verify', '-x509_strict', '-CAfile', join(out, 'root-cert.pem'), '-untrusted', chain];
  t.match(await openssl(...verify, chain), /: OK/);
  const status = await run('rotate-root', '--dir', dir);
  t.match(status, {
    status: 0,
    out: /^phase {4}settled: one root\nroot {5}[0-9a-f]{64} {2}valid until .* {2}signs\nnext {5}add\n$/,
  });
  const revoked = await run('revoke', '--dir', dir, '--cert', chain, '--reason', 'superseded', '-o', 'json');
  t.match(JSON.parse(revoked.out), {
    revoked: [{ serial: issued.serial, reason: 'superseded' }],
    crl: { entries: 1 },
  });
  t.match(await run('revoke', '--dir', dir, '--identity', issued.identity), {
    status: 0,
    out: /^revoked before {2}[0-9a-f]{32} .*\ncrl.pem: 1 entry, good until /,
  });
  t.match(await run('revoke', '--dir', dir, '--serial', '12'), {
    status: 1,
    err: /knows no such valid certificate/,
  });
  const copy = join(out, 'crl.pem');
  t.match(await run('crl', '--dir', dir, '--out', copy, '--ttl', '2h'), {
    status: 0,
    out: /^crl.pem: 1 entry/,
  });
  t.match(await openssl(...verify, '-crl_check', '-CRLfile', copy, chain), /certificate revoked/);
  t.equal(readFileSync(copy, 'utf8'), readFileSync(join(dir, 'crl.pem'), 'utf8'));
  await run('intermediate', '--dir', dir, '--root-dir', rootDir);
  const lists = readFileSync(join(dir, 'crl.pem'), 'utf8').match(/BEGIN X509 CRL/g);
  t.equal(lists?.length, 2, 'a new intermediate has its list before it has issued anything');
});

t.test('bad usage exits with 2 and one clear line', async (t) => {
  const dir = temporaryFolder(t);
  await run('issue', '--dir', dir, ...account, '--out', dir);
  const nowhere = join(dir, 'nowhere');
  const rows: readonly (readonly [RegExp, readonly string[]])[] = [
    [/--root-dir/, ['intermediate', '--dir', dir]],
    [/has a root of its own/, ['intermediate', '--dir', dir, '--root-dir', join(dir, 'root')]],
    [/Allowed choices are add, issue, retire/, ['rotate-root', '--dir', dir, '--step', 'back']],
    [/--status takes no step/, ['rotate-root', '--dir', dir, '--step', 'add', '--status']],
    [/nowhere/, ['rotate-root', '--dir', nowhere]],
    [/nowhere/, ['crl', '--dir', nowhere]],
    [/one of --serial, --identity and --cert/, ['revoke', '--dir', dir]],
    [/one of --serial/, ['revoke', '--dir', dir, '--serial', '1', '--identity', 'spiffe://a/b']],
    [/hexadecimal/, ['revoke', '--dir', dir, '--serial', 'xyz']],
    [/SPIFFE URI/, ['revoke', '--dir', dir, '--identity', 'orders']],
    [/ENOENT/, ['revoke', '--dir', dir, '--cert', nowhere]],
    [/Allowed choices/, ['revoke', '--dir', dir, '--serial', '1', '--reason', 'because']],
    [/count and a duration/, ['serve', '--dir', dir, '--max-rate', '10']],
    [/count and a duration/, ['serve', '--dir', dir, '--max-total-rate', '0/1s']],
    [/at least 1s/, ['crl', '--dir', dir, '--ttl', '1']],
  ];
  const answers = await Promise.all(rows.map(([, args]) => run(...args)));
  for (const [i, [words, args]] of rows.entries()) {
    t.match(answers[i], { status: 2, out: '', err: words }, args.join(' '));
    t.equal(answers[i]?.err.trim().split('\n').length, 1, 'one line');
  }
});
