/** How streams of a tunnel end, and tunnels: half-close, reset, policy, drain, idleness, silence. */
import type { Socket } from 'node:net';
import t, { type Test } from 'tap';
import { httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { policy } from '../e2e/harness/shop.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { connectTo, hboneClient, hboneClientWith, hboneFrames } from './hbone-client.ts';
import { AUTO, type HboneOptions, type HboneSidecar, HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { ACK, END_HEADERS, type Frame, frame, TYPE } from './http2-frames.ts';

const NO_ERROR = 0;
const CONNECT_ERROR = 10;
const MAX_STREAM = 0x7fff_ffff;

/** A connection as the app sees it. */
class Visit {
  readonly socket: Socket;
  text = '';
  /** `end`, or an error's code. */
  over: string | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.text += chunk.toString('latin1');
    });
    socket.on('end', () => this.#over('end'));
    socket.on('error', (error: NodeJS.ErrnoException) => this.#over(error.code ?? error.message));
    socket.on('close', () => this.#over('closed'));
  }

  #over(how: string): void {
    this.over ??= how;
  }

  said(text: string): Promise<unknown> {
    return until(`${JSON.stringify(text)} at the app`, () => this.text === text);
  }

  ended(): Promise<string> {
    return until('the end at the app', () => this.over);
  }
}

interface Stand {
  readonly sidecar: HboneSidecar;
  readonly visits: readonly Visit[];
  /** The app's connection of that number, waiting for it. */
  visit(number: number): Promise<Visit>;
}

/** An app behind TCP and AUTO that says nothing of itself. */
async function stand(t: Test, options: HboneOptions = {}): Promise<Stand> {
  const visits: Visit[] = [];
  const app = await tcpApp(t, (socket) => void visits.push(new Visit(socket)));
  const sidecar = await hboneSidecar(t, { tcp: app.port, auto: app.port, ...options });
  return {
    sidecar,
    visits,
    visit: (number) => until(`connection ${number} at the app`, () => visits[number]),
  };
}

for (const [what, port] of [
  ['TCP', TCP],
  ['undeclared', AUTO],
] as const) {
  t.test(`${what}: the client ends its side first`, async (t) => {
    const { sidecar, visit } = await stand(t);
    const stream = await (await hboneClient(t, sidecar)).open(port);
    stream.write('\0question');
    stream.end();
    const app = await visit(0);
    t.equal(await app.ended(), 'end');
    t.equal(app.text, '\0question');
    app.socket.write('an answer ');
    await stream.until('the answer', (all) => all === 'an answer ');
    app.socket.end('and more');
    t.equal(await stream.ended(), 'end');
    t.equal(stream.text, 'an answer and more');
    t.equal(await stream.reset, NO_ERROR);
  });

  t.test(`${what}: the app ends its side first`, async (t) => {
    const { sidecar, visit } = await stand(t);
    const stream = await (await hboneClient(t, sidecar)).open(port);
    stream.write('\0');
    const app = await visit(0);
    app.socket.end('that is all');
    t.equal(await stream.ended(), 'end');
    t.equal(stream.text, 'that is all');
    stream.write('but ');
    await app.said('\0but ');
    stream.write('I go on');
    stream.end();
    t.equal(await app.ended(), 'end');
    t.equal(app.text, '\0but I go on');
    t.equal(await stream.reset, NO_ERROR);
  });

  t.test(`${what}: the app resets`, async (t) => {
    const { sidecar, visit } = await stand(t);
    const client = await hboneClient(t, sidecar);
    const [stream, other] = [await client.open(port), await client.open(port)];
    stream.write('\0one');
    const app = await visit(0);
    await app.said('\0one');
    app.socket.resetAndDestroy();
    t.equal(await stream.reset, CONNECT_ERROR);
    other.write('\0two');
    await (await visit(1)).said('\0two');
    t.equal(await sidecar.refusals('upstream_closed'), 1);
  });

  t.test(`${what}: the client resets`, async (t) => {
    const { sidecar, visit } = await stand(t);
    const client = await hboneClient(t, sidecar);
    const [stream, other] = [await client.open(port), await client.open(port)];
    stream.write('\0one');
    const app = await visit(0);
    await app.said('\0one');
    stream.abort();
    t.equal(await app.ended(), 'ECONNRESET');
    other.write('\0two');
    await (await visit(1)).said('\0two');
    t.equal(await sidecar.refusals('downstream_closed'), 1);
  });

  t.test(`${what}: the client is gone`, async (t) => {
    const { sidecar, visit } = await stand(t);
    const client = await hboneClient(t, sidecar);
    const streams = [await client.open(port), await client.open(port), await client.open(port)];
    for (const [i, stream] of streams.entries()) {
      stream.write('\0');
      await (await visit(i)).said('\0');
    }
    streams[2]?.end();
    t.equal(await (await visit(2)).ended(), 'end');
    client.tls.destroy();
    for (const i of [0, 1]) t.equal(await (await visit(i)).ended(), 'ECONNRESET', 'its word was cut short');
    const last = await visit(2);
    await until('the end of the one whose client had only listened', () => {
      last.socket.write('x');
      return last.socket.destroyed;
    });
    t.equal(await sidecar.refusals('tunnel_broken'), 0);
  });
}

t.test('a request whose client resets its stream', async (t) => {
  const app = await httpApp(t);
  const sidecar = await hboneSidecar(t, { http: app.port });
  const stream = await (await hboneClient(t, sidecar)).open(HTTP);
  stream.write('GET /slow/60000 HTTP/1.1\r\nHost: orders\r\n\r\n');
  await until('the request at the app', () => app.seen.count === 1);
  stream.abort();
  await until('its end at the app', () => app.sockets.size === 0);
  const [line] = await sidecar.accessed(1);
  t.match(line, { path: '/slow/60000', response_code: 0, response_flags: 'DC' });
});

t.test('a client that says GOAWAY has its streams to the end', async (t) => {
  const { sidecar, visit } = await stand(t);
  const client = await hboneClient(t, sidecar);
  const stream = await client.open(TCP);
  client.session.close();
  client.session.goaway();
  stream.write('still ');
  const app = await visit(0);
  await app.said('still ');
  stream.write('here');
  stream.end();
  t.equal(await app.ended(), 'end');
  app.socket.end('good');
  t.equal(await stream.ended(), 'end');
  t.equal(stream.text, 'good');
  await within('the end of the tunnel', client.closed);
  await sidecar.metricIs('oarlock_connections_open', { direction: 'inbound' }, 0);
});

/** DENY for what web sends to TCP. */
const NOT_WEB = policy(
  'not-web',
  `[{from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}], to: [{operation: {ports: ["${TCP}"]}}]}]`,
  'DENY',
);

t.test('a policy that changes cuts the streams that it refuses, and no other', async (t) => {
  const http = await httpApp(t);
  const { sidecar, visits } = await stand(t, { http: http.port });
  const [web, other] = [await hboneClient(t, sidecar), await hboneClient(t, sidecar, 'other')];
  const doomed = [await web.open(TCP), await web.open(TCP)];
  const spared = [await web.open(AUTO), await other.open(TCP)];
  const all = [...doomed, ...spared];
  for (const stream of all) stream.write('\0');
  await until(
    'all of them at the app',
    () => visits.length === all.length && visits.every(({ text }) => text),
  );
  const requests = await web.open(HTTP);
  t.match(await requests.exchange('GET /a HTTP/1.1\r\nHost: orders\r\n\r\n'), /^HTTP\/1.1 200/);
  await sidecar.apply(NOT_WEB);
  for (const stream of doomed) t.equal(await stream.reset, CONNECT_ERROR);
  const cut = (): readonly Visit[] => visits.filter(({ over }) => over !== null);
  await until('both at the app', () => cut().length === doomed.length);
  t.strictSame(
    cut().map(({ over }) => over),
    ['ECONNRESET', 'ECONNRESET'],
  );
  t.equal(await sidecar.refusals('policy_denied'), doomed.length);
  for (const [i, stream] of spared.entries()) stream.write(`spared ${i}`);
  await until(
    'what goes on',
    () => visits.filter(({ text }) => text.includes('spared')).length === spared.length,
  );
  t.match(await requests.exchange('GET /b HTTP/1.1\r\nHost: orders\r\n\r\n'), /^HTTP\/1.1 200/);
  t.equal(await web.connect(TCP).status, 401);
  await sidecar.apply('');
  t.equal(await web.connect(TCP).status, 200);
});

t.test('a trust domain that is not trusted any more costs its tunnels', async (t) => {
  const { sidecar, visit } = await stand(t, {
    policies: 'kind: MeshConfig\ntrustDomainAliases: [old.example]\n',
  });
  const leaf = await sidecar.ca.leaf('spiffe://old.example/ns/shop/sa/web');
  const [old, web] = [await hboneClientWith(t, sidecar.port, leaf), await hboneClient(t, sidecar)];
  const streams = [await old.open(TCP), await web.open(TCP)];
  for (const [i, stream] of streams.entries()) {
    stream.write('\0');
    await (await visit(i)).said('\0');
  }
  await sidecar.apply('');
  await within('the end of the tunnel', old.closed);
  t.equal(await (await visit(0)).ended(), 'ECONNRESET');
  t.match(await sidecar.refused('untrusted_trust_domain'), { peer: 'spiffe://old.example/ns/shop/sa/web' });
  streams[1]?.write('still here');
  await (await visit(1)).said('\0still here');
});

const lastStream = ({ payload }: Frame): number => payload.readUInt32BE(0) & MAX_STREAM;

t.test('drain: a GOAWAY that warns, one that counts, and streams that finish', async (t) => {
  const { sidecar, visit } = await stand(t, { limits: { drain: 20_000 } });
  const client = await hboneFrames(t, sidecar);
  client.request(1, connectTo(TCP), END_HEADERS);
  t.equal(await client.status(1), 200);
  client.say(frame(TYPE.DATA, 0, 1, 'before '));
  const app = await visit(0);
  await app.said('before ');
  const drained = sidecar.drain();
  const warning = await client.next(TYPE.GOAWAY);
  t.equal(lastStream(warning), MAX_STREAM);
  client.request(3, connectTo(TCP), END_HEADERS);
  t.equal(await client.status(3), 200, 'it was on its way, and is served');
  client.say(frame(TYPE.DATA, 1, 3, 'late'));
  const late = await visit(1);
  t.equal(await late.ended(), 'end');
  late.socket.end();
  const last = await client.first('the second GOAWAY', (one) => one.type === TYPE.GOAWAY && one !== warning);
  t.equal(lastStream(last), 3);
  for (const one of [warning, last]) t.equal(one.payload.readUInt32BE(4), NO_ERROR);
  client.say(frame(TYPE.DATA, 1, 1, 'and after'));
  t.equal(await app.ended(), 'end');
  t.equal(app.text, 'before and after');
  app.socket.end('done');
  t.equal((await client.next(TYPE.DATA, 1)).payload.toString(), 'done');
  await client.peer.ended();
  await within('the drain', drained);
});

t.test('what does not finish in the drain time is reset', async (t) => {
  const { sidecar, visit } = await stand(t, { limits: { drain: 300 } });
  const client = await hboneClient(t, sidecar);
  const stream = await client.open(TCP);
  stream.write('\0');
  const app = await visit(0);
  await app.said('\0');
  await within('the drain', sidecar.drain());
  t.equal(await app.ended(), 'ECONNRESET');
  await within('the end of the tunnel', client.closed);
  t.not(await stream.ended(), 'end');
});

t.test('a tunnel without streams is closed in time', async (t) => {
  const { sidecar, visit } = await stand(t, { limits: { idleTimeout: 1_000 } });
  const client = await hboneClient(t, sidecar);
  const stream = await client.open(TCP);
  stream.end();
  (await visit(0)).socket.end();
  await stream.ended();
  await within('the end of the tunnel', client.closed);
  t.strictSame(client.goaways[0], [NO_ERROR, MAX_STREAM]);
  await sidecar.metricIs('oarlock_connections_open', { direction: 'inbound' }, 0);
  t.equal(await sidecar.refusals('tunnel_broken'), 0);
});

t.test('a peer that is silent is asked, and lives while it answers', async (t) => {
  const { sidecar, visit } = await stand(t, { limits: { tunnelPing: 500 } });
  const client = await hboneFrames(t, sidecar);
  client.request(1, connectTo(TCP), END_HEADERS);
  await client.status(1);
  client.say(frame(TYPE.DATA, 0, 1, '\0'));
  const app = await visit(0);
  await app.said('\0');
  const heard: Frame[] = [];
  for (let i = 0; i < 2; i++) {
    const ping = await client.first(
      'a PING',
      (one) => one.type === TYPE.PING && (one.flags & ACK) === 0 && !heard.includes(one),
    );
    heard.push(ping);
    client.say(frame(TYPE.PING, ACK, 0, ping.payload));
  }
  t.equal(app.over, null);
  // Now it answers no more.
  t.equal(await app.ended(), 'ECONNRESET');
  await client.peer.ended();
  await sidecar.metricIs('oarlock_connections_open', { direction: 'inbound' }, 0);
});
