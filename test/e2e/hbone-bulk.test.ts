/** Much through one stream of a tunnel: a slow reader holds its sender back, both sidecars stay small, others are served. `OARLOCK_LONG=1` makes it 4 GB. */
import { connect, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { crc32 } from 'node:zlib';
import t, { type Test } from 'tap';

// Before what makes the resources is imported.
process.env.OARLOCK_TEST_OVER = 'hbone';
const { httpApp, tcpApp } = await import('./harness/apps.ts');
const { call } = await import('./harness/clients.ts');
const { startPair } = await import('./harness/pair.ts');
const { procOf, written } = await import('./harness/proc.ts');
const { pause, stalled, until, within } = await import('./harness/wait.ts');

const MB = 1_048_576;
const BLOCK = 65_536;
const LONG = process.env.OARLOCK_LONG === '1';
const TOTAL = (LONG ? 4_096 : 256) * MB;
/** Of each direction, where both are busy. */
const BOTH = (LONG ? 1_024 : 64) * MB;
/** What a sidecar's resident memory may grow by (MB): a small part of what goes through it. */
const GROWTH = 64;
/** For any one step (ms). */
const PATIENT = LONG ? 1_200_000 : 60_000;

t.setTimeout(3 * PATIENT);

const accepted: Socket[] = [];
const http = await httpApp(t);
const tcp = await tcpApp(t, (socket) => void accepted.push(socket));
const { ports, web, orders } = await startPair(t, { http: http.port, tcp: tcp.port });

/** Numbered blocks, and the checksum of what was taken of them. */
class Source {
  sum = 0;
  readonly stream: Readable;

  constructor(total: number) {
    this.stream = Readable.from(this.#blocks(total), { objectMode: false, highWaterMark: BLOCK });
  }

  *#blocks(total: number): Generator<Buffer> {
    for (let sent = 0; sent < total; sent += BLOCK) {
      const block = Buffer.alloc(BLOCK, sent / BLOCK);
      // Every block another: one that is lost or changes places shows.
      block.writeUInt32BE(sent / BLOCK, 0);
      this.sum = crc32(block, this.sum);
      yield block;
    }
  }
}

interface Got {
  readonly sum: number;
  readonly bytes: number;
}

/** Reads all of it. @param restEvery bytes after which it rests; Infinity: never */
async function read(socket: Socket, restEvery: number): Promise<Got> {
  let sum = 0;
  let bytes = 0;
  let rest = restEvery;
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    sum = crc32(chunk as Buffer, sum);
    bytes += (chunk as Buffer).length;
    if (bytes < rest) continue;
    rest += restEvery;
    await pause(5);
  }
  return { sum, bytes };
}

/** A connection through both sidecars: the client's end and the app's. */
async function connection(): Promise<[client: Socket, app: Socket]> {
  const before = accepted.length;
  const client = connect({ port: ports.tcp, host: '127.0.0.1', allowHalfOpen: true });
  client.on('error', () => {});
  return [client, await until('the connection at the app', () => accepted[before])];
}

/** The most that each sidecar's memory is seen to grow by, until it is stopped. */
function watch(): () => number[] {
  const procs = [web, orders].map(({ process: { pid } }) => procOf(pid));
  const before = procs.map((proc) => proc?.rss() ?? 0);
  const most = [0, 0];
  const sample = (): void => {
    for (const [i, proc] of procs.entries())
      most[i] = Math.max(most[i] ?? 0, (proc?.rss() ?? 0) - (before[i] ?? 0));
  };
  const timer = setInterval(sample, 50);
  return () => {
    clearInterval(timer);
    sample();
    return most;
  };
}

function stayedSmall(t: Test, growth: readonly number[]): void {
  for (const [i, name] of ['web', 'orders'].entries())
    t.ok((growth[i] ?? 0) < GROWTH, `${name} grew by ${growth[i]} MB`);
}

t.test('both have been at work', async () => {
  // What a process takes for its first work is not what it keeps of it.
  const [client, app] = await connection();
  const all = read(app, Number.POSITIVE_INFINITY);
  await pipeline(new Source(16 * MB).stream, client);
  await all;
  app.end();
});

for (const direction of ['up', 'down'] as const) {
  t.test(`${TOTAL / MB} MB ${direction}, read slowly`, async (t) => {
    const [client, app] = await connection();
    const [sender, reader] = direction === 'up' ? [client, app] : [app, client];
    const source = new Source(TOTAL);
    const stop = watch();
    const sent = pipeline(source.stream, sender);
    const stoodAt = await stalled('the sender', () => written(sender));
    t.ok(stoodAt < TOTAL, `nobody reads: the sender stands at ${stoodAt} bytes`);
    const got = await within('all of it', read(reader, 4 * MB), PATIENT);
    await sent;
    stayedSmall(t, stop());
    t.same(got, { sum: source.sum, bytes: TOTAL });
    reader.end();
  });
}

t.test(`${BOTH / MB} MB each way at once, and requests beside them on the same tunnel`, async (t) => {
  const [client, app] = await connection();
  const [up, down] = [new Source(BOTH), new Source(BOTH)];
  const stop = watch();
  let busy = true;
  const flows = Promise.all([
    read(app, Number.POSITIVE_INFINITY),
    read(client, Number.POSITIVE_INFINITY),
    pipeline(up.stream, client),
    pipeline(down.stream, app),
  ]).finally(() => {
    busy = false;
  });
  let served = 0;
  let slowest = 0;
  while (busy) {
    const began = performance.now();
    t.equal((await call(ports.http, '/bytes/1000')).body.length, 1_000);
    slowest = Math.max(slowest, performance.now() - began);
    served++;
  }
  const [above, below] = await within('both flows', flows, PATIENT);
  t.same(
    [above, below],
    [up, down].map(({ sum }) => ({ sum, bytes: BOTH })),
  );
  stayedSmall(t, stop());
  t.ok(served >= 5 && slowest < 5_000, `${served} requests were served meanwhile, in ${slowest} ms at most`);
  await web.metricIs('oarlock_tunnels', { direction: 'outbound' }, 1);
});
