/** Tunnels that end: new connections go to another one, old ones to their own end, and apps notice what they must and no more. */
import { constants } from 'node:http2';
import type { Server as TlsServer } from 'node:tls';
import t from 'tap';
import { call, keepAlive, open } from '../e2e/harness/clients.ts';
import { hostOf } from '../e2e/harness/resources.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { pause, until } from '../e2e/harness/wait.ts';
import { carried, hboneCaller, lives } from './hbone-caller.ts';
import { type Asked, echo, hbonePeer, rawPeer } from './hbone-peer.ts';
import { frame, TYPE } from './http2-frames.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const PORT = 7001;
const headers = { host: hostOf('orders') };
const { NGHTTP2_INTERNAL_ERROR, NGHTTP2_REFUSED_STREAM } = constants;

function goaway(last: number, code: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32BE(last, 0);
  payload.writeUInt32BE(code, 4);
  return frame(TYPE.GOAWAY, 0, 0, payload);
}

/** An HTTP app at the end of each stream: `/cut` loses the first tunnel that asks for it. */
function httpApp(cut: Set<string>): (asked: Asked) => void {
  return ({ stream }) => {
    stream.respond({ ':status': 200 });
    stream.on('end', () => stream.end());
    stream.on('data', (chunk: Buffer) => {
      const [, path = ''] = /^\S+ (\S+) /.exec(chunk.toString('latin1')) ?? [];
      if (path.startsWith('/cut') && !cut.has(path)) {
        cut.add(path);
        stream.session?.destroy();
      } else stream.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    });
  };
}

t.test('a peer that goes away: what runs goes on, what is new goes elsewhere', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const old = await carried(t, tcp);
  const [first] = peer.sessions;
  first?.close();
  await pause(50);
  await carried(t, tcp);
  t.equal((await peer.at(1)).tunnel, 1);
  await lives(old);
  old.end();
  t.equal(await old.ended(), 'end');
  await until('the old tunnel to be closed', () => first?.destroyed);
});

t.test(
  'a peer that goes away: streams kept for requests are not used again, and do not hold it up',
  async (t) => {
    const peer = await hbonePeer(t, orders, httpApp(new Set()));
    const { http } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const get = (): Promise<number> => call(http, '/', { headers }).then(({ status }) => status);
    t.same(await Promise.all([get(), get(), get()]), [200, 200, 200]);
    const [first] = peer.sessions;
    const kept = peer.asked.length;
    first?.close();
    await pause(50);
    t.equal(await get(), 200);
    t.equal((await peer.at(kept)).tunnel, 1);
    await until('the old tunnel to be closed', () => first?.destroyed, 2_500);
  },
);

t.test('GOAWAY below our streams: those it has not looked at are asked for again, unnoticed', async (t) => {
  const peer = await rawPeer(t, orders, async (tunnel, n) => {
    tunnel.greet();
    await tunnel.asked(1);
    if (n === 1) await tunnel.asked(3);
    if (n === 1) for (const stream of [1, 3]) tunnel.accept(stream);
    else {
      await tunnel.asked(5);
      tunnel.accept(1);
      tunnel.say(goaway(1, NGHTTP2_INTERNAL_ERROR));
    }
  });
  const { tcp, lines } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const apps = await Promise.all([1, 2, 3].map(() => open(t, tcp)));
  for (const app of apps) await app.until('the greeting', (text) => text === 'hello');
  t.equal(peer.tunnels.length, 2);
  t.strictSame(
    lines.filter(({ reason }) => reason !== undefined),
    [],
  );
});

t.test('what a tunnel refuses unread is asked for on another, unnoticed', async (t) => {
  // It has a bound of two that it does not tell.
  const serve = (asked: Asked): void => {
    const { stream } = asked;
    const open = peer.asked.filter((one) => one.tunnel === asked.tunnel && !one.stream.closed).length;
    if (open > 2) stream.close(NGHTTP2_REFUSED_STREAM);
    else echo(asked);
  };
  const peer = await hbonePeer(t, orders, serve);
  const { tcp, lines } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await Promise.all(Array.from({ length: 10 }, () => carried(t, tcp)));
  t.strictSame(
    lines.filter(({ reason }) => reason !== undefined),
    [],
  );
});

t.test('what every tunnel refuses is given up', async (t) => {
  const peer = await hbonePeer(t, orders, ({ stream }) => stream.close(NGHTTP2_REFUSED_STREAM));
  const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, caller.tcp);
  t.equal(await app.ended(), 'ECONNRESET');
  t.match((await caller.refused('connect_failed')).detail, /REFUSED_STREAM/);
  t.ok(peer.asked.length <= 3, `${peer.asked.length} times`);
});

t.test('a lost tunnel: requests fare as those of a lost connection', async (t) => {
  const cut = new Set<string>();
  const peer = await hbonePeer(t, orders, httpApp(cut));
  const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const agent = keepAlive(t);
  const get = (path: string, method = 'GET'): Promise<number> =>
    call(caller.http, path, { method, headers, agent }).then(({ status }) => status);
  t.equal(await get('/cut-fresh'), 503, 'the first on a stream is not sent again');
  t.match(await caller.accessed({ path: '/cut-fresh' }), { response_flags: 'UC' });
  t.equal(await get('/'), 200);
  const before = peer.sessions.length;
  t.equal(await get('/cut-kept'), 200, 'on a kept one it is, where that is safe');
  t.equal(peer.sessions.length, before + 1);
  t.equal(await get('/cut-post', 'POST'), 503, 'and not where it is not');
  t.equal(await get('/'), 200);
});

t.test('a lost tunnel resets the connections on it, and the next one has a new one', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const apps = await Promise.all([1, 2, 3].map(() => carried(t, tcp)));
  peer.sessions[0]?.destroy();
  for (const app of apps) t.equal(await app.ended(), 'ECONNRESET');
  await carried(t, tcp);
  t.equal(peer.sessions.length, 2);
});

t.test(
  'a tunnel that is lost just as somebody asks: another is asked, where this one has ever answered',
  async (t) => {
    const peer = await rawPeer(t, orders, async (tunnel, n) => {
      tunnel.greet();
      await tunnel.asked(1);
      if (n === 0) tunnel.accept(1);
      if (n === 0) await tunnel.asked(3);
      if (n < 2) tunnel.tls.destroy();
      else tunnel.accept(1);
    });
    const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const first = await open(t, caller.tcp);
    await first.until('the greeting', (text) => text === 'hello');
    const second = await open(t, caller.tcp);
    t.equal(await first.ended(), 'ECONNRESET');
    // By the second tunnel, which goes at its first question: that would be asked for ever.
    t.equal(await second.ended(), 'ECONNRESET');
    t.equal(peer.tunnels.length, 2);
    t.match((await caller.refused('connect_failed')).detail, /by HBONE: the peer closed the tunnel/);
    const third = await open(t, caller.tcp);
    await third.until('the greeting', (text) => text === 'hello');
    const fourth = await open(t, caller.tcp);
    const tunnel = await peer.at(2);
    await tunnel.asked(3);
    tunnel.tls.destroy();
    await fourth.until('the greeting', (text) => text === 'hello');
    t.equal(peer.tunnels.length, 4);
  },
);

t.test('a tunnel on which nothing comes any more: who waited gives up, the next ask elsewhere', async (t) => {
  const peer = await rawPeer(t, orders, async (tunnel) => {
    tunnel.greet();
    await tunnel.asked(1);
    tunnel.accept(1);
  });
  const limits = { connectTimeout: 1_000 };
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }], limits });
  const [first, second] = [await open(t, tcp), await open(t, tcp)];
  await first.until('the greeting', (text) => text === 'hello');
  t.equal(await second.ended(), 'ECONNRESET');
  const third = await open(t, tcp);
  await third.until('the greeting', (text) => text === 'hello');
  t.equal(peer.tunnels.length, 2);
  t.equal(first.over, null, 'what runs on it may yet go on');
});

t.test('a peer that is down for a while', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await carried(t, tcp);
  peer.server.close();
  peer.sessions[0]?.destroy();
  const refused = await open(t, tcp);
  t.equal(await refused.ended(), 'ECONNRESET');
  await new Promise<void>((resolve) => peer.server.listen(peer.port, '127.0.0.1', resolve));
  await carried(t, tcp);
});

t.test(
  'new credentials: new connections by a tunnel of theirs, the old one ends with its last',
  async (t) => {
    const serials: (string | undefined)[] = [];
    const peer = await hbonePeer(t, orders);
    peer.server.on('secureConnection', (tls) => serials.push(tls.getPeerX509Certificate()?.serialNumber));
    const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const old = await carried(t, caller.tcp);
    const leaf = await ca.leaf(spiffe('shop', 'web'));
    caller.useCredentials(leaf);
    await carried(t, caller.tcp);
    await lives(old);
    await carried(t, caller.tcp);
    t.strictSame(
      peer.asked.map(({ tunnel }) => tunnel),
      [0, 1, 1],
    );
    t.equal(serials[1], leaf.serial.toUpperCase());
    t.equal(peer.sessions[0]?.destroyed, false);
    old.end();
    t.equal(await old.ended(), 'end');
    await until('the old tunnel to be closed', () => peer.sessions[0]?.destroyed);
  },
);

t.test('new credentials while a tunnel is made: whoever waits for it is carried', async (t) => {
  const peer = await hbonePeer(t, orders);
  const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const leaf = await ca.leaf(spiffe('shop', 'web'));
  peer.server.once('connection', () => caller.useCredentials(leaf));
  const app = await open(t, caller.tcp);
  await lives(app);
  await carried(t, caller.tcp);
  t.strictSame(
    peer.asked.map(({ tunnel }) => tunnel),
    [0, 1],
    'and nobody else',
  );
  await lives(app);
});

t.test("a tunnel ends with its peer's certificate, and what is new has gone elsewhere by then", async (t) => {
  const until = 5_000;
  const peer = await hbonePeer(t, await ca.leaf(spiffe('shop', 'orders'), { to: until }));
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const old = await carried(t, tcp);
  // The peer has a new one in time. Whoever speaks with it already does not see that.
  (peer.server as TlsServer).setSecureContext({ ...orders });
  await pause(until);
  await carried(t, tcp);
  t.strictSame(
    peer.asked.map(({ tunnel }) => tunnel),
    [0, 1],
  );
  t.equal(await old.ended(), 'ECONNRESET');
});

t.test('a peer that falls silent is given up; one that answers PING is not', async (t) => {
  const limits = { tunnelPing: 500 };
  const silent = await rawPeer(t, orders, async (tunnel) => {
    tunnel.greet();
    await tunnel.asked(1);
    tunnel.accept(1);
  });
  const dead = await hboneCaller(t, ca, { places: [{ hbone: silent.port, port: PORT }], limits });
  const alive = await hbonePeer(t, orders);
  const living = await hboneCaller(t, ca, { places: [{ hbone: alive.port, port: PORT }], limits });
  const [app, other] = [await open(t, dead.tcp), await carried(t, living.tcp)];
  await app.until('the greeting', (text) => text === 'hello');
  t.equal(await app.ended(), 'ECONNRESET');
  t.equal((await (await silent.at(0)).next(TYPE.PING, 0)).flags, 0, 'it was asked');
  await lives(other);
  t.equal(alive.sessions.length, 1);
  const again = await open(t, dead.tcp);
  await again.until('the greeting', (text) => text === 'hello');
  t.equal(silent.tunnels.length, 2);
});

t.test('a drain of ours ends tunnels once nothing runs on them', async (t) => {
  const peer = await hbonePeer(t, orders);
  const caller = await hboneCaller(t, ca, {
    places: [{ hbone: peer.port, port: PORT }],
    limits: { drain: 2_000 },
  });
  const app = await carried(t, caller.tcp);
  const drained = caller.drain();
  await lives(app);
  app.end();
  t.equal(await app.ended(), 'end');
  await drained;
  await until('the tunnel to be closed', () => peer.sessions[0]?.destroyed);
});
