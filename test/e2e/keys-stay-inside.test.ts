/** A private key or a token is in nothing a sidecar says: no log, page, metric, report or core dump. */
import { spawn } from 'node:child_process';
import { createPrivateKey } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { CaProcess } from './harness/ca-process.ts';
import { call } from './harness/clients.ts';
import { Mesh, ready, type Sidecar, tempDir } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { replace, TestCa } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

const ROOT = join(import.meta.dirname, '../..');
const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));

/** Every form in which a P-256 key may lie about: its PEM, its DER, its number, and OpenSSL's words of it. */
function formsOf(pem: string): readonly Buffer[] {
  const key = createPrivateKey(pem);
  const number = Buffer.from(key.export({ format: 'jwk' }).d ?? '', 'base64url');
  // RFC 5915 and 5958: 36 bytes that all P-256 keys have, then the number.
  const inPem = key.export({ format: 'der', type: 'pkcs8' }).toString('base64').slice(48, 88);
  return [
    Buffer.from(inPem),
    number,
    Buffer.from(number).reverse(),
    Buffer.from(number.toString('hex')),
    Buffer.from(number.toString('base64url')),
  ];
}

/** All that a running sidecar tells, asked for in every way there is. */
async function everythingOf(sidecar: Sidecar, reports: string): Promise<string> {
  const pages = ['/', '/certs', '/handshakes', '/snapshot', '/healthz/ready', '/certs?key=1', '/key'];
  const told = await Promise.all(pages.map((path) => text(sidecar.ports.admin ?? 0, path)));
  told.push(
    await text(sidecar.ports.metrics ?? 0, '/metrics'),
    await text(sidecar.ports.health ?? 0, '/healthz/ready'),
  );
  sidecar.process.signal('SIGUSR2');
  await until('a report', () => readdirSync(reports).length > 0 && whole(reports));
  for (const name of readdirSync(reports)) told.push(readFileSync(join(reports, name), 'utf8'));
  return [sidecar.process.stdout.text, sidecar.process.stderr.text, ...told].join('\n');
}

function whole(reports: string): boolean {
  try {
    for (const name of readdirSync(reports)) JSON.parse(readFileSync(join(reports, name), 'utf8'));
    return true;
  } catch {
    return false;
  }
}

async function text(port: number, path: string): Promise<string> {
  return (await call(port, path, { headers: { host: 'localhost' } })).body.toString();
}

function reporting(dir: string): Record<string, string> {
  return { NODE_OPTIONS: `--report-on-signal --report-directory=${dir}`, MY_SECRET: 'env-s3cret' };
}

t.test('credentials from files', async (t) => {
  const { dir, leaf } = await mesh.certDir('orders');
  const reports = tempDir(t);
  const flags = mesh.flags('shop/orders', '--cert-dir', dir, '--log-level', 'trace');
  const orders = await ready(start(t, flags, reporting(reports)), dir);
  if (process.platform === 'linux') {
    // What the kernel goes by, also where it hands its cores to a program and the test below cannot be made.
    const filter = readFileSync(`/proc/${orders.process.pid}/coredump_filter`, 'utf8').trim();
    t.equal(Number.parseInt(filter, 16), 0, 'no mapping goes into a core');
  }
  const { dir: webDir } = await mesh.certDir('web');
  const web = await ready(start(t, mesh.flags('shop/web', '--cert-dir', webDir)), webDir);
  t.equal((await call(ports.http, '/')).status, 200);
  t.match(await web.admin('/certs'), { state: 'valid' });
  const { mark: unknown } = orders;
  const other = await (await TestCa.create('O=other')).leaf('spiffe://cluster.local/ns/shop/sa/web');
  await openTls(t, ports.ordersHttp, { leaf: other }).catch(() => null);
  await orders.logged({ reason: 'untrusted_issuer' }, unknown);

  // Keys that do not fit, that are broken, and that lie where a certificate should: all are complained of.
  const stranger = await mesh.ca.leaf('spiffe://cluster.local/ns/shop/sa/web');
  const { mark } = orders;
  replace(join(dir, 'key.pem'), stranger.key);
  await orders.logged({ msg: /^no new credentials/ }, mark);
  for (const [name, content] of [
    ['key.pem', stranger.key.replace('-----END', '!!!\n-----END')],
    ['cert-chain.pem', `${leaf.cert}${stranger.key}`],
    ['root-cert.pem', stranger.key],
  ] as const) {
    const { mark: before } = orders;
    replace(join(dir, name), content);
    await orders.logged({ msg: /^no new credentials/ }, before);
  }
  const everything = Buffer.from(await everythingOf(orders, reports));
  for (const secret of [...formsOf(leaf.key), ...formsOf(stranger.key), Buffer.from('env-s3cret')]) {
    t.notOk(everything.includes(secret), 'not in anything it says');
  }
  for (const known of ['untrusted_issuer', 'O=other', 'oarlock_refusals_total', 'javascriptHeap', dir]) {
    t.ok(everything.includes(known), `it did say ${known}`);
  }
});

t.test('credentials from a CA', async (t) => {
  const dir = tempDir(t);
  const ca = await CaProcess.start(t, dir, '1h');
  const reports = tempDir(t);
  const flags = mesh.flags('shop/orders', ...(await ca.flags('orders')), '--log-level', 'trace');
  const orders = await ready(start(t, flags, reporting(reports)));
  const token = readFileSync(ca.tokenFile('orders'), 'utf8').trim();
  const everything = await everythingOf(orders, reports);
  for (const part of [token, ...token.split('.')]) {
    t.notOk(everything.includes(part), 'the token is in nothing it says');
    t.notOk(ca.running.stderr.text.includes(part), "nor in the CA's log");
  }
  t.notMatch(everything, /PRIVATE KEY/);
  t.match(everything, /spiffe:\/\/cluster\.local\/ns\/shop\/sa\/orders/);
});

/** The kernel writes cores as files of a relative name, so that a test finds them. */
function writesCores(): boolean {
  try {
    return /^[^|/]+$/.test(readFileSync('/proc/sys/kernel/core_pattern', 'utf8').trim());
  } catch {
    return false;
  }
}

/** The core of a sidecar that died of SIGSEGV. @param filter what to write to its coredump_filter before; null: nothing */
async function coreOf(t: Test, certDir: string, filter: string | null): Promise<string> {
  const dir = tempDir(t);
  const args = mesh.flags('shop/orders', '--cert-dir', certDir);
  const script = 'ulimit -c unlimited && exec "$0" "$@"';
  const child = spawn('sh', ['-c', script, process.execPath, join(ROOT, 'cli/main.ts'), ...args], {
    cwd: dir,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  for await (const line of createInterface({ input: child.stdout })) if (line.includes('"ready":true')) break;
  if (filter !== null) writeFileSync(`/proc/${child.pid}/coredump_filter`, filter);
  child.kill('SIGSEGV');
  await once(child, 'exit');
  const [name] = readdirSync(dir).filter((one) => one.startsWith('core'));
  if (name === undefined) throw new Error('no core was written');
  return join(dir, name);
}

/** Which of the secrets are in a file of any size. */
async function foundIn(file: string, secrets: readonly Buffer[]): Promise<number> {
  const found = new Set<Buffer>();
  const overlap = Math.max(...secrets.map(({ length }) => length));
  let rest = Buffer.alloc(0);
  for await (const piece of createReadStream(file, { highWaterMark: 4 * 1024 * 1024 })) {
    const window = Buffer.concat([rest, piece as Buffer]);
    for (const secret of secrets) if (window.includes(secret)) found.add(secret);
    rest = window.subarray(-overlap);
  }
  return found.size;
}

t.test('a core dump', { skip: writesCores() ? false : 'the kernel writes no core files here' }, async (t) => {
  const { dir, leaf } = await mesh.certDir('orders');
  const secrets = formsOf(leaf.key);
  const core = await coreOf(t, dir, null);
  t.ok(statSync(core).size > 4_096, 'there is one');
  t.equal(await foundIn(core, secrets), 0, 'without the key');
  const whole = await coreOf(t, dir, '0x33');
  t.ok((await foundIn(whole, secrets)) > 0, 'which a core without the filter would have');
});
