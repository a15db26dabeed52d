/** A request that waits for its judgement: nothing of it goes on, nothing of it is lost, and its waiting ends. */
import t from 'tap';
import type { CheckAnswer } from '../../mesh/ext-authz.ts';
import { httpApp, type Told } from '../e2e/harness/apps.ts';
import { type Answer, call, open } from '../e2e/harness/clients.ts';
import { pause, until } from '../e2e/harness/wait.ts';
import { inboundSidecar, passed, provider } from './inbound-sidecar.ts';

t.setTimeout(180_000);

const app = await httpApp(t);

t.test('nothing reaches the app before the answer, all of it after', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const before = app.seen.count;
  const answer = call(sidecar.port, '/echo', { method: 'POST', body: 'hello' });
  const check = await sidecar.nextCheck();
  await pause(50);
  t.equal(app.seen.count, before, 'the app has seen nothing');
  check.answer(passed);
  t.equal((await answer).body.toString(), 'hello');
  t.equal(app.seen.count, before + 1);
});

t.test('a body arrives byte for byte, however it is cut and however long judging takes', async (t) => {
  const data = Buffer.from(Array.from({ length: 3_000 }, (_, i) => i % 251));
  const chunked = Buffer.concat([
    Buffer.from('3e8;x=y\r\n'),
    data.subarray(0, 1_000),
    Buffer.from('\r\n7d0\r\n'),
    data.subarray(1_000),
    Buffer.from('\r\n0\r\n\r\n'),
  ]);
  const requests = {
    length: Buffer.concat([
      Buffer.from('POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n'),
      data,
    ]),
    chunked: Buffer.concat([
      Buffer.from('POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'),
      chunked,
    ]),
  };
  const next = Buffer.from('GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n');
  for (const requestBody of [
    null,
    { maxRequestBytes: 5_000, allowPartialMessage: false, packAsBytes: false },
    { maxRequestBytes: 1_500, allowPartialMessage: true, packAsBytes: false },
  ]) {
    const sidecar = await inboundSidecar(t, app.port, { provider: { ...provider, requestBody } });
    for (const [kind, request] of Object.entries(requests)) {
      for (const cut of [
        0,
        10,
        request.length - 2_500,
        request.length - 1,
        request.length,
        request.length + 9,
      ]) {
        const name = `${kind}, cut at ${cut} of ${request.length}, ${JSON.stringify(requestBody)}`;
        const bytes = Buffer.concat([request, next]);
        const peer = await open(t, sidecar.port);
        peer.write(bytes.subarray(0, cut));
        // The rest comes in another read, and where it can, after the check began.
        await pause(5);
        peer.write(bytes.subarray(cut));
        const check = await sidecar.nextCheck();
        const shown = requestBody === null ? null : data.subarray(0, requestBody.maxRequestBytes);
        t.same(check.request.request?.body, shown, `${name}: what the authorizer is shown`);
        t.equal(check.request.request?.bodyTruncated, requestBody?.allowPartialMessage ?? false, name);
        check.answer(passed);
        (await sidecar.nextCheck()).answer(passed);
        await peer.until('both answers', (text) => text.includes('HTTP/1.1 204'));
        const text = peer.text;
        t.ok(text.includes(data.toString('latin1').slice(0, 1_000)), `${name}: begins as sent`);
        const body = bodyOf(peer.received);
        t.ok(body.equals(data), `${name}: arrives as sent`);
        peer.abort();
      }
    }
  }
});

/** The first answer's body; the app sends it chunked or with a length. */
function bodyOf(received: Buffer): Buffer {
  const end = received.indexOf('\r\n\r\n');
  const head = received.toString('latin1', 0, end).toLowerCase();
  const length = /content-length: (\d+)/.exec(head);
  if (length !== null) return received.subarray(end + 4, end + 4 + Number(length[1]));
  const parts: Buffer[] = [];
  for (let at = end + 4; ; ) {
    const line = received.indexOf('\r\n', at);
    const size = Number.parseInt(received.toString('latin1', at, line), 16);
    if (!(size > 0)) return Buffer.concat(parts);
    parts.push(received.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
}

t.test('requests behind it wait their turn', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, {
    provider,
    ask: (path) => (path === '/status/201' ? { provider: provider.name, policy: 'shop/ask', rule: 0 } : null),
  });
  const peer = await open(t, sidecar.port);
  peer.write(
    'GET /status/201 HTTP/1.1\r\nHost: a\r\n\r\nGET /status/202 HTTP/1.1\r\nHost: a\r\n\r\nGET /status/203 HTTP/1.1\r\nHost: a\r\n\r\n',
  );
  const check = await sidecar.nextCheck();
  await pause(50);
  t.equal(peer.text, '', 'the second is not answered first');
  check.answer(passed);
  const text = await peer.until('three answers', (so) => so.includes(' 203 '));
  t.same(
    [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
    ['201', '202', '203'],
  );
});

t.test('a downstream that leaves ends the check, and the app is never dialled', async (t) => {
  const requests = {
    'without a body': 'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
    'with half a body': 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf',
  };
  const sidecar = await inboundSidecar(t, app.port, { provider });
  for (const [name, request] of Object.entries(requests)) {
    const dialled = app.sockets.size;
    const peer = await open(t, sidecar.port);
    peer.write(request);
    const check = await sidecar.nextCheck();
    t.notOk(check.signal.aborted, name);
    peer.abort();
    await until('the check to be called off', () => check.signal.aborted);
    check.answer(passed);
    await pause(20);
    // Fewer where those of the tests before close meanwhile.
    t.ok(app.sockets.size <= dialled, `${name}: no connection to the app`);
    const lines = await sidecar.accessed();
    t.match(lines.at(-1), { response_flags: 'DC', reason: 'downstream_closed', response_code: 0 }, name);
  }
});

t.test('a downstream that has said all and ended its side is answered', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const peer = await open(t, sidecar.port);
  peer.write('POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nwhole');
  peer.end();
  const check = await sidecar.nextCheck();
  await pause(20);
  t.notOk(check.signal.aborted);
  check.answer(passed);
  t.match(await peer.until('the answer', (text) => text.includes('whole')), /^HTTP\/1\.1 200 /);
});

t.test('a downstream that ends its side within its body is not waited for', async (t) => {
  for (const requestBody of [{ maxRequestBytes: 50, allowPartialMessage: false, packAsBytes: false }, null]) {
    const sidecar = await inboundSidecar(t, app.port, { provider: { ...provider, requestBody } });
    const before = app.seen.count;
    const peer = await open(t, sidecar.port);
    peer.write('POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf');
    peer.end();
    if (requestBody === null) (await sidecar.nextCheck()).answer(passed);
    t.match(await peer.ended(), /RESET|closed/);
    // What need not be shown streams, and the app sees it break off, as without an authorizer.
    if (requestBody !== null) t.equal(app.seen.count, before, 'the app was not given half a request');
  }
});

t.test(
  'a request refused after a wait: its body is read past, and what is behind it is answered',
  async (t) => {
    const refusal = { kind: 'refused', status: 401, message: 'no', challenge: null } as const;
    const post = 'POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n';
    const get = 'GET /behind HTTP/1.1\r\nHost: a\r\n\r\n';
    const denied = { kind: 'denied', status: 401, fields: [], body: Buffer.from('no') } as const;
    const sidecars = {
      'by a token': await inboundSidecar(t, app.port, {
        verify: () => new Promise((resolve) => setImmediate(() => resolve(refusal))),
      }),
      'by an authorizer': await inboundSidecar(t, app.port, { provider }),
      // Nobody listens there.
      'by a failed dial': await inboundSidecar(t, 1, {}),
    };
    for (const [name, sidecar] of Object.entries(sidecars)) {
      const step = async (): Promise<void> => {
        if (name === 'by an authorizer') (await sidecar.nextCheck()).answer(denied);
      };
      const status = name === 'by a failed dial' ? 503 : 401;
      const peer = await open(t, sidecar.port);
      peer.write(`${post}hello${get}`);
      await step();
      await step();
      const text = await peer.until('both answers', (so) => so.split('HTTP/1.1 ').length === 3);
      t.notMatch(text, /HTTP\/1\.1 (?!401|503)/, name);
      peer.write(`${post}he`);
      await step();
      await peer.until('the third', (so) => so.split('HTTP/1.1 ').length === 4);
      t.equal((await sidecar.accessed()).length, 2, `${name}: a line for each request that is over`);
      peer.write(`llo${get}`);
      await step();
      await peer.until('the fourth', (so) => so.split('HTTP/1.1 ').length === 5);
      t.match(
        (await sidecar.accessed()).map((line) => [line.path, line.response_code]),
        ['/refused', '/behind', '/refused', '/behind'].map((path) => [path, status]),
        `${name}: logged while the client stays`,
      );
      t.equal(peer.over, null, `${name}: the connection stays`);
    }
  },
);

t.test('a refusal keeps its reason, however the rest of its request ends', async (t) => {
  const post = 'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe';
  const denied = { kind: 'denied', status: 403, fields: [], body: Buffer.from('no') } as const;
  const rows: [string, (peer: Awaited<ReturnType<typeof open>>) => void, RegExp][] = [
    ['the client leaves', (peer) => peer.abort(), /./],
    ['it ends its side', (peer) => peer.end(), /^end$/],
    ['the body breaks', (peer) => peer.write('lloXX'), /^end$/],
    ['nothing more comes', () => {}, /./],
  ];
  for (const [name, act, end] of rows) {
    const sidecar = await inboundSidecar(t, app.port, { provider, limits: { streamIdleTimeout: 1_500 } });
    const peer = await open(t, sidecar.port);
    peer.write(post);
    (await sidecar.nextCheck()).answer(denied);
    await peer.until('the answer', (text) => text.endsWith('no'));
    act(peer);
    t.match(await peer.ended(), end, name);
    await until('the connection to be over', () => sidecar.path.connections.size === 0);
    const lines = await sidecar.accessed();
    t.match(lines, [{ response_code: 403, reason: 'ext_authz_denied', policy: 'shop/ask' }], name);
    t.equal(lines.length, 1);
    t.match(
      sidecar.lines.map(({ reason }) => reason),
      ['ext_authz_denied'],
      `${name}: and its line`,
    );
  }
});

t.test('reading stops while too much waits', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const peer = await open(t, sidecar.port);
  peer.write('POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n');
  const piece = Buffer.alloc(1_000_000);
  let written = 0;
  while (written < 50 && peer.socket.write(piece)) written++;
  const check = await sidecar.nextCheck();
  await pause(200);
  const [connection] = sidecar.path.connections.list();
  t.ok((connection?.bytesReceived ?? 0) < 300_000, `${connection?.bytesReceived} bytes were taken`);
  check.answer({ kind: 'denied', status: 403, fields: [], body: Buffer.alloc(0) });
  await peer.until('the answer', (text) => text.includes('HTTP/1.1 403'));
  peer.abort();
});

t.test('a stop lets a pending request finish, and says so', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const peer = await open(t, sidecar.port);
  peer.write('GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n');
  const check = await sidecar.nextCheck();
  sidecar.path.draining.inbound = true;
  for (const connection of sidecar.path.connections.list()) connection.carrier?.drain();
  await pause(20);
  t.equal(peer.over, null);
  check.answer(passed);
  t.match(await peer.until('the answer', (text) => text.endsWith('bbb')), /connection: close/);
  t.equal(await peer.ended(), 'end');
});

t.test('a new set of policies does not mix into a judgement under way', async (t) => {
  const policies = (path: string): string => `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec: {rules: [{to: [{operation: {paths: ["${path}"]}}]}]}
`;
  const sidecar = await inboundSidecar(t, app.port, { provider, resources: policies('/status/*') });
  const answer = call(sidecar.port, '/status/200');
  const check = await sidecar.nextCheck();
  sidecar.apply({ resources: policies('/other') });
  check.answer(passed);
  t.equal((await answer).status, 200, 'by the set it began with');
  t.equal((await call(sidecar.port, '/status/200')).status, 403, 'the next one by the new set');
});

t.test('a body too long to be shown', async (t) => {
  const requestBody = { maxRequestBytes: 10, allowPartialMessage: false, packAsBytes: false };
  const sidecar = await inboundSidecar(t, app.port, {
    provider: { ...provider, requestBody, failOpen: true },
    limits: { maxHeldBody: 1_000 },
  });
  const ten = call(sidecar.port, '/echo', { method: 'POST', body: '0123456789' });
  (await sidecar.nextCheck()).answer(passed);
  t.equal((await ten).body.toString(), '0123456789', 'as many bytes as may be');
  for (const chunked of [false, true]) {
    const answer = await call(sidecar.port, '/echo', { method: 'POST', body: '0123456789a', chunked });
    t.equal(answer.status, 413, `chunked: ${chunked}`);
    t.equal(answer.body.toString(), 'Payload Too Large');
    t.equal(answer.headers.connection, 'close');
    t.match((await sidecar.accessed()).at(-1), {
      reason: 'body_too_large',
      response_code_details: 'request_payload_too_large',
      response_flags: '-',
    });
  }
  const bounded = await inboundSidecar(t, app.port, {
    provider: { ...provider, requestBody: { ...requestBody, maxRequestBytes: 1e9 } },
    limits: { maxHeldBody: 5 },
  });
  t.equal(
    (await call(bounded.port, '/', { method: 'POST', body: '123456' })).status,
    413,
    'by our own limit',
  );
});

t.test(
  'what all connections hold back together is bounded, and each way out gives its room back',
  async (t) => {
    const requestBody = { maxRequestBytes: 2_000, allowPartialMessage: false, packAsBytes: false };
    const sidecar = await inboundSidecar(t, app.port, {
      provider: { ...provider, requestBody, failOpen: true },
      limits: { maxHeldTotal: 5_000 },
    });
    const { heldRoom } = sidecar.path;
    const body = 'b'.repeat(2_000);
    const head = 'POST /echo HTTP/1.1\r\nHost: a\r\n';
    const whole = `${head}Content-Length: 2000\r\n\r\n${body}`;
    const denied = { kind: 'denied', status: 403, fields: [], body: Buffer.from('no') } as const;
    type Way = (peer: Awaited<ReturnType<typeof open>>) => Promise<unknown>;
    const answered = (answer: CheckAnswer, text: string): Way => {
      return async (peer) => {
        (await sidecar.nextCheck()).answer(answer);
        await peer.until(text, (so) => so.includes(text));
      };
    };
    const ways: [name: string, request: string, Way][] = [
      ['allowed', whole, answered(passed, 'HTTP/1.1 200')],
      ['denied', whole, answered(denied, 'HTTP/1.1 403')],
      ['fails open', whole, answered({ kind: 'failed', reason: 'x' }, 'HTTP/1.1 200')],
      ['left while it is judged', whole, async (peer) => sidecar.nextCheck().then(() => peer.abort())],
      ['left before it is whole', whole.slice(0, -1), async (peer) => peer.abort()],
      ['ends its side before it is whole', whole.slice(0, -1), async (peer) => peer.end()],
      [
        'broken',
        `${head}Transfer-Encoding: chunked\r\n\r\n7d0\r\n${body}`,
        async (peer) => {
          peer.write('XX');
          await peer.until('400', (text) => text.startsWith('HTTP/1.1 400'));
        },
      ],
      [
        'too long',
        `${head}Transfer-Encoding: chunked\r\n\r\n7d1\r\n${body}`,
        async (peer) => {
          peer.write('X');
          await peer.until('413', (text) => text.startsWith('HTTP/1.1 413'));
        },
      ],
    ];
    for (const [name, request, way] of ways) {
      const holders = await Promise.all([open(t, sidecar.port), open(t, sidecar.port)]);
      for (const peer of holders) peer.write(request);
      await until(`${name}: both to be held`, () => heldRoom.used >= 3_998);
      const refused = await call(sidecar.port, '/echo', { method: 'POST', body });
      t.same(
        [refused.status, refused.headers.connection],
        [503, 'close'],
        `${name}: no room, and failOpen opens nothing`,
      );
      t.match((await sidecar.accessed()).at(-1), { reason: 'too_many_held_bodies', response_flags: 'OM' });
      for (const peer of holders) await way(peer);
      await until(`${name}: all room to be free`, () => heldRoom.used === 0);
      for (const peer of holders) peer.abort();
    }
  },
);

t.test('a held body that does not get on is given up, one that does is not', async (t) => {
  const requestBody = { maxRequestBytes: 2_000, allowPartialMessage: false, packAsBytes: false };
  const sidecar = await inboundSidecar(t, app.port, {
    provider: { ...provider, requestBody, failOpen: true },
    limits: { handshakeTimeout: 50 },
  });
  const peer = await open(t, sidecar.port);
  peer.write('POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n');
  const begun = Date.now();
  for (let i = 0; i < 15; i++) {
    peer.write('x');
    await pause(100);
  }
  t.equal(peer.text, '', `${Date.now() - begun} ms, a byte now and then`);
  t.match(await peer.until('the answer', (text) => text.endsWith('slow')), /^HTTP\/1\.1 408 /);
  t.equal(await peer.ended(), 'end');
  t.match((await sidecar.accessed()).at(-1), { response_code: 408, reason: 'request_timeout' });
  // Once it is whole, the authorizer's own time-out rules.
  const whole = call(sidecar.port, '/echo', { method: 'POST', body: 'whole' });
  const check = await sidecar.nextCheck();
  await pause(1_200);
  check.answer(passed);
  t.equal((await whole).body.toString(), 'whole');
});

t.test('a client that waits for 100 (Continue) is told so by us where its body must be seen', async (t) => {
  const requestBody = { maxRequestBytes: 10, allowPartialMessage: false, packAsBytes: false };
  const sidecar = await inboundSidecar(t, app.port, { provider: { ...provider, requestBody } });
  const peer = await open(t, sidecar.port);
  peer.write('POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n');
  await peer.until('100', (text) => text === 'HTTP/1.1 100 Continue\r\n\r\n');
  peer.write('body');
  const check = await sidecar.nextCheck();
  t.equal(check.request.request?.body?.toString(), 'body');
  check.answer(passed);
  const text = await peer.until('the answer', (so) => so.includes('body'));
  t.equal(text.split('100 Continue').length, 2, 'and once only');
});

t.test('a broken body ends the waiting with 400', async (t) => {
  const requestBody = { maxRequestBytes: 100, allowPartialMessage: false, packAsBytes: false };
  const sidecar = await inboundSidecar(t, app.port, { provider: { ...provider, requestBody } });
  const peer = await open(t, sidecar.port);
  peer.write('POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n');
  t.match(await peer.until('the answer', (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 400 /);
});

t.test('an idle deadline ends a judgement that never comes', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider, limits: { streamIdleTimeout: 50 } });
  const peer = await open(t, sidecar.port);
  peer.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  const check = await sidecar.nextCheck();
  await peer.ended();
  t.ok(check.signal.aborted);
});

t.test('what an authorizer may and may not change', async (t) => {
  const policies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec: {rules: [{when: [{key: "request.headers[x-role]", values: [admin]}]}]}
`;
  const sidecar = await inboundSidecar(t, app.port, { provider, resources: policies });
  const ask = async (answer: CheckAnswer, headers: Record<string, string> = {}): Promise<Answer> => {
    const response = call(sidecar.port, '/told?a=b', { headers });
    (await sidecar.nextCheck()).answer(answer);
    return response;
  };
  const set = (name: string, value: string, append = false) => ({ name, value, append });
  const role = [set('X-Role', 'admin')];
  t.equal((await ask(passed, { 'x-role': 'admin' })).status, 200);
  t.equal(
    (await ask({ ...passed, remove: ['x-role'] }, { 'x-role': 'admin' })).status,
    403,
    'policy sees it gone',
  );
  const answer = await ask(
    {
      ...passed,
      set: [
        ...role,
        set('x-more', '1', true),
        set('Host', 'evil'),
        set('content-length', '5'),
        set('x_forwarded_client_cert', 'me'),
        set(':path', '/evil'),
      ],
      remove: ['cookie', 'host'],
      path: '/told?c=d',
      answerFields: [
        { ...set('x-answer', 'yes'), only: null },
        { ...set('content-type', 'text/evil'), only: 'absent' },
        { ...set('connection', 'close'), only: null },
      ],
    },
    { 'x-role': 'user', 'x-more': '0', cookie: 'a=b' },
  );
  t.equal(answer.status, 200, 'policy judges what the app gets');
  const told = JSON.parse(answer.body.toString()) as Told;
  t.equal(told.url, '/told?c=d');
  t.match(told.headers, { 'x-role': 'admin', 'x-more': '0, 1', host: 'orders.shop.svc.cluster.local' });
  for (const name of ['cookie', 'content-length', 'x_forwarded_client_cert', ':path']) {
    t.notOk(name in told.headers, name);
  }
  t.equal(answer.headers['x-answer'], 'yes');
  t.equal(answer.headers['content-type'], 'application/json');
  const evil = ['a\r\nx-evil: 1', 'a\nb', 'a\0b', '\u010aa'];
  for (const value of evil) {
    const denied = await ask({ ...passed, set: [...role, set('x-a', value)] });
    t.equal(denied.status, 403, JSON.stringify(value));
    const refused = await ask({ ...passed, set: role, answerFields: [{ ...set('x-a', value), only: null }] });
    t.equal(refused.status, 403, `in the answer: ${JSON.stringify(value)}`);
    const split = await ask({
      kind: 'denied',
      status: 401,
      fields: [set('x-a', value)],
      body: Buffer.from('x'),
    });
    t.same([split.status, split.body.length], [403, 0], `in a denial: ${JSON.stringify(value)}`);
  }
  t.equal((await ask({ ...passed, set: role, path: '/a b' })).status, 403, 'a target that splits the line');
});

t.test('a denial is the answer the authorizer gave', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const fields = [
    { name: 'Location', value: 'https://login.example/', append: false },
    { name: 'set-cookie', value: 'a=1', append: true },
    { name: 'set-cookie', value: 'b=2', append: true },
    { name: 'transfer-encoding', value: 'chunked', append: false },
  ];
  const body = Buffer.from([0, 255, 10]);
  for (const method of ['GET', 'HEAD']) {
    const answer = call(sidecar.port, '/', { method });
    (await sidecar.nextCheck()).answer({ kind: 'denied', status: 302, fields, body });
    const { status, headers, body: got } = await answer;
    t.equal(status, 302);
    t.equal(headers.location, 'https://login.example/');
    t.same(headers['set-cookie'], ['a=1', 'b=2']);
    t.equal(headers['content-type'], 'text/plain');
    t.equal(headers['content-length'], '3');
    t.same(got, method === 'GET' ? body : Buffer.alloc(0), method);
  }
  t.match((await sidecar.accessed()).at(-1), {
    response_flags: 'UAEX',
    response_code_details: 'ext_authz_denied',
    reason: 'ext_authz_denied',
    policy: 'shop/ask',
  });
});

t.test('an authorizer that cannot be asked', async (t) => {
  const failed: CheckAnswer = { kind: 'failed', reason: 'out of time' };
  const rows: [string, object, number][] = [
    ['denies', {}, 403],
    ['with the status it was told', { statusOnError: 503 }, 503],
    ['unless it fails open', { failOpen: true }, 200],
  ];
  for (const [name, changes, status] of rows) {
    const sidecar = await inboundSidecar(t, app.port, { provider: { ...provider, ...changes } });
    const answer = call(sidecar.port, '/status/200');
    (await sidecar.nextCheck()).answer(failed);
    const got = await answer;
    t.equal(got.status, status, name);
    if (status !== 200) {
      t.equal(got.body.length, 0);
      t.notOk('content-type' in got.headers);
      t.match((await sidecar.accessed()).at(-1), {
        response_flags: 'UAEX',
        response_code_details: 'ext_authz_error',
      });
    } else
      t.ok(
        sidecar.lines.some(({ reason }) => reason === 'ext_authz_failed_open'),
        'and says so',
      );
  }
  // As a provider is whose service nobody defines.
  const sidecar = await inboundSidecar(t, app.port, {
    provider: { ...provider, fault: 'statusOnError is no status', failOpen: true },
  });
  const { status, body } = await call(sidecar.port, '/status/200');
  t.same([status, body.toString()], [403, 'RBAC: access denied'], 'at fault: denied whatever failOpen says');
});
