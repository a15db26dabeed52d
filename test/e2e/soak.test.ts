/** A thousand connections that do everything at once, some with bad manners: all that should succeed does, and nothing is left of them. */
import { once } from 'node:events';
import { Agent, createServer } from 'node:http';
import { connect, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { WebSocket, WebSocketServer } from 'ws';
import { seededRandom } from '../proxy/client-hello.ts';
import { echo, listen, tcpApp } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { startPair } from './harness/pair.ts';
import { procOf } from './harness/proc.ts';
import { HOST, policy } from './harness/shop.ts';
import { pause, until, within } from './harness/wait.ts';

/** Of each of the two rounds; `OARLOCK_SOAK_SECONDS` asks for more. */
const SECONDS = Number(process.env.OARLOCK_SOAK_SECONDS ?? 8) / 2;
const SEED = Number(process.env.OARLOCK_SOAK_SEED ?? 1);
const CONNECTIONS = 1_000;
/** Between two acts of one connection, at most (ms). */
const REST = 1_500;
/** What the second round may add to a sidecar's resident memory (MB): what the first left is the heap's working size. */
const GROWTH = 60;

t.setTimeout(120_000 + SECONDS * 2_000);

const server = createServer(async (request, response) => {
  try {
    const body = await buffer(request);
    response.end(request.url === '/large' ? Buffer.alloc(200_000, 'l') : body);
  } catch {
    // The client left: as it should.
  }
});
const wss = new WebSocketServer({ server });
wss.on('connection', (ws) => {
  ws.on('error', () => {});
  ws.on('message', (data, binary) => ws.send(data, { binary }));
});
const http = await listen(t, server);
const tcp = await tcpApp(t, echo);
const { mesh, ports, web, orders } = await startPair(
  t,
  { http: http.port, tcp: tcp.port },
  {
    flags: [
      ...['--pool-idle-timeout', '500ms'],
      // A thousand handshakes at once are seconds of work, and more where others work as well.
      ...['--connect-timeout', '60s', '--handshake-timeout', '60s'],
    ],
  },
);
const sidecars = [web, orders];
/** On the HTTP port alone: a DENY rule of HTTP fields denies all of a TCP port. */
const deny = (path: string): string =>
  policy(
    `no${path.replace('/', '-')}`,
    `[{to: [{operation: {ports: ["${ports.ordersHttp}"], paths: ["${path}"]}}]}]`,
    'DENY',
  );
await mesh.change('denied.yaml', deny('/denied'), sidecars);

/** What an actor does with its connection, and how often it was done. */
type Act = (actor: Actor) => Promise<void>;
const done = new Map<string, number>();
const failures: string[] = [];

interface Actor {
  readonly random: (below: number) => number;
  readonly agent: Agent;
}

function check(fine: boolean, what: string): void {
  if (!fine) throw new Error(what);
}

async function get({ agent }: Actor): Promise<void> {
  const { status, body } = await call(ports.http, '/', { agent });
  check(status === 200, `GET: ${status} ${body}`);
}

async function large({ agent }: Actor): Promise<void> {
  const { body } = await call(ports.http, '/large', { agent });
  check(body.length === 200_000, `${body.length} bytes of 200,000`);
}

async function denied({ agent }: Actor): Promise<void> {
  const { status } = await call(ports.http, '/denied', { agent, method: 'POST', body: 'x' });
  check(status === 403, `denied: ${status}`);
}

async function upload({ agent, random }: Actor): Promise<void> {
  const body = Buffer.alloc(random(100_000), random(256));
  const got = await call(ports.http, '/', { agent, method: 'POST', body, chunked: random(2) === 0 });
  check(got.body.equals(body), `an upload came back as ${got.status} with ${got.body.length} bytes`);
}

/** Leaves somewhere in an upload or its answer. */
async function abort({ random }: Actor): Promise<void> {
  const socket = await dialled(ports.http);
  socket.write(
    `POST /large HTTP/1.1\r\nHost: ${HOST}\r\nContent-Length: 1000\r\n\r\n`.slice(0, 1 + random(80)),
  );
  if (random(2) === 0) socket.write(Buffer.alloc(random(1_100)));
  await pause(random(100));
  if (random(2) === 0) socket.resetAndDestroy();
  else socket.destroy();
}

async function webSocket({ random }: Actor): Promise<void> {
  const ws = new WebSocket(`ws://127.0.0.1:${ports.http}/ws`, { headers: { host: HOST } });
  const over = new Promise<void>((resolve) => ws.once('close', () => resolve()));
  await within('a WebSocket', once(ws, 'open'));
  for (let i = random(5); i >= 0; i--) {
    const sent = Buffer.alloc(random(20_000), 'w');
    ws.send(sent);
    const [got] = (await within('its echo', once(ws, 'message'))) as [Buffer];
    check(got.equals(sent), 'another echo');
    await pause(random(100));
  }
  ws.on('error', () => {});
  if (random(2) === 0) ws.close(1000);
  else ws.terminate();
  await within('its end', over);
}

async function raw({ random }: Actor): Promise<void> {
  const socket = await dialled(ports.tcp);
  const sent = Buffer.alloc(1 + random(200_000), random(256));
  if (random(4) === 0) {
    socket.write(sent);
    await pause(random(50));
    socket.resetAndDestroy();
    return;
  }
  socket.end(sent);
  check((await within('the echo', buffer(socket))).equals(sent), 'another echo over TCP');
}

async function dialled(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => {});
  await within('a connection', once(socket, 'connect'));
  return socket;
}

const acts: readonly Act[] = [get, get, get, large, denied, upload, upload, abort, webSocket, raw];

/** One connection's life: HTTP over one that is kept, unless it drops it; the others besides it. */
async function live(actor: Actor, end: number): Promise<void> {
  while (performance.now() < end) {
    const act = acts[actor.random(acts.length)] ?? get;
    try {
      await act(actor);
      done.set(act.name, (done.get(act.name) ?? 0) + 1);
    } catch (error) {
      failures.push(`${act.name}: ${(error as Error).message}`);
    }
    if (actor.random(10) === 0) actor.agent.destroy();
    await pause(actor.random(REST));
  }
  actor.agent.destroy();
}

/** All of them for that time. */
async function round(t: Test, number: number): Promise<void> {
  const actors = Array.from({ length: CONNECTIONS }, (_, i) => ({
    random: seededRandom(SEED + number * CONNECTIONS + i),
    agent: new Agent({ keepAlive: true, maxSockets: 1 }),
  }));
  await Promise.all(actors.map(get));
  t.equal(await web.metric('oarlock_connections_open'), CONNECTIONS, 'all of them are open at once');
  const end = performance.now() + SECONDS * 1_000;
  const lives = actors.map((actor) => live(actor, end));
  for (let change = 0; performance.now() < end; change++) {
    // A reload under load: whoever is open is judged again.
    await mesh.change('more.yaml', deny(`/${number}-${change}`), sidecars);
    await pause(500);
  }
  await Promise.all(lives);
}

async function idle(t: Test): Promise<void> {
  for (const sidecar of sidecars) await sidecar.metricIs('oarlock_connections_open', {}, 0);
  await until('the apps to be left alone', () => http.sockets.size === 0 && tcp.sockets.size === 0);
  t.same(failures, []);
}

const procs = sidecars.map(({ process }) => procOf(process.pid));

t.test(`${CONNECTIONS} connections, seed ${SEED}`, async (t) => {
  // One of each, so that what is opened once is open.
  await get({ random: seededRandom(SEED), agent: new Agent() });
  await idle(t);
  const fds = procs.map((proc) => proc?.fds() ?? 0);
  await round(t, 0);
  await idle(t);
  const rss = procs.map((proc) => proc?.rss() ?? 0);
  await round(t, 1);
  await idle(t);
  t.comment([...done].map(([name, count]) => `${name} ${count}`).join(', '));
  for (const act of acts) t.ok((done.get(act.name) ?? 0) > 0, `${act.name} was done`);
  for (const [i, proc] of procs.entries()) {
    if (proc === null) continue;
    const name = i === 0 ? 'web' : 'orders';
    await until(`${name} to have as few descriptors as before`, () => proc.fds() <= (fds[i] ?? 0) + 2);
    t.ok(
      proc.rss() < (rss[i] ?? 0) + GROWTH,
      `${name}: ${rss[i]} MB after one round, ${proc.rss()} after two`,
    );
  }
  for (const { process } of sidecars) t.same(process.stderr.matching({ level: 'error' }), []);
  t.equal((await call(ports.http, '/after')).status, 200);
});
