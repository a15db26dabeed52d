/** SMTP and MySQL greet before their clients say a word: through the pair and past it, on ports nobody declared. */
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t, { type Test } from 'tap';
import { type App, tcpApp } from './harness/apps.ts';
import { hasTool, open, Peer, run } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { egress, hostOf, ingress, type PortYaml, service, sidecar, workload } from './harness/resources.ts';
import { peerAuthentication, policy } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

/** RFC 5321 §3.1, §4.1.1: a greeting, and an answer to each line; DATA ends at a lone dot. */
const SMTP_GREETING = '220 mail.example ESMTP\r\n';
const mails: string[] = [];
function smtp(socket: Socket): void {
  let heard = '';
  let mail: string | null = null;
  socket.write(SMTP_GREETING);
  socket.on('data', (chunk: Buffer) => {
    heard += chunk.toString('latin1');
    for (let end = heard.indexOf('\r\n'); end >= 0; end = heard.indexOf('\r\n')) {
      const line = heard.slice(0, end);
      heard = heard.slice(end + 2);
      if (mail !== null && line !== '.') mail += `${line}\n`;
      else if (mail !== null) {
        mails.push(mail);
        mail = null;
        socket.write('250 kept\r\n');
      } else if (line === 'DATA') {
        mail = '';
        socket.write('354 go on\r\n');
      } else if (line === 'QUIT') socket.end('221 bye\r\n');
      else socket.write('250 fine\r\n');
    }
  });
  socket.on('end', () => socket.end());
}

/**
 * MySQL's Protocol::HandshakeV10 of a server: length (3 bytes) and sequence of the packet, version 10, the server's
 * version, a connection id, eight bytes of scramble, filler, capabilities.
 */
const MYSQL_GREETING = Buffer.concat([
  Buffer.of(29, 0, 0, 0, 10),
  Buffer.from('8.4.0-fake\0', 'latin1'),
  Buffer.of(8, 0, 0, 0),
  Buffer.from('scramble\0', 'latin1'),
  Buffer.of(0x0f, 0xa2, 0x21, 0x02),
]);
/** A client's Protocol::HandshakeResponse41, cut to what tells it apart. */
const MYSQL_LOGIN = Buffer.of(4, 0, 0, 1, 0x85, 0xa6, 0x3f, 0x20);
/** OK_Packet. */
const MYSQL_OK = Buffer.of(7, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0);
function mysql(socket: Socket): void {
  socket.write(MYSQL_GREETING);
  socket.on('data', (chunk: Buffer) => {
    if (chunk.equals(MYSQL_LOGIN)) socket.write(MYSQL_OK);
    else socket.destroy();
  });
  socket.on('end', () => socket.end());
}

const apps: Readonly<Record<'mail' | 'sql', App>> = {
  mail: await tcpApp(t, smtp),
  sql: await tcpApp(t, mysql),
};
const names = ['mail', 'sql', 'mailIn', 'sqlIn', 'patientIn'] as const;
const free = await freePorts(names.length);
const port = Object.fromEntries(names.map((name, i) => [name, free[i] ?? 0])) as Record<
  (typeof names)[number],
  number
>;

/** The ports' names tell nothing of their protocols. */
const at = (name: 'mail' | 'sql', number: number): PortYaml => ({ name, number });
const mesh = await Mesh.create(
  t,
  [
    service('mail', [at('mail', port.mail)], null, 'orders'),
    service('sql', [at('sql', port.sql)], null, 'orders'),
    workload('orders', { mail: port.mailIn, sql: port.sqlIn }),
    workload('patient'),
    workload('web'),
    sidecar('web', {
      egress: [egress(at('mail', port.mail), hostOf('mail')), egress(at('sql', port.sql), hostOf('sql'))],
    }),
    sidecar('orders', {
      ingress: [
        ingress(at('mail', port.mailIn), apps.mail.port),
        ingress(at('sql', port.sqlIn), apps.sql.port),
      ],
    }),
    sidecar('patient', { ingress: [ingress(at('mail', port.patientIn), apps.mail.port)] }),
    peerAuthentication('PERMISSIVE'),
  ].join('---\n'),
);
const [web, orders] = await Promise.all([
  mesh.sidecar('web'),
  mesh.sidecar('orders', '--handshake-timeout', '1s'),
  // Whoever wins there, wins before the hold is over.
  mesh.sidecar('patient', '--server-first-hold', '10s'),
]);
const leaf = await mesh.ca.leaf(spiffe('shop', 'web'));
const PEER = 'spiffe://cluster.local/ns/shop/sa/web';

const latin1 = (bytes: Buffer): string => bytes.toString('latin1');
const MYSQL_WHOLE = latin1(MYSQL_GREETING) + latin1(MYSQL_OK);

/** Says nothing until it is greeted, then takes its part; to the end. */
async function talk(t: Test, at: number, what: 'mail' | 'sql'): Promise<Peer> {
  const peer = await open(t, at);
  const greeting = what === 'mail' ? SMTP_GREETING : latin1(MYSQL_GREETING);
  t.equal(await peer.until('the greeting', (text) => text.length >= greeting.length), greeting);
  if (what === 'mail') {
    peer.write('EHLO x\r\n');
    await peer.until('its answer', (text) => text.endsWith('250 fine\r\n'));
    peer.write('QUIT\r\n');
    t.equal(await peer.ended(), 'end');
    peer.end();
  } else {
    peer.write(MYSQL_LOGIN);
    await peer.until('the OK', (text) => text === MYSQL_WHOLE);
    peer.end();
    t.equal(await peer.ended(), 'end');
  }
  return peer;
}

for (const what of ['mail', 'sql'] as const) {
  t.test(`${what} through the pair, over mTLS`, async (t) => {
    const marks = [orders.mark, web.mark];
    const before = apps[what].seen.count;
    const peer = await talk(t, port[what], what);
    t.equal(apps[what].seen.count, before + 1, 'the app saw one connection');
    for (const [i, sidecar] of [orders, web].entries()) {
      const line = await sidecar.accessed({ direction: i === 0 ? 'inbound' : 'outbound' }, marks[i]);
      t.match(line, {
        response_flags: '-',
        method: null,
        bytes_sent: peer.received.length,
        // Istio's word for what the caller's side reports.
        connection_security_policy: i === 0 ? 'mutual_tls' : 'unknown',
      });
      if (i === 0) t.equal(line.source_principal, PEER);
    }
  });
  t.test(`${what} in plaintext, past the caller's sidecar`, async (t) => {
    const { mark } = orders;
    const began = performance.now();
    await talk(t, port[`${what}In`], what);
    // The accept may be seen a moment before the client sees it.
    t.ok(performance.now() - began >= 90, 'held back for those who speak TLS');
    t.match(await orders.accessed({}, mark), {
      response_flags: '-',
      connection_security_policy: 'none',
      source_principal: null,
    });
  });
}

t.test('a real SMTP client', { skip: hasTool('curl') ? false : 'there is no curl here' }, async (t) => {
  for (const at of [port.mail, port.mailIn]) {
    const flags = ['-sS', '--mail-from', 'a@shop', '--mail-rcpt', 'b@shop', '-T', '-'];
    const { status, output } = await run('curl', [...flags, `smtp://127.0.0.1:${at}`], `to ${at}\r\n`);
    t.equal(status, 0, output);
    t.match(mails.pop(), `to ${at}\n`);
  }
});

t.test('a ClientHello within the hold wins, though the app has spoken', async (t) => {
  const before = apps.mail.seen.count;
  const peer = await open(t, port.patientIn);
  await until('the app to be reached', () => apps.mail.seen.count > before);
  peer.socket.removeAllListeners('data');
  // Were a byte of the greeting sent in the clear, this handshake would fail.
  const tls = connectTls({
    socket: peer.socket,
    cert: leaf.cert,
    key: leaf.key,
    ALPNProtocols: ['istio'],
    rejectUnauthorized: false,
  });
  t.teardown(() => tls.destroy());
  const inside = new Peer(tls as Socket);
  t.equal(await inside.until('the greeting', (text) => text.endsWith('\n')), SMTP_GREETING);
  inside.write('EHLO x\r\n');
  await inside.until('its answer', (text) => text.endsWith('250 fine\r\n'));
  await until('the connection that was for plaintext to be gone', () => apps.mail.sockets.size === 1);
});

t.test('where policy denies plaintext, nobody is dialled for it, and peers are served', async (t) => {
  const rows = [
    { title: 'DENY', yaml: policy('p', '[{from: [{source: {notPrincipals: ["*"]}}]}]', 'DENY') },
    { title: 'ALLOW', yaml: policy('p', '[{from: [{source: {principals: ["*/sa/web"]}}]}]') },
  ];
  for (const { title, yaml } of rows) {
    await mesh.change('policy.yaml', yaml, [orders]);
    const { mark } = orders;
    const before = apps.mail.seen.count;
    const silent = await open(t, port.mailIn);
    t.equal(await silent.ended(), 'ECONNRESET', title);
    t.equal(silent.text, '', `${title}: no greeting`);
    t.match(await orders.logged({ reason: 'no_first_byte' }, mark), { detail: /policy_denied/ });
    const hasty = await open(t, port.mailIn);
    hasty.write('EHLO x\r\n');
    t.equal(await hasty.ended(), 'ECONNRESET', title);
    await orders.logged({ reason: 'policy_denied' }, mark);
    t.equal(apps.mail.seen.count, before, `${title}: the app was not dialled`);
    await talk(t, port.mail, 'mail');
    const direct = await openTls(t, port.mailIn, { leaf, ALPNProtocols: ['istio'] });
    t.equal(await direct.until('the greeting', (text) => text.endsWith('\n')), SMTP_GREETING);
    direct.tls.destroy();
  }
  t.test('and a caller whom it denies is not dialled for either', async (t) => {
    await mesh.change(
      'policy.yaml',
      policy('p', '[{from: [{source: {principals: ["*/sa/web"]}}]}]', 'DENY'),
      [orders],
    );
    const { mark } = orders;
    const before = apps.mail.seen.count;
    const peer = await open(t, port.mail);
    t.equal(await peer.ended(), 'ECONNRESET');
    t.equal(peer.text, '');
    t.match(await orders.logged({ reason: 'policy_denied' }, mark), { policy: 'shop/p' });
    t.equal(apps.mail.seen.count, before);
  });
});

t.test('nothing is left', async (t) => {
  for (const sidecar of [orders, web]) await sidecar.metricIs('oarlock_connections_open', {}, 0);
  await until('the apps to be left alone', () => apps.mail.sockets.size + apps.sql.sockets.size === 0);
  for (const { process } of [orders, web]) t.same(process.stderr.matching({ level: 'error' }), []);
});
