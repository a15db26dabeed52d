/** Who speaks first, where nobody declared the protocol: apps that greet, clients that do not, and everything between. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t, { type Test } from 'tap';
import { serveOutbound } from '../../proxy/outbound.ts';
import { EgressRoutes } from '../../proxy/outbound-listener.ts';
import { type App, httpApp, listen, tcpApp } from '../e2e/harness/apps.ts';
import { open, Peer } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { openTls } from '../e2e/harness/tls-client.ts';
import { pause, until, within } from '../e2e/harness/wait.ts';
import {
  type InboundSidecar,
  inboundSidecar,
  passed,
  provider,
  type SidecarOptions,
} from './inbound-sidecar.ts';

t.setTimeout(120_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const web = await ca.leaf(spiffe('shop', 'web'));
const GREETING = '220 mail ESMTP\r\n';
/** Far longer than any step of a test: whoever wins, wins before the hold is over. */
const LONG = { serverFirstHold: 5_000 };

/** An app that greets, notes what it hears, and echoes it. */
interface Mail extends App {
  readonly heard: { text: string };
  readonly all: Socket[];
}

async function mailApp(t: Test, greeting: string | Buffer = GREETING): Promise<Mail> {
  const heard = { text: '' };
  const all: Socket[] = [];
  const app = await tcpApp(t, (socket) => {
    all.push(socket);
    if (greeting.length > 0) socket.write(greeting);
    socket.on('data', (chunk: Buffer) => {
      heard.text += chunk.toString('latin1');
      socket.write(chunk);
    });
    socket.on('end', () => socket.end('bye'));
  });
  return { ...app, heard, all };
}

const mode = (name: string): string => `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: ${name}}}
`;
const policy = (rules: string, action: string): string => `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {action: ${action}, rules: ${rules}}
`;

function sidecarFor(t: Test, app: App, options: SidecarOptions = {}): Promise<InboundSidecar> {
  return inboundSidecar(t, app.port, { protocol: 'auto', leaf: orders, ...options });
}

/** Waits until the app was reached for while the client was silent, and what it says has come this far. */
async function reached(app: App, connections = 1): Promise<void> {
  await until('the app to be reached', () => app.seen.count === connections);
  await pause(20);
}

t.test('an app that speaks first is heard, after the hold', async (t) => {
  const rows: readonly (SidecarOptions & { title: string })[] = [
    { title: 'undeclared, PERMISSIVE' },
    { title: 'undeclared, DISABLE', resources: mode('DISABLE') },
    { title: 'TCP, PERMISSIVE', protocol: 'tcp' },
  ];
  for (const { title, ...options } of rows) {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, options);
    const began = performance.now();
    const peer = await open(t, sidecar.port);
    t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), GREETING, title);
    // The accept may be seen a moment before the client sees it.
    t.ok(performance.now() - began >= 90, `${title}: held back for those who speak TLS`);
    peer.write('EHLO x\r\n');
    await peer.until('its answer', (text) => text.endsWith('EHLO x\r\n'));
    peer.end();
    t.equal(await peer.ended(), 'end');
    t.equal(peer.text, `${GREETING}EHLO x\r\nbye`, 'half-close is kept');
    t.equal(app.seen.count, 1, 'the app saw one connection');
    const [line] = (await sidecar.accessed()).slice(-1);
    t.match(line, { bytes_sent: 27, bytes_received: 8, response_flags: '-' });
  }
});

t.test('a declared TCP port under DISABLE waits for nothing', async (t) => {
  const app = await mailApp(t);
  const sidecar = await sidecarFor(t, app, { protocol: 'tcp', resources: mode('DISABLE'), limits: LONG });
  const peer = await open(t, sidecar.port);
  t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), GREETING);
});

t.test('TLS that comes within the hold wins', async (t) => {
  const app = await mailApp(t);
  const sidecar = await sidecarFor(t, app, { limits: LONG });
  const peer = await open(t, sidecar.port);
  await reached(app);
  peer.socket.removeAllListeners('data');
  const tls = connectTls({
    socket: peer.socket,
    cert: web.cert,
    key: web.key,
    ALPNProtocols: ['istio'],
    rejectUnauthorized: false,
  });
  const inside = new Peer(tls as Socket);
  t.equal(await inside.until('the greeting', (text) => text.endsWith('\n')), GREETING, 'inside TLS alone');
  inside.write('hello');
  await inside.until('the echo', (text) => text.endsWith('hello'));
  await until('the first connection to the app to be gone', () => app.sockets.size === 1);
  t.equal(app.heard.text, 'hello');
  tls.destroy();
});

t.test('a byte of TLS is enough', async (t) => {
  const app = await mailApp(t);
  const sidecar = await sidecarFor(t, app, { limits: { serverFirstHold: 5_000, handshakeTimeout: 2_000 } });
  const peer = await open(t, sidecar.port);
  await reached(app);
  peer.write(Buffer.of(0x16));
  await until('the app to be let go', () => app.sockets.size === 0);
  t.equal(await peer.ended(), 'ECONNRESET');
  t.equal(peer.text, '', 'no greeting');
  t.match(sidecar.lines.at(-1), { reason: 'tls_handshake_timeout' });
});

t.test('a client that speaks first is taken by its word', async (t) => {
  t.test('TCP: over the connection there is', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, { limits: LONG });
    const peer = await open(t, sidecar.port);
    await reached(app);
    peer.write('EHLO x\r\n');
    t.equal(await peer.until('both', (text) => text.endsWith('x\r\n')), `${GREETING}EHLO x\r\n`);
    t.equal(app.seen.count, 1);
  });
  t.test('HTTP: each request judged, and the app not told before', async (t) => {
    const app = await httpApp(t);
    const sidecar = await sidecarFor(t, app, {
      limits: LONG,
      resources: `${mode('PERMISSIVE')}${policy('[{to: [{operation: {paths: ["/no"]}}]}]', 'ALLOW')}`,
    });
    const denied = await open(t, sidecar.port);
    denied.write('GET /yes HTTP/1.1\r\nHost: x\r\n\r\n');
    t.match(await denied.until('an answer', (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 403 /);
    t.equal(app.seen.count, 0);
  });
  t.test('HTTP, after the app was reached', async (t) => {
    let heard = '';
    const app = await tcpApp(t, (socket) => {
      socket.on('data', (chunk) => {
        heard += chunk.toString('latin1');
        socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi');
      });
      socket.on('end', () => socket.end());
    });
    const sidecar = await sidecarFor(t, app, {
      limits: LONG,
      resources: `${mode('PERMISSIVE')}${policy('[{to: [{operation: {paths: ["/no"]}}]}]', 'DENY')}`,
    });
    // DENY with HTTP fields alone denies all TCP: nothing is reached for, and the request is judged as one.
    const quiet = await open(t, sidecar.port);
    await pause(100);
    quiet.write('GET /yes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    t.match(await quiet.until('an answer', (text) => text.endsWith('hi')), /^HTTP\/1\.1 200 /);
    t.match(heard, /^GET \/yes /);
    sidecar.apply({ resources: mode('PERMISSIVE') });
    const before = app.seen.count;
    const peer = await open(t, sidecar.port);
    await until('the app to be reached', () => app.seen.count > before);
    heard = '';
    peer.write('GET ');
    await pause(50);
    t.equal(heard, '', 'nothing goes on before it is known what it is');
    peer.write('/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    t.match(await peer.until('an answer', (text) => text.endsWith('hi')), /^HTTP\/1\.1 200 /);
    await until('the connection that was for TCP to be let go', () => app.sockets.size === 0);
    t.match(heard, /^GET \/a HTTP\/1\.1\r\n(?:.+\r\n)*x-request-id/);
  });
  t.test('half a request: no greeting, and no byte to the app', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, { limits: { serverFirstHold: 5_000, handshakeTimeout: 2_000 } });
    const peer = await open(t, sidecar.port);
    await reached(app);
    peer.write('GE');
    t.equal(await peer.ended(), 'ECONNRESET');
    t.equal(peer.text + app.heard.text, '');
    t.match(sidecar.lines.at(-1), { reason: 'request_timeout' });
    await until('the app to be let go', () => app.sockets.size === 0);
  });
});

t.test('clients that speak at once cost the app no more than ever', async (t) => {
  const app = await mailApp(t, '');
  const sidecar = await sidecarFor(t, app, { limits: LONG });
  for (let i = 0; i < 20; i++) {
    const peer = await open(t, sidecar.port);
    peer.write('\0');
    await peer.until('the echo', (text) => text === '\0');
    peer.socket.destroy();
    const tls = await openTls(t, sidecar.port, { leaf: web, ALPNProtocols: ['istio'] });
    tls.write('\0');
    await tls.until('the echo', (text) => text === '\0');
    tls.tls.destroy();
    // A health check.
    const check = await open(t, sidecar.port);
    check.end();
    await check.ended();
  }
  t.equal(app.seen.count, 40);
});

t.test('where policy denies plaintext TCP, the app is not reached for', async (t) => {
  const rows = [
    { title: 'DENY', yaml: policy('[{from: [{source: {notPrincipals: ["*"]}}]}]', 'DENY') },
    { title: 'ALLOW', yaml: policy('[{from: [{source: {principals: ["*"]}}]}]', 'ALLOW') },
  ];
  for (const { title, yaml } of rows) {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, {
      resources: mode('PERMISSIVE') + yaml,
      limits: { serverFirstHold: 50, handshakeTimeout: 1_500 },
    });
    const silent = await open(t, sidecar.port);
    t.equal(await silent.ended(), 'ECONNRESET', title);
    t.match(
      sidecar.lines.at(-1),
      { reason: 'no_first_byte', detail: /policy_denied/ },
      'and the log says why',
    );
    const speaking = await open(t, sidecar.port);
    speaking.write('\0');
    t.equal(await speaking.ended(), 'ECONNRESET', title);
    t.match(sidecar.lines.at(-1), { reason: 'policy_denied', policy: /shop\/p|ALLOW/ });
    t.equal(app.seen.count, 0);
    const tls = await openTls(t, sidecar.port, { leaf: web, ALPNProtocols: ['istio'] });
    t.equal(await tls.until('the greeting', (text) => text.endsWith('\n')), GREETING, 'a peer gets in');
    tls.tls.destroy();
  }
});

t.test('a set that comes within the hold counts', async (t) => {
  const rows = [
    { title: 'STRICT', yaml: mode('STRICT'), reason: 'plaintext_to_strict' },
    {
      title: 'DENY',
      yaml: mode('PERMISSIVE') + policy('[{from: [{source: {notPrincipals: ["*"]}}]}]', 'DENY'),
      reason: 'policy_denied',
    },
  ];
  for (const { title, yaml, reason } of rows) {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, { limits: { serverFirstHold: 2_000, modeGrace: 0 } });
    const peer = await open(t, sidecar.port);
    await reached(app);
    sidecar.apply({ resources: yaml });
    t.equal(await peer.ended(), 'ECONNRESET', title);
    t.equal(peer.text, '', `${title}: no greeting`);
    t.match(sidecar.lines.at(-1), { reason });
    await until('the app to be let go', () => app.sockets.size === 0);
  }
});

t.test('an external authorizer is asked before the app is reached', async (t) => {
  const options = { provider, limits: { serverFirstHold: 50, handshakeTimeout: 1_000 } };
  t.test('it allows', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, options);
    const peer = await open(t, sidecar.port);
    const check = await sidecar.nextCheck();
    await pause(100);
    t.equal(app.seen.count, 0);
    check.answer(passed);
    t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), GREETING);
  });
  t.test('it denies', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, options);
    const peer = await open(t, sidecar.port);
    (await sidecar.nextCheck()).answer({ kind: 'denied', why: 'I say so', answer: null } as never);
    t.equal(await peer.ended(), 'ECONNRESET');
    t.match(sidecar.lines.at(-1), { reason: 'no_first_byte', detail: /ext_authz_denied/ });
    t.equal(app.seen.count, 0);
  });
  t.test('the client speaks meanwhile: one check, and its answer counts', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, options);
    const peer = await open(t, sidecar.port);
    const check = await sidecar.nextCheck();
    peer.write('\0hello');
    await pause(20);
    t.equal(app.seen.count, 0);
    check.answer(passed);
    t.equal(await peer.until('the echo', (text) => text.endsWith('o')), `${GREETING}\0hello`);
  });
  t.test('TLS comes meanwhile: what was asked for plaintext is dropped', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, options);
    const peer = await open(t, sidecar.port);
    const check = await sidecar.nextCheck();
    peer.write(Buffer.of(0x16));
    await until('the check to be dropped', () => check.signal.aborted);
    check.answer(passed);
    await peer.ended();
    t.equal(app.seen.count, 0);
  });
  t.test('the client leaves meanwhile: noticed at once', async (t) => {
    const app = await mailApp(t);
    const limits = { ...options.limits, handshakeTimeout: 60_000 };
    const sidecar = await sidecarFor(t, app, {
      ...options,
      protocol: 'tcp',
      resources: mode('DISABLE'),
      limits,
    });
    const peer = await open(t, sidecar.port);
    peer.write('hello');
    const check = await sidecar.nextCheck();
    t.notOk(check.signal.aborted);
    peer.abort();
    await until('the check to be dropped', () => check.signal.aborted);
    const [line] = await sidecar.accessed();
    t.match(line, { response_flags: 'DC' });
  });
});

t.test('a half-close', async (t) => {
  t.test('before the app was reached: a health check', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app);
    const peer = await open(t, sidecar.port);
    peer.end();
    await peer.ended();
    t.match(sidecar.lines.at(-1), { reason: 'closed_unused' });
    t.equal(app.seen.count, 0);
  });
  t.test('after: neither TLS nor a request can come any more', async (t) => {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, { limits: LONG });
    const peer = await open(t, sidecar.port);
    await reached(app);
    peer.end();
    t.equal(await peer.ended(), 'end');
    t.equal(peer.text, `${GREETING}bye`);
  });
  t.test('of the app, behind its greeting', async (t) => {
    const app = await tcpApp(t, (socket) => socket.end('go away\r\n'));
    const sidecar = await sidecarFor(t, app);
    const peer = await open(t, sidecar.port);
    t.equal(await peer.ended(), 'end');
    t.equal(peer.text, 'go away\r\n');
  });
  t.test('of the app, without a word', async (t) => {
    const app = await tcpApp(t, (socket) => socket.end());
    const sidecar = await sidecarFor(t, app);
    const peer = await open(t, sidecar.port);
    t.equal(await peer.ended(), 'end');
  });
});

t.test('an app that resets what it greeted', async (t) => {
  const app = await tcpApp(t, (socket) => {
    socket.write(GREETING);
    setTimeout(() => socket.resetAndDestroy(), 50);
  });
  const sidecar = await sidecarFor(t, app, { limits: { serverFirstHold: 500 } });
  const peer = await open(t, sidecar.port);
  t.equal(await peer.ended(), 'ECONNRESET', 'no clean end');
  await until('the connection to be forgotten', () => sidecar.path.connections.size === 0);
  t.match((await sidecar.accessed()).at(-1), { response_flags: 'UC' });
});

t.test('an app that resets without a word: its client is not left waiting', async (t) => {
  const rows = [
    { title: 'in plaintext', inside: false },
    { title: 'inside TLS', inside: true },
  ];
  for (const { title, inside } of rows) {
    const app = await mailApp(t, '');
    const sidecar = await sidecarFor(t, app, { resources: mode(inside ? 'STRICT' : 'PERMISSIVE') });
    const peer = inside ? await openTls(t, sidecar.port, { leaf: web }) : await open(t, sidecar.port);
    await reached(app);
    app.all[0]?.resetAndDestroy();
    t.equal(await peer.ended(), 'ECONNRESET', title);
    t.match((await sidecar.accessed()).at(-1), { response_flags: 'UC', reason: 'upstream_closed' });
  }
});

t.test('an app that speaks HTTP unasked greets nobody', async (t) => {
  const rows = [
    { title: 'HTTP/2', greeting: Buffer.from('000000040000000000', 'hex') },
    { title: 'an answer to silence', greeting: 'HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n' },
  ];
  for (const { title, greeting } of rows) {
    for (const inside of [false, true]) {
      const app = await mailApp(t, greeting);
      const sidecar = await sidecarFor(t, app, {
        resources: mode(inside ? 'STRICT' : 'PERMISSIVE'),
        limits: { serverFirstHold: 50 },
        verify: () => ({ kind: 'refused', status: 401, message: 'no', challenge: null }),
      });
      const peer = inside ? await openTls(t, sidecar.port, { leaf: web }) : await open(t, sidecar.port);
      await reached(app);
      await pause(100);
      t.equal(peer.text, '', title);
      peer.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
      t.match(
        await peer.until('an answer', (text) => text.includes('\r\n\r\n')),
        /^HTTP\/1\.1 401 /,
        'it is judged',
      );
      t.equal(app.heard.text, '');
      peer.socket.destroy();
    }
  }
});

t.test('what an app says early is held within bounds', async (t) => {
  const size = 8 << 20;
  const app = await mailApp(t, Buffer.alloc(size, 'x'));
  const sidecar = await sidecarFor(t, app, { limits: { serverFirstHold: 2_500 } });
  const peer = await open(t, sidecar.port);
  await reached(app);
  await pause(200);
  t.ok((app.all[0]?.writableLength ?? 0) > 0, 'the app is held back');
  await peer.until('all of it', () => peer.received.length === size);
});

t.test('inside TLS without an ALPN that tells', async (t) => {
  for (const name of ['STRICT', 'PERMISSIVE']) {
    const app = await mailApp(t);
    const sidecar = await sidecarFor(t, app, { resources: mode(name) });
    const alpn = name === 'STRICT' ? {} : { ALPNProtocols: ['istio'] };
    const peer = await openTls(t, sidecar.port, { leaf: web, ...alpn });
    t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), GREETING, name);
    peer.tls.destroy();
  }
  t.test('neither speaks: both may, later', async (t) => {
    const app = await mailApp(t, '');
    const sidecar = await sidecarFor(t, app, {
      resources: mode('STRICT'),
      limits: { serverFirstHold: 20, handshakeTimeout: 600 },
    });
    const one = await openTls(t, sidecar.port, { leaf: web });
    const other = await openTls(t, sidecar.port, { leaf: web });
    await reached(app, 2);
    // The sweep of deadlines runs twice a second.
    await pause(1_300);
    app.all[0]?.write('at last');
    app.all[1]?.write('at last');
    await one.until('what it says', (text) => text === 'at last');
    await other.until('what it says', (text) => text === 'at last');
  });
  t.test('a request after long silence is judged', async (t) => {
    const app = await mailApp(t, '');
    const sidecar = await sidecarFor(t, app, {
      resources: mode('STRICT'),
      limits: { serverFirstHold: 20, handshakeTimeout: 600 },
      verify: () => ({ kind: 'refused', status: 401, message: 'no', challenge: null }),
    });
    const peer = await openTls(t, sidecar.port, { leaf: web });
    await reached(app);
    await pause(1_300);
    peer.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    t.match(await peer.until('an answer', (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 401 /);
    t.equal(app.heard.text, '');
  });
  t.test('nobody to speak to is told in time', async (t) => {
    const app = await mailApp(t);
    const sidecar = await inboundSidecar(t, 1, {
      protocol: 'auto',
      leaf: orders,
      resources: mode('STRICT'),
      limits: { serverFirstHold: 20, handshakeTimeout: 600 },
    });
    const peer = await openTls(t, sidecar.port, { leaf: web });
    t.equal(await peer.ended(), 'ECONNRESET');
    t.match(sidecar.lines.at(-1), { reason: 'app_unreachable' });
    t.equal(app.seen.count, 0);
  });
});

t.test('out of the app', async (t) => {
  const HOST = 'mail.example.com';
  async function egress(
    t: Test,
    upstream: App,
    options: SidecarOptions & { hosts?: string[]; address?: string } = {},
  ): Promise<InboundSidecar & { readonly egress: number }> {
    const sidecar = await inboundSidecar(t, upstream.port, {
      ...options,
      resources: `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mail, namespace: shop}
spec:
  hosts: [${HOST}]
  resolution: DNS
  ports: [{number: 25, name: any}]
  endpoints: [{address: ${options.address ?? '127.0.0.1'}, ports: {any: ${upstream.port}}}]
`,
    });
    const hosts = options.hosts ?? [HOST];
    const listener = new EgressRoutes({ bind: '', port: 25, protocol: 'auto', hosts });
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
      serveOutbound(sidecar.path, listener, socket),
    );
    const { port } = await listen(t, server);
    return { ...sidecar, egress: port };
  }

  t.test('an upstream that greets', async (t) => {
    const app = await mailApp(t);
    const { egress: port, accessed } = await egress(t, app);
    const peer = await open(t, port);
    t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), GREETING);
    peer.write('EHLO x\r\n');
    await peer.until('its answer', (text) => text.endsWith('EHLO x\r\n'));
    peer.end();
    t.equal(await peer.ended(), 'end');
    const [line] = await accessed();
    t.match(line, { upstream_cluster: `outbound|25||${HOST}`, bytes_sent: 27 });
  });
  t.test('an HTTP client that opens long before it asks', async (t) => {
    const app = await mailApp(t, '');
    const { egress: port } = await egress(t, app, { limits: { serverFirstHold: 20, handshakeTimeout: 600 } });
    const peer = await open(t, port);
    await reached(app);
    await pause(1_300);
    peer.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    await until('the request', () => app.heard.text.includes('x-request-id'));
    t.match(app.heard.text, /^GET \/ HTTP\/1\.1\r\n/, 'read as a request');
    await until('the connection that was for TCP to be gone', () => app.all[0]?.destroyed === true);
  });
  t.test('a client that speaks at once opens nothing it does not need', async (t) => {
    const app = await mailApp(t);
    const { egress: port } = await egress(t, app);
    const peer = await open(t, port);
    peer.write('\0');
    await peer.until('both', (text) => text === `${GREETING}\0`);
    await pause(150);
    t.equal(app.seen.count, 1);
  });
  t.test('an upstream that resets without a word, sooner or later', async (t) => {
    const app = await mailApp(t, '');
    const limits = { serverFirstHold: 20, handshakeTimeout: 600 };
    const { egress: port, lines } = await egress(t, app, { limits });
    const soon = await open(t, port);
    await reached(app);
    app.all[0]?.resetAndDestroy();
    t.equal(await soon.ended(), 'ECONNRESET');
    t.match(lines.at(-1), { reason: 'upstream_closed' });
    const later = await open(t, port);
    await reached(app, 2);
    // The sweep of deadlines runs twice a second: the client's time to speak is over.
    await pause(1_300);
    app.all[1]?.resetAndDestroy();
    t.equal(await later.ended(), 'ECONNRESET');
  });
  t.test('nobody there is told in time', async (t) => {
    const app = await mailApp(t);
    const { egress: port, lines } = await egress(
      t,
      { ...app, port: 1 },
      {
        limits: { serverFirstHold: 20, handshakeTimeout: 600 },
      },
    );
    const peer = await open(t, port);
    t.equal(await peer.ended(), 'ECONNRESET');
    t.match(lines.at(-1), { reason: 'connect_failed' });
  });
  t.test('with several hosts nobody can be chosen', async (t) => {
    const app = await mailApp(t);
    const { egress: port, lines } = await egress(t, app, {
      hosts: [HOST, 'other.example.com'],
      limits: { serverFirstHold: 20, handshakeTimeout: 600 },
    });
    const peer = await open(t, port);
    t.equal(await peer.ended(), 'ECONNRESET');
    t.match(lines.at(-1), { reason: 'no_route' });
    t.equal(app.seen.count, 0);
  });
  t.test('a client that leaves while somebody is reached for', async (t) => {
    const names = { version: 0, known: () => null, resolve: () => {} };
    const app = await mailApp(t);
    const { egress: port, path } = await egress(t, app, { names, address: 'slow.example.com' });
    const peer = await open(t, port);
    peer.write('\0');
    await until('it to be taken up', () => path.connections.size === 1);
    peer.abort();
    await within('it to be gone', once(peer.socket, 'close'));
    await until('it to be forgotten', () => path.connections.size === 0);
  });
});
