/** Streams that end otherwise than by an answer of their own: refused ones are sent again, once; complete ones are not reset; neither harms others. */
import { constants, type ServerHttp2Stream } from 'node:http2';
import { createServer } from 'node:net';
import t, { type Test } from 'tap';
import { serveOutbound } from '../../proxy/outbound.ts';
import { EgressRoutes } from '../../proxy/outbound-listener.ts';
import { listen } from '../e2e/harness/apps.ts';
import { call, open } from '../e2e/harness/clients.ts';
import { until } from '../e2e/harness/wait.ts';
import { ask, heard, http2App, http2Client, readAll } from './http2-app.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

const { NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = constants;

/** A POST by either version. @returns status and body */
type Post = (port: number, body: string) => Promise<string>;

const posts: Readonly<Record<string, (t: Test) => Post>> = {
  'HTTP/1': () => async (port, body) => {
    const answer = await call(port, '/', { method: 'POST', body });
    return `${answer.status} ${answer.body.toString()}`;
  },
  'HTTP/2': (t) => async (port, body) => {
    const answer = await ask(http2Client(t, port), { ':method': 'POST' }, body);
    return `${answer.status} ${answer.body}`;
  },
};

/** Tells the body back. */
async function echo(stream: ServerHttp2Stream): Promise<void> {
  const { body } = await readAll(stream);
  stream.respond({ ':status': 200 });
  stream.end(body);
}

for (const [version, prepare] of Object.entries(posts)) {
  t.test(
    `${version}: what was refused unread is sent again on another connection, once, whole`,
    async (t) => {
      const post = prepare(t);
      let toRefuse = 0;
      const asked: number[] = [];
      const app = await http2App(t, (stream) => {
        asked.push(app.sessions.indexOf(stream.session as never));
        if (toRefuse-- > 0) stream.close(NGHTTP2_REFUSED_STREAM);
        else void echo(stream);
      });
      const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
      for (const body of ['small', 'x'.repeat(60_000)]) {
        toRefuse = 1;
        asked.length = 0;
        t.equal(await post(sidecar.port, body), `200 ${body}`);
        t.equal(asked.length, 2);
        t.not(asked[0], asked[1]);
      }
      toRefuse = 2;
      asked.length = 0;
      t.match(await post(sidecar.port, 'small'), /^503 /);
      t.equal(asked.length, 2);
    },
  );

  t.test(`${version}: of a connection given up, only what was never looked at is sent again`, async (t) => {
    const post = prepare(t);
    const asked: string[] = [];
    let first: ServerHttp2Stream | null = null;
    const app = await http2App(t, (stream) => {
      asked.push(`${app.sessions.indexOf(stream.session as never)} ${stream.id}`);
      if (first === null) {
        first = stream;
      } else if (stream.session === first.session) {
        // RFC 9113 §6.8: whatever is above that id was not and will not be processed, whatever the code.
        stream.session?.goaway(NGHTTP2_INTERNAL_ERROR, first.id);
      } else void echo(stream);
    });
    const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
    const processed = post(sidecar.port, 'one');
    await until('the app to have the first', () => first);
    t.equal(await post(sidecar.port, 'two'), '200 two');
    t.match(await processed, /^503 /);
    t.strictSame(asked, ['0 1', '0 3', '1 1']);
  });
}

t.test('an answer whose END_STREAM comes late is not reset', async (t) => {
  const streams: ServerHttp2Stream[] = [];
  const codes: number[] = [];
  const app = await http2App(t, (stream) => {
    streams.push(stream);
    stream.on('close', () => codes.push(stream.rstCode));
    stream.respond({ ':status': 200, 'content-length': '5' });
    stream.write('hello');
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  t.equal((await call(sidecar.port, '/')).body.toString(), 'hello');
  t.strictSame(codes, [], 'the stream lives: its end is still to come');
  streams[0]?.end();
  await until('the stream to be over', () => codes.length > 0);
  t.strictSame(codes.splice(0), [NGHTTP2_NO_ERROR]);
  t.equal((await call(sidecar.port, '/')).body.toString(), 'hello');
  await until('an end that does not come to be given up', () => codes.length > 0);
  t.strictSame(codes, [NGHTTP2_CANCEL]);
  t.equal(app.sessions.length, 1);
});

t.test('a client may reset many streams whose answers began: its others live', async (t) => {
  const serve = (stream: ServerHttp2Stream): void => {
    stream.respond({ ':status': 200 });
    stream.write('held');
  };
  // It would end a connection at a thousand.
  const app = await http2App(t, serve);
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  const other = client.request({});
  other.on('error', () => {});
  let answered = 0;
  for (let round = 0; round < 30 && !client.closed; round++) {
    const reset = Array.from({ length: 50 }, () => {
      const stream = client.request({});
      stream.on('response', () => stream.close(NGHTTP2_CANCEL));
      return heard(stream);
    });
    answered += (await Promise.all(reset)).filter(({ status }) => status === 200).length;
  }
  t.equal(answered, 1_500);
  t.notOk(other.closed || other.destroyed);
});

t.test('who is spoken to over shared connections is no busier when they rest', async (t) => {
  const app = await http2App(t, (stream) => stream.respond({ ':status': 200 }, { endStream: true }));
  const { path } = await inboundSidecar(t, 1, {
    resources: `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app, namespace: shop}
spec:
  hosts: [app.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: ${app.port}, name: http2, protocol: HTTP2}]
  endpoints: [{address: 127.0.0.1}]
`,
  });
  const entry = { bind: '127.0.0.1', port: app.port, protocol: 'http', hosts: ['app.test'] } as const;
  const listener = new EgressRoutes(entry);
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
    serveOutbound(path, listener, socket),
  );
  const { port } = await listen(t, server);
  const headers = { host: 'app.test' };
  t.equal((await call(port, '/', { headers })).status, 200);
  t.equal((await ask(http2Client(t, port), { ':authority': 'app.test' })).status, 200);
  const leaving = await open(t, port);
  leaving.write('POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 5\r\n\r\n');
  leaving.abort();
  await until('nobody to be busy', () => path.loads.size === 0);
});
