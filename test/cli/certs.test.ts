/** `oarlock certs` and `oarlock handshakes`: tables and JSON, of a sidecar's admin port and of files; exit statuses. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Credentials } from '../../mesh/credentials.ts';
import { identityOf } from '../../mesh/identity.ts';
import { type CertsSources, certsView } from '../../telemetry/certs-view.ts';
import { FlightRecorder, type HandshakeFailure } from '../../telemetry/flight-recorder.ts';
import { startServers } from '../../telemetry/servers.ts';
import { makeCertificate } from '../ca-client/helper.ts';
import { folder, oarlock } from './helper.ts';

t.setTimeout(240_000);

const WEB = 'spiffe://cluster.local/ns/shop/sa/web';
const DAY = 86_400;
/** Shown as whole days for as long, s: a busy machine may come to the last command a minute after the first. */
const SPARE = 3_000;
const root = await makeCertificate({ ca: true, subject: 'O=cluster.local', until: 10 * DAY + SPARE });
const leaf = await makeCertificate({ uris: [WEB], issuer: root, until: 2 * DAY + SPARE });
const stranger = await makeCertificate({ uris: ['spiffe://cluster.local/ns/evil/sa/evil'] });

const credentials: Credentials = {
  identity: identityOf('cluster.local', 'shop', 'web'),
  chainPem: leaf.pem,
  keyPem: leaf.keyPem,
  rootsPem: [root.pem],
  federated: [],
  notBefore: Date.now() - 60_000,
  notAfter: Date.now() + (2 * DAY + SPARE) * 1_000,
  serial: '01',
  origin: 'ca 127.0.0.1:15012',
  clockSkewMs: null,
};

const rotation: NonNullable<CertsSources['rotation']> = {
  source: 'ca 127.0.0.1:15012',
  phase: 'valid',
  waitingFor: null,
  rotations: 3,
  lastSuccess: Date.now() - 60_000,
  failures: 0,
  lastError: null,
  nextAttempt: Date.now() + (DAY + SPARE) * 1_000,
  clockSkewMs: -1_500,
  alarms: [],
};

const sources: CertsSources = {
  credentials,
  bundles: [{ trustDomain: 'cluster.local', rootsPem: [root.pem] }],
  fetched: [
    {
      url: 'https://trust.example/bundle',
      roots: 1,
      sequence: 4,
      fetchedAt: Date.now() - 240_000,
      nextFetch: Date.now() + 60_000,
      failures: 0,
      lastError: null,
    },
  ],
  crl: {
    file: 'crl.pem',
    lists: [{ issuer: 'O=cluster.local', entries: 2, nextUpdate: null, stale: false }],
    error: null,
  },
  rotation,
  peers: [
    {
      identity: 'spiffe://cluster.local/ns/shop/sa/orders',
      serial: 'aa',
      issuer: 'O=cluster.local',
      root: 'O=cluster.local',
      notAfter: Date.now() + 2 * DAY * 1_000,
      direction: 'inbound',
      connections: 2,
    },
  ],
};

/** A sidecar's admin port that answers this. */
async function admin(t: Test, more: Partial<CertsSources>, recorder = new FlightRecorder()): Promise<string> {
  const nothing = async () => ({ contentType: 'text/plain', text: '' });
  const servers = await startServers(
    { health: null, metrics: null, admin: { host: '127.0.0.1', port: 0 } },
    {
      readiness: () => ({ ready: true, waitingFor: [], warnings: [] }),
      metrics: nothing,
      certs: async () => certsView({ ...sources, ...more }, Date.now()),
      handshakes: async () => recorder.list(),
      snapshot: () => ({}),
      probes: null,
      drain: () => {},
      quit: () => {},
      failed: (error) => t.fail(String(error)),
    },
  );
  t.teardown(() => servers.close());
  return String(servers.ports.admin);
}

t.test('a sidecar in good order', async (t) => {
  const port = await admin(t, {});
  const { code, stdout, stderr } = await oarlock(['certs', '--admin-port', port]);
  t.equal(stderr, '');
  t.equal(code, 0);
  for (const line of [
    /^ {2}identity +spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web$/m,
    /^ {2}state +valid for 2d, until 20\d\d-\S+Z$/m,
    /^ {2}source +ca 127\.0\.0\.1:15012$/m,
    /^ {2}rotation +valid; 3 so far, next attempt in 1d$/m,
    /^ {2}clock +1\.5 s behind the issuer's$/m,
    /^ {2}bundle +https:\/\/trust\.example\/bundle: 1 roots, fetched 4m( \d+s)? ago$/m,
    /^ {2}revocation +crl\.pem: 1 list, 2 revoked$/m,
    /^ {2}leaf +spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web +2d +[0-9a-f]+ +O=cluster\.local$/m,
    /^ {2}root +O=cluster\.local +10d +[0-9a-f]+ +O=cluster\.local$/m,
    /^ {2}cluster\.local +O=cluster\.local +10d +[0-9a-f]+$/m,
    /^ {2}spiffe:\/\/cluster\.local\/ns\/shop\/sa\/orders +inbound +2 +1d 23h +aa +O=cluster\.local$/m,
  ]) {
    t.match(stdout, line);
  }
  const json = await oarlock(['certs', '--admin', `127.0.0.1:${port}`, '-o', 'json']);
  t.equal(json.code, 0);
  const view = JSON.parse(json.stdout) as Record<string, unknown>;
  t.match(view, {
    state: 'valid',
    identity: WEB,
    chain: [{ issuer: 'O=cluster.local' }],
    trust: [{ trustDomain: 'cluster.local', roots: [{ subject: 'O=cluster.local' }] }],
    rotation: { phase: 'valid', rotations: 3, clockSkewSeconds: -1.5, alarms: [], nextAttempt: /Z$/ },
    peers: [{ serial: 'aa', connections: 2, notAfter: /Z$/ }],
  });
  const key = leaf.keyPem.split('\n')[1] ?? 'missing';
  for (const text of [stdout, json.stdout]) t.notOk(text.includes(key.slice(0, 24)), 'no key');
});

t.test('what needs a look is exit 1, and told', async (t) => {
  const since = Date.now() - 5_000;
  const cases: readonly (readonly [string, Partial<CertsSources>, RegExp])[] = [
    [
      'no set yet',
      { credentials: null, rotation: { ...rotation, phase: 'waiting', waitingFor: 'the CA' } },
      /waiting: the CA/,
    ],
    [
      'expired',
      { credentials: { ...credentials, notBefore: 0, notAfter: Date.now() - 61_000 } },
      /^ {2}state +expired/m,
    ],
    [
      'an alarm',
      {
        rotation: {
          ...rotation,
          failures: 4,
          lastError: 'no answer',
          alarms: [{ kind: 'renewal_failing', message: 'the CA is down', since }],
        },
      },
      /failing +4 in a row, last: no answer\n {2}clock.*\n {2}ALARM +renewal_failing: the CA is down/,
    ],
    [
      'a bundle that cannot be fetched',
      {
        fetched: (sources.fetched ?? []).map((one) => ({ ...one, failures: 2, lastError: 'answered 503' })),
      },
      /1 roots, fetched 4m.* ago; failing 2 in a row: answered 503$/m,
    ],
    [
      'a list that should have been renewed, and is in force',
      {
        crl: {
          file: 'crl.pem',
          lists: [{ issuer: 'CN=ca', entries: 1, nextUpdate: '2026-01-01T00:00:00.000Z', stale: true }],
          error: 'revocation lists: that of CN=ca should have been renewed; it stays in force',
        },
      },
      /revocation +crl\.pem: 1 list, 1 revoked; 1 stale\n {2}problem +revocation lists: that of CN=ca should have been renewed; it stays in force$/m,
    ],
  ];
  for (const [name, more, expected] of cases) {
    const { code, stdout } = await oarlock(['certs', '--admin-port', await admin(t, more)]);
    t.equal(code, 1, name);
    t.match(stdout, expected, name);
  }
});

t.test('text of strangers does not reach the terminal as it is', async (t) => {
  const peers = (sources.peers ?? []).map((peer) => ({ ...peer, issuer: 'x', root: 'O=\u001b[2Jevil\r\n' }));
  const { stdout } = await oarlock(['certs', '--admin-port', await admin(t, { peers })]);
  t.ok(stdout.includes('O=\\u{1b}[2Jevil\\u{d}\\n'), stdout);
});

t.test('files, without a sidecar', async (t) => {
  const dir = folder(t, { 'cert-chain.pem': leaf.pem, 'key.pem': leaf.keyPem, 'root-cert.pem': root.pem });
  const good = await oarlock(['certs', '--cert-dir', dir]);
  t.equal(good.code, 0, good.stderr);
  t.match(
    good.stdout,
    /^ {2}cert-chain\.pem +spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web +2d +[0-9a-f]+ +O=cluster\.local$/m,
  );
  t.match(good.stdout, /^good$/m);
  const json = await oarlock(['certs', '--cert-dir', dir, '-o', 'json']);
  t.match(JSON.parse(json.stdout), {
    files: [{ file: 'cert-chain.pem' }, { file: 'root-cert.pem' }],
    problem: null,
  });
  t.notMatch(good.stdout + json.stdout, /PRIVATE/);

  const beside = {
    'junk.pem': '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
    'note.crt': 'no certificate',
  };
  for (const [name, text] of Object.entries(beside)) writeFileSync(join(dir, name), text);
  mkdirSync(join(dir, 'folder.pem'));
  symlinkSync(join(dir, 'nowhere'), join(dir, 'dangling.crt'));
  const beset = await oarlock(['certs', '--cert-dir', dir]);
  t.equal(beset.code, 0, 'what run does not look at is no matter');
  t.equal(beset.stdout, good.stdout);

  writeFileSync(join(dir, 'key.pem'), stranger.keyPem);
  const mixed = await oarlock(['certs', '--cert-dir', dir]);
  t.equal(mixed.code, 1);
  t.match(mixed.stdout, /^not good: .*private key is not the certificate's/m);

  const old = await makeCertificate({ uris: [WEB], issuer: root, from: -7_200, until: -3_600 });
  writeFileSync(join(dir, 'old.pem'), old.pem);
  const expired = await oarlock(['certs', '--file', join(dir, 'old.pem')]);
  t.equal(expired.code, 1);
  t.match(expired.stdout, /EXPIRED 1h ago/);
  t.equal((await oarlock(['certs', '--file', join(dir, 'root-cert.pem')])).code, 0);
});

const failure: HandshakeFailure = {
  at: Date.now() - 61_000,
  direction: 'inbound',
  port: 15_008,
  remote: '10.0.0.7:40000',
  reason: 'untrusted_issuer',
  detail: 'no root of ours',
  openssl: 'SELF_SIGNED_CERT_IN_CHAIN',
  sni: 'orders',
  alpn: ['istio'],
  firstBytes: 'TLS',
  chain: [stranger.der],
  expectedIdentities: [],
};

t.test('handshakes that failed', async (t) => {
  const recorder = new FlightRecorder();
  const at = Date.now() - 61_000;
  for (let port = 1; port <= 3; port++) recorder.record({ ...failure, at, remote: `10.0.0.7:${port}` });
  recorder.record({
    ...failure,
    at: Date.now() - 2_000,
    direction: 'outbound',
    reason: 'identity_mismatch',
    detail: '',
    expectedIdentities: [WEB],
    firstBytes: null,
  });
  const port = await admin(t, {}, recorder);
  const { code, stdout } = await oarlock(['handshakes', '--admin-port', port]);
  t.equal(code, 0);
  t.match(stdout, /^4 of 4 failed handshakes, newest first\n/);
  t.match(
    stdout,
    /^ {2}\ds +1 +outbound +10\.0\.0\.7:40000 +15008 +identity_mismatch +spiffe:\/\/cluster\.local\/ns\/evil\/sa\/evil$/m,
  );
  t.match(
    stdout,
    /^ {2}1m \d+s +3 +inbound +10\.0\.0\.7:3 +15008 +untrusted_issuer +spiffe:/m,
    'the same three times',
  );
  t.match(stdout, /^ {6}expected: spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web$/m);
  t.match(stdout, /^ {6}do: both sidecars must share a root/m);

  const json = async (...args: string[]) => {
    const ran = await oarlock(['handshakes', '--admin-port', port, '-o', 'json', ...args]);
    return JSON.parse(ran.stdout) as { total: number; failures: { reason: string; hint: string }[] };
  };
  t.match(await json('--limit', '2'), {
    total: 4,
    failures: [{ reason: 'identity_mismatch', hint: /wrong endpoint/ }, { reason: 'untrusted_issuer' }],
  });
  t.equal((await json('--limit', '2')).failures.length, 2);
  t.equal((await json('--reason', 'untrusted_issuer')).failures.length, 3);
  t.match(
    (await oarlock(['handshakes', '--admin-port', port, '--reason', 'revoked'])).stdout,
    /^None of those kept; 4 failed/,
  );
  t.match(
    (await oarlock(['handshakes', '--admin-port', await admin(t, {})])).stdout,
    /^No handshake has failed\.$/m,
  );
});

t.test('bad usage, and nobody there: exit 2 and one line', async (t) => {
  const web = createServer((request, answer) =>
    answer.end(request.url === '/handshakes' ? '{"failures":5}' : '<html>'),
  );
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
  t.teardown(() => web.close());
  const other = String((web.address() as AddressInfo).port);
  const empty = folder(t);
  mkdirSync(join(empty, 'sub.pem'));
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    // Port 1 is nobody's.
    [
      ['certs', '--admin-port', '1'],
      /^oarlock: no sidecar answers on 127\.0\.0\.1:1 .*ECONNREFUSED.*--admin-port\?$/,
    ],
    [['handshakes', '--admin', '[::1]:1'], /^oarlock: no sidecar answers on \[::1\]:1 /],
    [
      ['certs', '--admin-port', other],
      /not as a sidecar of this version does: is it a sidecar's admin port\?$/,
    ],
    [['handshakes', '--admin-port', other], /not as a sidecar of this version does/],
    [['certs', '--admin', '10.0.0.1:15000'], /must be an address of this machine/],
    [['certs', '--admin-port', '0'], /must be a port number/],
    [['handshakes', '--reason', 'nonsense'], /must be a reason/],
    [['handshakes', '--limit', '0'], /must be a whole number above 0/],
    [['certs', '--cert-dir', 'a', '--file', 'b'], /exclude each other/],
    [['certs', '--cert-dir', join(empty, 'nowhere')], /ENOENT/],
    [['certs', '--file', join(empty, 'nowhere.pem')], /ENOENT/],
    [['certs', '--file', join(empty, 'sub.pem')], /no regular file/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await oarlock(args);
    t.equal(code, 2, args.join(' '));
    t.equal(stdout, '', args.join(' '));
    t.match(stderr.trimEnd(), message, args.join(' '));
    t.equal(stderr.trimEnd().split('\n').length, 1, args.join(' '));
  }
});
