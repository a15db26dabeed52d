/** Clients that leave before their answers are over: the sessions that many of them share serve the others as before. */
import { constants, type Http2Session, type ServerHttp2Stream } from 'node:http2';
import t, { type Test } from 'tap';
import { call, open, type Peer } from '../e2e/harness/clients.ts';
import { stalled, until, within } from '../e2e/harness/wait.ts';
import { ask, heard, http2App, http2Client } from './http2-app.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

const { NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_NO_ERROR } = constants;

/** A client of HTTP/1 that asks, and reads what comes. */
async function asks(t: Test, port: number, path: string): Promise<Peer> {
  const peer = await open(t, port);
  peer.write(`GET ${path} HTTP/1.1\r\nhost: orders\r\n\r\n`);
  return peer;
}

t.test('an app of node:http2 whose large answers are cut refuses nobody for it', async (t) => {
  // It counts what it wrote of them as held for good, and at 10 MB in a session it refuses all streams of that.
  const large = Buffer.alloc(9_000_000, 'x');
  let cut = 0;
  const app = await http2App(t, (stream, { ':path': path }) => {
    stream.on('close', () => {
      if (stream.rstCode !== NGHTTP2_NO_ERROR) cut++;
    });
    stream.respond({ ':status': 200, 'content-length': path === '/large' ? large.length : 2 });
    stream.end(path === '/large' ? large : 'ok');
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  for (let i = 1; i <= 5; i++) {
    const leaving = await asks(t, sidecar.port, '/large');
    await leaving.until('the answer to begin', (text) => text.includes('xxx'));
    leaving.socket.pause();
    leaving.abort();
    await until('the app to see it leave', () => cut === i);
    t.equal((await call(sidecar.port, '/', { method: 'POST', body: 'a' })).status, 200);
  }
});

t.test('an app that has had enough of a connection is asked on another', async (t) => {
  const weary = new Set<Http2Session | undefined>();
  const app = await http2App(t, (stream, { ':path': path }) => {
    if (path === '/weary') weary.add(stream.session);
    if (weary.has(stream.session) && path !== '/weary') stream.close(NGHTTP2_ENHANCE_YOUR_CALM);
    else {
      stream.respond({ ':status': 200 });
      stream.end(String(app.sessions.indexOf(stream.session as never)));
    }
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  t.equal((await call(sidecar.port, '/weary')).body.toString(), '0');
  t.equal((await call(sidecar.port, '/')).body.toString(), '1', 'HTTP/1');
  t.match(await ask(client, { ':path': '/weary' }), { body: '1' });
  t.match(await ask(client, { ':path': '/' }), { status: 200, body: '2' }, 'HTTP/2');
  t.match(await ask(client, { ':path': '/weary' }), { body: '2' });
  // It may have been looked at: it is not sent again, and the next goes elsewhere.
  t.match(await ask(client, { ':method': 'POST' }, 'a'), { status: 0, code: NGHTTP2_ENHANCE_YOUR_CALM });
  t.match(await ask(client, { ':method': 'POST' }, 'a'), { status: 200, body: '3' });
  t.equal(app.sessions.length, 4);
});

t.test('a shared session takes no new streams before its peer counts too many resets', async (t) => {
  const maxStreamResets = 20;
  const resets = new Map<Http2Session | undefined, number>();
  let held = 0;
  let cut = 0;
  let innocent: ServerHttp2Stream | null = null;
  const app = await http2App(t, (stream, { ':path': path }) => {
    const { session } = stream;
    if (path === '/innocent') innocent = stream;
    else held++;
    stream.on('aborted', () => {
      cut++;
      resets.set(session, (resets.get(session) ?? 0) + 1);
    });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2', limits: { maxStreamResets } });
  const answer = call(sidecar.port, '/innocent');
  await until('the innocent one', () => innocent);
  const clients = 4;
  for (let round = 1; round <= 20; round++) {
    const leaving = await Promise.all(Array.from({ length: clients }, () => asks(t, sidecar.port, '/held')));
    await until('the app to hold them', () => held === round * clients);
    for (const one of leaving) one.abort();
    await until('the app to see them leave', () => cut === round * clients);
  }
  // Those that were under way when it had enough may still leave.
  t.ok(Math.max(...resets.values()) < maxStreamResets / 2 + clients, JSON.stringify([...resets.values()]));
  const { session } = innocent as unknown as ServerHttp2Stream;
  t.equal(session, app.sessions[0]);
  (innocent as unknown as ServerHttp2Stream).respond({ ':status': 200 }, { endStream: true });
  t.equal((await answer).status, 200);
});

t.test('who waited for an answer for a second before it left is no attacker', async (t) => {
  let held = 0;
  const app = await http2App(t, (stream, { ':path': path }) => {
    if (path === '/held') held++;
    else stream.respond({ ':status': 200 }, { endStream: true });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2', limits: { maxStreamResets: 5 } });
  const client = http2Client(t, sidecar.port);
  const streams = Array.from({ length: 30 }, () => client.request({ ':path': '/held' }));
  const over = streams.map(heard);
  await until('the app to hold them', () => held === streams.length);
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  for (const stream of streams) stream.close(NGHTTP2_CANCEL);
  await Promise.all(over);
  t.match(await ask(client, {}), { status: 200 });
  t.notOk(sidecar.lines.some(({ reason }) => reason === 'too_many_resets'));
});

t.test('what waited for a reader that left is not held against the session', async (t) => {
  const piece = Buffer.alloc(16_384, 'x');
  let said = 0;
  const app = await http2App(t, (stream) => {
    stream.on('close', () => said++);
    stream.respond({ ':status': 200, 'content-length': piece.length });
    stream.end(piece);
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  // No DATA may come: all that the app says waits in the sidecar's session.
  const client = http2Client(t, sidecar.port, { settings: { initialWindowSize: 0 } });
  const rounds = 50;
  const each = 100;
  for (let round = 1; round <= rounds; round++) {
    const streams = Array.from({ length: each }, () => client.request({}));
    const over = streams.map(heard);
    const heads = streams.map((stream) => new Promise((resolve) => stream.once('response', resolve)));
    await within('answers to begin', Promise.all(heads));
    await until('the app to have said all', () => said === round * each);
    for (const stream of streams) stream.close(NGHTTP2_CANCEL);
    const statuses = new Set((await Promise.all(over)).map(({ status }) => status));
    t.strictSame([...statuses], [200]);
  }
  t.match(await ask(client, { ':method': 'HEAD' }), { status: 200 });
});

t.test('unread data of who left gives its window back', async (t) => {
  const piece = Buffer.alloc(16_384, 'x');
  let written = 0;
  const app = await http2App(t, (stream, { ':path': path }) => {
    stream.respond({ ':status': 200 });
    if (path === '/whole') stream.end(Buffer.alloc(3_000_000, 'x'));
    else {
      const more = (): void => {
        do written++;
        while (stream.write(piece));
      };
      stream.on('drain', more);
      more();
    }
  });
  // A session's window is sixteen of these: thirty cut streams would have used it up.
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2', limits: { streamWindow: 65_535 } });
  for (let round = 0; round < 2; round++) {
    written = 0;
    const slow = await Promise.all(Array.from({ length: 15 }, () => open(t, sidecar.port)));
    for (const one of slow) {
      one.socket.pause();
      one.write('GET /endless HTTP/1.1\r\nhost: orders\r\n\r\n');
    }
    await stalled('the app', () => written);
    for (const one of slow) one.abort();
    await until('all to be over', () => sidecar.path.connections.size === 0);
  }
  t.equal((await call(sidecar.port, '/whole')).body.length, 3_000_000);
  t.equal(app.sessions.length, 1);
});
