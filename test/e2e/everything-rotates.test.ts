/** Leaves, intermediates, roots, revocation lists and modes change every few seconds under load: no request fails. */
import { randomBytes } from 'node:crypto';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { CaProcess } from './harness/ca-process.ts';
import { open } from './harness/clients.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { runToEnd, start } from './harness/processes.ts';
import { HOST, shop, shopPorts } from './harness/shop.ts';
import { Traffic } from './harness/traffic.ts';
import { until } from './harness/wait.ts';

/** With OARLOCK_LONG=1 two minutes, else long enough for a root to come and go. */
const RUN_MS = process.env.OARLOCK_LONG === '1' ? 120_000 : 20_000;
t.setTimeout(RUN_MS + 150_000);

/** A busy machine has five seconds to be late: then our own certificate ends, and `no_credentials` is the reason. */
const TTL_SECONDS = 12;

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const resources = (mode: string): string => shop(ports, { http: app.port, tcp: tcp.port }, mode);
const mesh = await Mesh.create(t, resources('STRICT'));
const rootDir = join(mesh.dir, 'root');
const caDir = join(mesh.dir, 'ca');
const crl = join(caDir, 'crl.pem');

async function caCommand(...args: string[]): Promise<{ ok: boolean; text: string }> {
  const [command = '', ...rest] = args;
  const { code, stdout, stderr } = await runToEnd(t, ['ca', command, '--dir', caDir, ...rest]);
  return { ok: code === 0, text: stdout + stderr };
}

const must = async (...args: string[]): Promise<string> => {
  const { ok, text } = await caCommand(...args);
  if (!ok) throw new Error(`ca ${args.join(' ')}: ${text}`);
  return text;
};

await must('intermediate', '--root-dir', rootDir, '--ttl', '1h');
const ca = await CaProcess.start(t, caDir, `${TTL_SECONDS}s`, { more: ['--root-dir', rootDir] });
await must('crl');
const begin = async (name: string): Promise<Sidecar> => {
  const flags = [...(await ca.flags(name)), '--access-log', 'off', '--crl', crl];
  return ready(start(t, mesh.flags(`shop/${name}`, ...flags)));
};
const [web, orders] = await Promise.all([begin('web'), begin('orders')]);

/** What goes through until it is told to stop; every failure is kept. */
class Load {
  done = 0;
  readonly failures: string[] = [];
  #stopping = false;
  readonly #over: Promise<void>;

  /** @param once told whether it is to come to its end */
  constructor(once: (ending: () => boolean) => Promise<void>) {
    this.#over = this.#loop(once);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#over;
  }

  async #loop(once: (ending: () => boolean) => Promise<void>): Promise<void> {
    while (!this.#stopping) {
      try {
        await once(() => this.#stopping);
        this.done++;
      } catch (error) {
        this.failures.push(`${(error as Error).message} at ${new Date().toISOString()}`);
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 5);
      });
    }
  }
}

/** A TCP connection's life: 32 KiB there and back, byte for byte. */
async function echoed(): Promise<void> {
  const peer = await open(t, ports.tcp);
  const bytes = randomBytes(32_768);
  peer.write(bytes);
  await peer.until('all of it', () => peer.received.length === bytes.length);
  if (!peer.received.equals(bytes)) throw new Error('other bytes came back');
  peer.end();
  await peer.ended();
}

let session: ClientHttp2Session | null = null;

function http2Request(): Promise<void> {
  if (session === null || session.closed || session.destroyed) {
    session = connectHttp2(`http://127.0.0.1:${ports.http}`);
    session.on('error', () => {});
  }
  const stream = session.request({ ':path': '/tell', ':authority': HOST });
  return new Promise((resolve, reject) => {
    let status = 0;
    stream.on('response', (headers) => {
      status = Number(headers[':status']);
    });
    stream.on('error', reject);
    stream.on('close', () => (status === 200 ? resolve() : reject(new Error(`HTTP/2: ${status}`))));
    stream.resume();
    stream.end();
  });
}

/** TCP connections that live as long as they may: what comes back is what was sent, up to the end. */
const lives: number[] = [];
async function liveLong(ending: () => boolean): Promise<void> {
  const from = Date.now();
  const peer = await open(t, ports.tcp);
  let sent = '';
  // Without mTLS, while the mode is DISABLE, nothing ends it.
  while (peer.over === null && !ending()) {
    const mark = `${sent.length} `;
    sent += mark;
    peer.write(mark);
    // It may end at any moment, and then says so.
    await peer.until('the echo', (text) => text.length === sent.length).catch(() => {});
  }
  if (!sent.startsWith(peer.text)) throw new Error(`other bytes came back: ${peer.text.slice(-40)}`);
  lives.push(Date.now() - from);
  peer.abort();
}

interface Certs {
  readonly chain: readonly { readonly serial: string; readonly issuer: string }[];
  readonly roots: readonly { readonly fingerprint256: string }[];
}

async function certsOf(sidecar: Sidecar): Promise<Certs> {
  return (await sidecar.admin('/certs')) as unknown as Certs;
}

t.test('nothing fails while everything rotates', async (t) => {
  const firstRoots = (await certsOf(orders)).roots.map(({ fingerprint256 }) => fingerprint256);
  const requests = [new Traffic(t, ports.http), new Traffic(t, ports.http, { kept: false })];
  const loads = [new Load(echoed), new Load(http2Request), new Load(liveLong)];
  const end = Date.now() + RUN_MS;
  let stop = false;
  const everyFew = async (ms: number, act: () => Promise<unknown>): Promise<number> => {
    let times = 0;
    while (!stop) {
      await act();
      times++;
      for (const next = Date.now() + ms; Date.now() < next && !stop; )
        await new Promise((resolve) => {
          setTimeout(resolve, 100);
        });
    }
    return times;
  };
  const modes = ['PERMISSIVE', 'DISABLE', 'STRICT', 'DISABLE', 'PERMISSIVE', 'STRICT'];
  let flips = 0;
  const flipping = everyFew(5_000, () => {
    const mode = modes[flips++ % modes.length] ?? 'STRICT';
    return mesh.change('mesh.yaml', resources(mode), [web, orders]);
  });
  // A step that is not due yet is refused by the CA: it knows what it issued.
  const steps = ['add', 'issue', 'retire'];
  let stepsTaken = 0;
  const rotating = everyFew(700, async () => {
    const step = steps[stepsTaken % steps.length] ?? '';
    const { ok, text } = await caCommand('rotate-root', '--root-dir', rootDir, '--step', step);
    if (ok) stepsTaken++;
    else if (!/wait|until|valid/i.test(text)) throw new Error(text);
  });
  const renewing = everyFew(3_000, () => must('intermediate', '--root-dir', rootDir, '--ttl', '1h'));
  const revoking = everyFew(2_000, async () => {
    const spare = join(mesh.dir, 'spare');
    await must('issue', '--namespace', 'shop', '--service-account', 'spare', '--out', spare, '--ttl', '1m');
    await must('revoke', '--cert', join(spare, 'cert-chain.pem'));
  });
  const changing = Promise.all([flipping, rotating, renewing, revoking]);
  const over = until('the run to be over', () => Date.now() >= end && stepsTaken >= 3, RUN_MS + 60_000);
  // A change that fails ends it at once.
  await Promise.race([over, changing]).finally(() => {
    stop = true;
  });
  const [, , intermediates, revocations] = await changing;
  for (const one of [...requests, ...loads]) await one.stop();
  session?.close();

  const renewals = await orders.metric('oarlock_credentials_renewals_total', { result: 'success' });
  t.comment(
    `${renewals} leaves, ${intermediates} intermediates, ${stepsTaken} steps of root rotation, ` +
      `${revocations} revocations, ${flips} modes; requests ${requests.map(({ served }) => served)}, ` +
      `TCP ${loads.map(({ done }) => done)}; long lives ${lives} ms`,
  );
  for (const { process } of [web, orders]) {
    const reasons = process.stderr.text.match(/"reason":"[a-z_]+"/g) ?? [];
    // What a failure below is to be explained by.
    t.comment([...new Set(reasons)].join(' '));
  }
  for (const { failures, served } of requests) {
    t.same(failures, [], 'HTTP/1');
    t.ok(served > 100, `${served} requests`);
  }
  for (const [i, { failures, done }] of loads.entries()) {
    t.same(failures, [], ['TCP', 'HTTP/2', 'long TCP connections'][i] ?? '');
    t.ok(done > 0, `${done}`);
  }
  t.ok(renewals >= RUN_MS / 1_000 / TTL_SECONDS, `${renewals} leaves`);
  // It goes with the first renewal after it was retired.
  await until('the first root to be gone', async () =>
    (await certsOf(orders)).roots.every(({ fingerprint256 }) => !firstRoots.includes(fingerprint256)),
  );
  for (const sidecar of [web, orders]) t.same((await sidecar.health()).status, 200);
});
