/** Whoever leaves, at whatever moment and in whatever way: the other end is told, a cut message never looks whole, and nothing is left. */
import { createServer, type Socket } from 'node:net';
import t from 'tap';
import { httpProvider } from '../providers/check-server.ts';
import { listen, tcpApp } from './harness/apps.ts';
import { call, open, type Peer } from './harness/clients.ts';
import { startPair } from './harness/pair.ts';
import { freePorts } from './harness/ports.ts';
import { procOf } from './harness/proc.ts';
import { rawApp, type Script } from './harness/raw-app.ts';
import { service } from './harness/resources.ts';
import { HOST, policy } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

type How = 'fin' | 'rst';
const HOWS = ['fin', 'rst'] as const;

const scripts = new Map<string, Script>();
let atAccept: Script | null = null;
const http = await rawApp(t, scripts, () => {
  const script = atAccept;
  atAccept = null;
  return script;
});
const connections: Socket[] = [];
const tcp = await tcpApp(t, (socket) => connections.push(socket));
const doorkeeper = await httpProvider(t);
/** Takes connections and never says a word: a TLS handshake with it goes on until somebody gives up. */
const silent = await listen(
  t,
  createServer((socket) => {
    socket.on('error', () => {});
    socket.resume();
  }),
);
const [toSilent = 0] = await freePorts(1);

const HTTP = { name: 'http', protocol: 'HTTP' };
const resources = `apiVersion: install.istio.io/v1alpha1
kind: MeshConfig
extensionProviders:
- name: doorkeeper
  envoyExtAuthzHttp: {service: doorkeeper.shop.svc.cluster.local, port: 80, timeout: 60s}
---
${service('doorkeeper', [{ number: 80, ...HTTP }], `[{address: 127.0.0.1, ports: {http: ${doorkeeper.port}}}]`)}---
${service('silent', [{ number: toSilent, ...HTTP }], `[{address: 127.0.0.1, serviceAccount: silent, ports: {http: ${silent.port}}}]`)}---
${policy('ask', '[{to: [{operation: {paths: ["/judged*"]}}]}]', 'CUSTOM\n  provider: {name: doorkeeper}')}`;

const { ports, web, orders } = await startPair(
  t,
  { http: http.port, tcp: tcp.port },
  {
    resources,
    egress: [{ port: toSilent, host: 'silent.shop.svc.cluster.local' }],
    flags: ['--access-log', 'stderr', '--pool-idle-timeout', '500ms', '--connect-timeout', '2s'],
  },
);
const sidecars = [web, orders];
const before = sidecars.map(({ process }) => procOf(process.pid)?.fds() ?? 0);

const LENGTH = 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n';
const CHUNKED = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';
const CLOSE = 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n';
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

interface AppRow {
  readonly title: string;
  readonly when?: Script['when'];
  readonly says: string;
  readonly hows?: readonly How[];
  /** What the client gets: no answer of the app's, or one that breaks off. */
  readonly client: 'error' | 'cut';
  readonly method?: string;
  readonly body?: Buffer;
}

const appRows: readonly AppRow[] = [
  { title: 'as soon as it is connected', when: 'accept', says: '', client: 'error' },
  { title: 'when it has the head', says: '', client: 'error' },
  {
    title: 'when it has the head of a POST',
    says: '',
    client: 'error',
    method: 'POST',
    body: Buffer.from('ab'),
  },
  {
    title: 'in the middle of an upload',
    when: { mark: 'xxxxx' },
    says: '',
    client: 'error',
    method: 'POST',
    body: Buffer.alloc(20_000_000, 'x'),
  },
  { title: 'in the status line', says: 'HTTP/1.1 20', client: 'error' },
  { title: 'in the head', says: 'HTTP/1.1 200 OK\r\nContent-Le', client: 'error' },
  { title: 'after 103', says: 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n', client: 'error' },
  { title: 'after the head', says: LENGTH, client: 'cut' },
  { title: 'in a body with a length', says: `${LENGTH}half`, client: 'cut' },
  { title: 'after the head, chunks announced', says: CHUNKED, client: 'cut' },
  { title: 'in a chunk line', says: `${CHUNKED}4\r\nhalf\r\n1`, client: 'cut' },
  { title: 'in a chunk', says: `${CHUNKED}a\r\nhalf`, client: 'cut' },
  { title: 'between two chunks', says: `${CHUNKED}4\r\nhalf\r\n`, client: 'cut' },
  { title: 'behind the last chunk, before its end', says: `${CHUNKED}4\r\nhalf\r\n0\r\n`, client: 'cut' },
  { title: 'in the trailers', says: `${CHUNKED}4\r\nhalf\r\n0\r\nX-Sum: 1\r\n`, client: 'cut' },
  // RFC 9112 §8: only an abort tells such a body from a whole one.
  { title: 'in a body that ends with the connection', says: `${CLOSE}half`, hows: ['rst'], client: 'cut' },
];

t.test('the app leaves', async (t) => {
  for (const [i, row] of appRows.entries()) {
    for (const how of row.hows ?? HOWS) {
      const path = `/app/${i}/${how}`;
      const script: Script = { when: row.when ?? 'head', says: row.says, leaves: how };
      const marks = sidecars.map((sidecar) => sidecar.mark);
      if (script.when === 'accept') {
        // A connection of the pool is no new one.
        await until('the pool to be empty', () => http.sockets.size === 0);
        atAccept = script;
      } else scripts.set(path, script);
      const got = await outcome(path, row);
      const title = `${row.title}, ${how}`;
      t.equal(got, row.client === 'error' ? 503 : 'cut', title);
      const line = await orders.accessed({ path }, marks[1]);
      // A reset that soon may be taken for a connection that never was.
      const flags = script.when === 'accept' ? /^U[CF]$/ : /^UC$/;
      t.match(line.response_flags, flags, `${title}: the flag beside the app`);
      if (row.client === 'cut') {
        const line = await web.accessed({ path }, marks[0]);
        t.equal(line.response_flags, 'UC', `${title}: the flag beside the client`);
      }
    }
  }
});

/** The status of a whole answer; `cut` where none came or it broke off. */
async function outcome(path: string, { method = 'GET', body }: AppRow): Promise<number | 'cut'> {
  try {
    return (await call(ports.http, path, { method, ...(body === undefined ? {} : { body }) })).status;
  } catch (error) {
    if ((error as Error).message.startsWith('waited')) throw error;
    return 'cut';
  }
}

t.test('the app leaves after its answer: the next request is none the wiser', async (t) => {
  for (const how of HOWS) {
    for (const method of ['GET', 'POST']) {
      const path = `/last/${how}/${method}`;
      scripts.set(path, { when: 'head', says: OK, leaves: how });
      const peer = await open(t, ports.http);
      for (const next of [path, `${path}/next`]) {
        const from = peer.text.length;
        peer.write(`${method} ${next} HTTP/1.1\r\nHost: ${HOST}\r\nContent-Length: 0\r\n\r\n`);
        const all = await peer.until('an answer', (text) => /\r\n\r\nok$/.test(text.slice(from)));
        t.match(all.slice(from), /^HTTP\/1\.1 200 /, `${method}, ${how}`);
        const visit = await http.visit(path);
        await until('the app to be gone', () => visit.socket.destroyed);
      }
    }
  }
});

interface ClientRow {
  readonly title: string;
  readonly says: string;
  readonly hows?: readonly How[];
  /** What the app does meanwhile; absent: waits for ever. */
  readonly app?: Omit<Script, 'leaves'>;
  /** What the client has to have got before it leaves. */
  readonly after?: string;
  /** What becomes of the request at the app. */
  readonly seen: 'never' | 'cut' | 'left';
  readonly flag?: string;
}

const head = (path: string, more = '', method = 'POST'): string =>
  `${method} ${path} HTTP/1.1\r\nHost: ${HOST}\r\n${more}\r\n`;
const upload = (body: string): string => head('PATH', 'Transfer-Encoding: chunked\r\n') + body;
const GET = head('PATH', '', 'GET');

const clientRows: readonly ClientRow[] = [
  { title: 'without a word', says: '', seen: 'never' },
  { title: 'in the request line', says: 'GET PATH HT', seen: 'never' },
  { title: 'in the head', says: 'GET PATH HTTP/1.1\r\nHost: a\r\n', seen: 'never' },
  { title: 'before the body', says: head('PATH', 'Content-Length: 10\r\n'), seen: 'cut', flag: 'DC' },
  { title: 'in the body', says: `${head('PATH', 'Content-Length: 10\r\n')}half`, seen: 'cut', flag: 'DC' },
  {
    title: 'while it waits for 100',
    says: head('PATH', 'Content-Length: 10\r\nExpect: 100-continue\r\n'),
    seen: 'cut',
    flag: 'DC',
  },
  { title: 'in a chunk line', says: upload('4\r\nhalf\r\n1'), seen: 'cut', flag: 'DC' },
  { title: 'in a chunk', says: upload('a\r\nhalf'), seen: 'cut', flag: 'DC' },
  { title: 'between two chunks', says: upload('4\r\nhalf\r\n'), seen: 'cut', flag: 'DC' },
  { title: 'behind the last chunk', says: upload('4\r\nhalf\r\n0\r\n'), seen: 'cut', flag: 'DC' },
  { title: 'in the trailers', says: upload('4\r\nhalf\r\n0\r\nX-Sum: 1\r\n'), seen: 'cut', flag: 'DC' },
  {
    title: 'while the authorizer is asked',
    says: head('/judgedPATH', '', 'GET'),
    seen: 'never',
    flag: 'DC',
    hows: ['rst'],
  },
  // A FIN alone may be a half-close: it counts as gone when nothing of an answer comes for a while.
  { title: 'waiting for the answer', says: GET, seen: 'left', flag: 'DC' },
  {
    title: "in the answer's body",
    says: GET,
    hows: ['rst'],
    app: { when: 'head', says: `${LENGTH}half` },
    after: 'half',
    seen: 'left',
    flag: 'DC',
  },
  {
    title: "between the answer's chunks",
    says: GET,
    hows: ['rst'],
    app: { when: 'head', says: `${CHUNKED}4\r\nhalf\r\n` },
    after: 'half',
    seen: 'left',
    flag: 'DC',
  },
  {
    title: 'in an answer that ends with the connection',
    says: GET,
    hows: ['rst'],
    app: { when: 'head', says: `${CLOSE}half` },
    after: 'half',
    seen: 'left',
    flag: 'DC',
  },
  {
    title: 'after an early answer, in the body',
    says: `${head('PATH', 'Content-Length: 10\r\n')}half`,
    app: { when: 'head', says: LENGTH },
    after: 'Content-Length: 10',
    seen: 'cut',
    flag: 'DC',
  },
];

t.test('the client leaves', async (t) => {
  doorkeeper.answer = () => null;
  for (const [i, row] of clientRows.entries()) {
    for (const how of row.hows ?? HOWS) {
      const path = `/client/${i}/${how}`;
      const title = `${row.title}, ${how}`;
      const marks = sidecars.map((sidecar) => sidecar.mark);
      scripts.set(path, row.app ?? { when: { mark: 'never' } });
      const asked = doorkeeper.seen.length;
      const peer = await open(t, ports.http);
      if (row.says !== '') peer.write(row.says.replace('PATH', path));
      if (row.seen !== 'never') await http.visit(path);
      if (row.says.includes('/judged')) await until('the check', () => doorkeeper.seen.length > asked);
      if (row.after !== undefined) await peer.until('the answer', (text) => text.includes(row.after ?? ''));
      leave(peer, how);
      if (row.seen === 'never') {
        await quiet();
        t.ok(http.unseen(path), `${title}: the app never hears of it`);
      } else {
        const visit = await http.visit(path);
        await until(`${title}: the end at the app`, () => visit.over);
        t.not(visit.over, 'end', `${title}: the app sees an abort`);
        if (row.seen === 'cut') t.notOk(isWhole(visit.text), `${title}: what it got does not look whole`);
      }
      if (row.flag === undefined) continue;
      for (const [k, sidecar] of sidecars.entries()) {
        const line = await sidecar.accessed({ path: new RegExp(`${path}$`) }, marks[k]);
        t.equal(line.response_flags, row.flag, `${title}: the flag of ${k === 0 ? 'web' : 'orders'}`);
      }
    }
  }
});

function leave(peer: Peer, how: How): void {
  if (how === 'fin') peer.end();
  else peer.abort();
}

/** All that was opened has been closed again. */
async function quiet(): Promise<void> {
  for (const sidecar of sidecars) await sidecar.metricIs('oarlock_connections_open', {}, 0);
}

/** True where a request has all of its body. */
function isWhole(text: string): boolean {
  const end = text.indexOf('\r\n\r\n') + 4;
  return /transfer-encoding: chunked/i.test(text)
    ? /(^|\r\n)0\r\n(.*\r\n)*\r\n$/.test(text.slice(end))
    : text.length - end === 10;
}

t.test('a client that has said all it will say still gets its answer', async (t) => {
  scripts.set('/half-closed', { when: { mark: 'the end' } });
  const peer = await open(t, ports.http);
  peer.write(head('/half-closed', 'Content-Length: 3\r\n'));
  peer.socket.end('end');
  const visit = await http.visit('/half-closed');
  await until('the body', () => visit.text.endsWith('end'));
  visit.socket.end(OK.replace('\r\n', '\r\nConnection: close\r\n'));
  await peer.until('the answer', (text) => text.endsWith('ok'));
  t.equal(await peer.ended(), 'end');
});

t.test("the client leaves after its answer: the app's connection serves the next", async (t) => {
  for (const how of HOWS) {
    const path = `/kept/${how}`;
    const peer = await open(t, ports.http);
    peer.write(head(path, '', 'GET'));
    await peer.until('the answer', (text) => text.endsWith('ok'));
    leave(peer, how);
    t.equal((await call(ports.http, `${path}/next`)).status, 200);
    t.equal(await http.visit(path), await http.visit(`${path}/next`), how);
  }
});

t.test('the client leaves while its upstream is dialled', async (t) => {
  for (const how of HOWS) {
    const { mark } = web;
    const path = `/silent/${how}`;
    const peer = await open(t, toSilent);
    const seen = silent.sockets.size;
    // Half of the body is still to come: so a FIN, too, cuts the request.
    peer.write(`${head(path, 'Content-Length: 10\r\n')}half`);
    await until('the dial', () => silent.sockets.size > seen);
    leave(peer, how);
    const line = await web.accessed({ path }, mark);
    // Behind bytes that nobody can take yet a FIN waits unread, until the dial has failed.
    t.match(line.response_flags, how === 'fin' ? /^(DC|UF)$/ : /^DC$/, how);
    await web.metricIs('oarlock_connections_open', {}, 0);
  }
});

t.test('TCP', async (t) => {
  for (const from of ['client', 'app'] as const) {
    for (const how of HOWS) {
      const index = connections.length;
      const peer = await open(t, ports.tcp);
      peer.write('hello');
      const socket = await until('the app', () => connections[index]);
      let over = '';
      socket.on('end', () => {
        over ||= 'end';
      });
      socket.on('error', (error: NodeJS.ErrnoException) => {
        over ||= error.code ?? error.message;
      });
      socket.on('data', () => {});
      if (from === 'client') {
        leave(peer, how);
        t.equal(
          await until('the end', () => over || null),
          how === 'fin' ? 'end' : 'ECONNRESET',
          `the client, ${how}`,
        );
        // The other half of a connection that was only half closed.
        if (how === 'fin') socket.end('last words');
        if (how === 'fin') await peer.until('last words', (text) => text === 'last words');
      } else {
        socket.write('last words');
        await peer.until('them', (text) => text === 'last words');
        if (how === 'fin') socket.end();
        else socket.resetAndDestroy();
        t.equal(await peer.ended(), how === 'fin' ? 'end' : 'ECONNRESET', `the app, ${how}`);
        peer.end();
      }
    }
  }
});

t.test('nothing is left', async (t) => {
  await quiet();
  await until('the pools to be empty', () => http.sockets.size === 0);
  await until('the dials to be given up', () => silent.sockets.size === 0);
  doorkeeper.stop();
  for (const [i, { process }] of sidecars.entries()) {
    const proc = procOf(process.pid);
    if (proc !== null)
      await until('the descriptors to be as before', () => proc.fds() <= (before[i] ?? 0) + 1);
    t.same(process.stderr.matching({ level: 'error' }), []);
  }
  t.equal((await call(ports.http, '/still-here')).status, 200);
});
