/** Servers that fail our handshakes: each leaves a record, a count and a sentence; who only hangs up is not said to refuse. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer as createTcp, type Socket } from 'node:net';
import { join } from 'node:path';
import { createServer as createTls, type TLSSocket } from 'node:tls';
import t, { type Test } from 'tap';
import { type DialTarget, dial, type Upstream, UpstreamBroken, type UpstreamUser } from '../../proxy/dial.ts';
import { listen } from '../e2e/harness/apps.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { type Leaf, spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { runEnvoy } from '../interop/envoy-sidecar.ts';
import { credentialsOf } from './inbound-sidecar.ts';
import { partsOf, serverOf } from './tls-ends.ts';
import { type Scene, target, webPath } from './web-path.ts';

t.setTimeout(60_000);

const ca = await TestCa.create('O=ours');
const others = await TestCa.create('O=theirs');
const ours = await ca.leaf(spiffe('shop', 'web'));
/** Knows us not, and we know it. */
const foreigner: Leaf = {
  ...(await ca.leaf(spiffe('shop', 'orders'), { dns: ['orders.example'] })),
  ca: others.rootPem,
};
const UNKNOWN_CA = 'the peer refused our certificate: unknown ca; ours is issued by O=ours';
const HUNG_UP =
  'the peer hung up behind the handshake without a word: it may be that it refuses our certificate, ours is issued by O=ours';

/** What became of a connection: its first error, `ended`, or why there was none. */
interface Outcome {
  readonly said: string;
  readonly error: Error | null;
}

/** Dials, says a word, and reads until the end. */
function use({ path }: Scene, target: DialTarget, word: string | null = 'hello'): Promise<Outcome> {
  return within(
    'the end of the connection',
    new Promise((resolve) => {
      let heard = '';
      const over = (upstream: Upstream, error: Error | null): void => {
        upstream.stream.destroy();
        resolve({ said: heard, error });
      };
      const user: UpstreamUser = {
        upstreamData: (_upstream, chunk) => {
          heard += chunk.toString();
        },
        upstreamEnd: (upstream) => over(upstream, null),
        upstreamClosed: over,
        upstreamDrain: () => {},
      };
      dial(path, target, {
        connected: (upstream) => {
          upstream.use(user);
          upstream.stream.resume();
          if (word !== null) upstream.stream.write(word);
        },
        failed: (reason, detail) => resolve({ said: '', error: new UpstreamBroken(reason, detail, false) }),
      });
    }),
  );
}

function record({ path }: Scene) {
  const { failures, total } = path.flights.list();
  return { total, rows: failures.map(({ direction, reason, detail }) => ({ direction, reason, detail })) };
}

/** OpenSSL's own server, which sends its alert. @returns its port */
async function sServer(t: Test, { cert, key, ca }: Leaf, ...flags: string[]): Promise<number> {
  const dir = tempDir(t);
  const [port = 0] = await freePorts(1);
  for (const [name, text] of Object.entries({ cert, key, ca })) writeFileSync(join(dir, name), text);
  const named = ['cert', 'key'].flatMap((name) => [`-${name}`, join(dir, name)]);
  const verify = ['-CAfile', join(dir, 'ca'), '-Verify', '3', '-verify_return_error'];
  const args = ['s_server', '-accept', `127.0.0.1:${port}`, ...named, ...verify, ...flags];
  const child = spawn('openssl', args, { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => child.kill('SIGKILL'));
  let said = '';
  child.stdout.on('data', (text: Buffer) => {
    said += text.toString();
  });
  await until('s_server', () => said.includes('ACCEPT'));
  return port;
}

t.test('OpenSSL that refuses our certificate says so by an alert, and we tell', async (t) => {
  const port = await sServer(t, foreigner);
  for (const mode of ['ISTIO_MUTUAL', 'MUTUAL'] as const) {
    const web = webPath(t, ours);
    Object.assign(web.files, { cert: ours.cert, key: ours.key });
    const { error } = await use(web, target(port, mode), null);
    t.ok(error instanceof UpstreamBroken, mode);
    t.match(error, { reason: 'tls_handshake_failed', message: UNKNOWN_CA });
    t.same(record(web), {
      total: 1,
      rows: [{ direction: 'outbound', reason: 'tls_handshake_failed', detail: UNKNOWN_CA }],
    });
    t.equal(web.path.metrics.handshakes.outbound.failed, 1);
    t.match(web.path.flights.list().failures[0]?.openssl, /^ERR_SSL_TLSV1_ALERT_UNKNOWN_CA /);
  }
});

t.test(
  'what is written at once may meet a closed socket before the alert is read: told as well',
  async (t) => {
    const web = webPath(t, ours);
    await use(web, target(await sServer(t, foreigner), 'ISTIO_MUTUAL'), 'hello');
    const { total, rows } = record(web);
    t.equal(total, 1);
    t.ok([UNKNOWN_CA, HUNG_UP].includes(rows[0]?.detail ?? ''), rows[0]?.detail ?? 'none');
  },
);

t.test('SIMPLE with a server that wants a certificate', async (t) => {
  const web = webPath(t, ours);
  const { error } = await use(web, target(await sServer(t, foreigner), 'SIMPLE'), null);
  const detail = 'the peer asks for a certificate of ours, and none was shown: certificate required';
  t.match(error, { reason: 'tls_handshake_failed', message: detail });
  t.match(record(web), { total: 1, rows: [{ detail }] });
});

t.test('by TLS 1.2 the alert is a part of the handshake', async (t) => {
  const web = webPath(t, ours);
  Object.assign(web.files, { cert: ours.cert, key: ours.key });
  const { error } = await use(web, target(await sServer(t, foreigner, '-tls1_2'), 'MUTUAL'));
  t.match(error, { reason: 'tls_handshake_failed', message: new RegExp(`: ${UNKNOWN_CA}$`) });
  t.match(record(web), { total: 1, rows: [{ detail: UNKNOWN_CA }] });
  t.equal(web.path.metrics.handshakes.outbound.failed, 1);
});

t.test(
  'Envoy',
  { skip: process.env.OARLOCK_ENVOY === undefined && 'OARLOCK_ENVOY is not set' },
  async (t) => {
    const [port = 0] = await freePorts(1);
    const inline = (text: string) => ({ inline_string: text });
    const type = 'type.googleapis.com/envoy.extensions';
    const config = {
      static_resources: {
        listeners: [
          {
            name: 'in',
            address: { socket_address: { address: '127.0.0.1', port_value: port } },
            filter_chains: [
              {
                transport_socket: {
                  name: 'tls',
                  typed_config: {
                    '@type': `${type}.transport_sockets.tls.v3.DownstreamTlsContext`,
                    require_client_certificate: true,
                    common_tls_context: {
                      tls_certificates: [
                        { certificate_chain: inline(foreigner.cert), private_key: inline(foreigner.key) },
                      ],
                      validation_context: { trusted_ca: inline(others.rootPem) },
                    },
                  },
                },
                filters: [
                  { name: 'echo', typed_config: { '@type': `${type}.filters.network.echo.v3.Echo` } },
                ],
              },
            ],
          },
        ],
      },
    };
    const binary = process.env.OARLOCK_ENVOY ?? '';
    await runEnvoy(t, { binary, dir: tempDir(t), config, ports: [port] });
    const web = webPath(t, ours);
    const { error } = await use(web, target(port, 'ISTIO_MUTUAL', { expectedIdentities: [] }), null);
    t.match(error, { reason: 'tls_handshake_failed', message: UNKNOWN_CA });
    t.match(record(web), { total: 1, rows: [{ reason: 'tls_handshake_failed', detail: UNKNOWN_CA }] });
  },
);

t.test('a sidecar of ours only hangs up: it may be that it refuses us, and it may not', async (t) => {
  const theirs = credentialsOf({ ...foreigner, ca: ca.rootPem });
  const inbound = serverOf(partsOf({ ...theirs, rootsPem: [others.rootPem] }));
  const server = createTcp({ pauseOnConnect: true }, (socket: Socket) => {
    socket.on('error', () => {});
    inbound.terminate(socket, ['istio'], false, {
      terminated: () => t.fail('it was let in'),
      refused: () => socket.resetAndDestroy(),
    });
  });
  const { port } = await listen(t, server);
  const web = webPath(t, ours);
  const { error } = await use(web, target(port, 'ISTIO_MUTUAL'));
  t.notOk(error instanceof UpstreamBroken, 'the connection was closed, whatever for');
  t.same(record(web), {
    total: 1,
    rows: [{ direction: 'outbound', reason: 'tls_handshake_failed', detail: HUNG_UP }],
  });
  t.equal(web.path.metrics.handshakes.outbound.failed, 0, 'nothing is proven');
});

/** A server that lets us in, and does so then. */
async function admitting(t: Test, then: (socket: TLSSocket) => void): Promise<DialTarget> {
  const { cert, key } = foreigner;
  const options = { cert, key, ca: ca.rootPem, requestCert: true, ALPNProtocols: ['istio'] };
  const server = createTls(options, (socket) => {
    socket.on('error', () => {});
    then(socket);
  });
  return target((await listen(t, server)).port, 'ISTIO_MUTUAL');
}

t.test('who lets us in and ends is not said to refuse us', async (t) => {
  const rows: readonly (readonly [string, (socket: TLSSocket) => void, string | null])[] = [
    ['closes at once', (socket) => socket.resume().end(), 'hello'],
    ['closes at once, and nothing was asked', (socket) => socket.resume().end(), null],
    ['answers and closes', (socket) => socket.end('bye'), 'hello'],
    ['answers, and is cut', (socket) => socket.write('bye', () => socket.destroy()), 'hello'],
  ];
  for (const [title, then, word] of rows) {
    const web = webPath(t, ours);
    await use(web, await admitting(t, then), word);
    t.same(record(web), { total: 0, rows: [] }, title);
  }
  const web = webPath(t, ours);
  const cut = async (socket: TLSSocket): Promise<void> => {
    await once(socket.resume(), 'end');
    socket.destroy();
  };
  const ended = await admitting(t, (socket) => void cut(socket));
  await new Promise<void>((resolve) => {
    dial(web.path, ended, {
      connected: ({ stream }) => {
        stream.on('error', () => {});
        stream.on('close', resolve).resume();
        stream.end();
      },
      failed: (reason) => t.fail(reason),
    });
  });
  t.same(record(web), { total: 0, rows: [] }, 'it was we who left');
});

t.test('what fails outside the mesh is kept and counted as well', async (t) => {
  const names = { dns: ['orders.example'] };
  const old = await ca.leaf(null, { ...names, from: -7_200_000, to: -3_600_000 });
  const wrong = await ca.leaf(null, { dns: ['other.example'] });
  const strange = await others.leaf(null, names);
  const revoked = await ca.leaf(null, names);
  const rows: readonly (readonly [string, Leaf, RegExp])[] = [
    ['expired', old, /^CERT_HAS_EXPIRED \(presented DNS:orders\.example, issued by O=ours, valid \d/],
    ['identity_mismatch', wrong, /^expected orders\.example, got DNS:other\.example$/],
    [
      'untrusted_issuer',
      strange,
      /^UNABLE_TO_VERIFY_LEAF_SIGNATURE \(presented DNS:orders\.example, issued by O=theirs/,
    ],
    ['revoked', revoked, /^CERT_REVOKED \(presented DNS:orders\.example/],
  ];
  for (const [reason, { cert, key }, detail] of rows) {
    const { port } = await listen(
      t,
      createTls({ cert, key }, (socket) => socket.on('error', () => {})),
    );
    const web = webPath(t, ours);
    web.files.crl = reason === 'revoked' ? await ca.crl([revoked]) : null;
    const { error } = await use(web, target(port, 'SIMPLE'));
    t.match(error, { reason }, reason);
    t.match(record(web), { total: 1, rows: [{ direction: 'outbound', reason, detail }] });
    t.match(web.path.flights.list().failures[0], {
      port,
      sni: 'orders.example',
      expectedIdentities: ['orders.example'],
      chain: [{ names: [/^DNS:/] }],
    });
    t.match(web.path.metrics.handshakes.outbound, { full: 0, failed: 1 });
  }
});

t.test('a server outside the mesh that speaks no TLS, or leaves', async (t) => {
  const plain = await listen(
    t,
    createTcp((socket) => socket.end('220 hello\r\n')),
  );
  const web = webPath(t, ours);
  t.match((await use(web, target(plain.port, 'SIMPLE'))).error, { reason: 'tls_handshake_failed' });
  t.match(record(web), { total: 1, rows: [{ detail: /WRONG_VERSION_NUMBER/ }] });
  t.equal(web.path.metrics.handshakes.outbound.failed, 1);
});

t.test('files that are no good begin no handshake', async (t) => {
  const web = webPath(t, ours);
  web.files.crl = 'no list';
  const { port } = await listen(
    t,
    createTcp((socket) => socket.on('error', () => {})),
  );
  t.match((await use(web, target(port, 'SIMPLE'))).error, { reason: 'bad_tls_files' });
  t.equal(record(web).total, 0);
});

t.test('one that passes is counted', async (t) => {
  const { cert, key } = foreigner;
  const { port } = await listen(
    t,
    createTls({ cert, key }, (socket) => socket.end('bye')),
  );
  const web = webPath(t, ours);
  t.match(await use(web, target(port, 'SIMPLE')), { said: 'bye', error: null });
  t.match(web.path.metrics.handshakes.outbound, { full: 1, failed: 0 });
  await until('nothing else', () => record(web).total === 0);
});
