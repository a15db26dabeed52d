/** The flight recorder: what it keeps under a flood, what it shows of garbage, and that it is bounded. */
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import {
  FlightRecorder,
  flightLimits,
  type HandshakeFailure,
  handshakesView,
  mergeFlightLogs,
} from '../../telemetry/flight-recorder.ts';
import { present } from '../../telemetry/present.ts';

function failure(overrides: Partial<HandshakeFailure> = {}): HandshakeFailure {
  return {
    at: 1_700_000_000_000,
    direction: 'inbound',
    port: 15_008,
    remote: '10.0.0.7:40000',
    reason: 'untrusted_issuer',
    detail: 'no root of ours',
    openssl: 'SELF_SIGNED_CERT_IN_CHAIN',
    sni: 'outbound_.80_._.orders',
    alpn: ['istio', 'h2'],
    firstBytes: 'TLS',
    chain: [],
    expectedIdentities: [],
    ...overrides,
  };
}

/** One self-signed certificate. */
function certificate(dir: string, san: string, subject = '/O=shop/CN=orders'): Buffer {
  const file = join(dir, 'cert.pem');
  const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const made = ['-keyout', join(dir, 'key.pem'), '-out', file, '-days', '1', '-set_serial', '0x0abc'];
  execFileSync('openssl', [...words, ...made, '-subj', subject, '-addext', `subjectAltName=${san}`], {
    stdio: 'ignore',
  });
  return new X509Certificate(readFileSync(file)).raw;
}

t.test('newest first, with time and what to do', (t) => {
  const recorder = new FlightRecorder();
  recorder.record(failure());
  recorder.record(failure({ at: 1_700_000_001_000, reason: 'expired', direction: 'outbound' }));
  const { total, failures } = handshakesView(recorder.list());
  t.equal(total, 2);
  t.match(failures, [
    { time: '2023-11-14T22:13:21.000Z', reason: 'expired', direction: 'outbound', hint: /renewal/ },
    { time: '2023-11-14T22:13:20.000Z', reason: 'untrusted_issuer', remote: '10.0.0.7:40000', hint: /root/ },
  ]);
  t.notOk('at' in (failures[0] ?? {}));
  t.end();
});

t.test('a chain is shown by its subjects, names, validity', (t) => {
  const der = certificate(
    t.testdir(),
    'URI:spiffe://td/ns/shop/sa/orders,DNS:orders.shop,IP:10.0.0.7',
    '/O=shop/CN=orders\\, with a comma',
  );
  const recorder = new FlightRecorder();
  recorder.record(failure({ chain: [der, Buffer.from('garbage'), Buffer.alloc(0), der.subarray(0, 100)] }));
  const chain = recorder.list().failures[0]?.chain ?? [];
  t.match(chain[0], {
    subject: /O=shop, CN=orders.*comma/,
    names: ['URI:spiffe://td/ns/shop/sa/orders', 'DNS:orders.shop', 'IP:10.0.0.7'],
    serial: '0abc',
    notAfter: /^20\d\d-.*Z$/,
    fingerprint256: new X509Certificate(der).fingerprint256.replaceAll(':', '').toLowerCase(),
  });
  t.equal(chain.length, 4);
  for (const one of chain.slice(1))
    t.match(one, { subject: /^unreadable: \d+ bytes/, names: [], serial: '' });
  t.end();
});

t.test('whatever the bytes, they are shown', (t) => {
  const der = certificate(t.testdir(), 'URI:spiffe://td/ns/shop/sa/orders,DNS:orders.shop');
  let seed = 7;
  const random = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  let readable = 0;
  for (let round = 0; round < 2_000; round++) {
    const bytes = Buffer.from(der);
    for (let i = 0; i <= random(4); i++) bytes[random(bytes.length)] = random(256);
    const [one] = present([random(10) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes]);
    if (one === undefined) return t.fail('nothing');
    if (!one.subject.startsWith('unreadable')) readable++;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they must not be there
    if (/[\u0000-\u001f\u007f-\u009f]/.test(Object.values(one).join()))
      t.fail(`round ${round}: ${one.subject}`);
  }
  t.ok(readable > 100 && readable < 1_900, `${readable} could be read`);
  t.end();
});

t.test('names that try to look like others stay one name each', (t) => {
  const dir = t.testdir({
    'ext.cnf':
      '[req]\ndistinguished_name=dn\nx509_extensions=v3\n[dn]\n[v3]\nsubjectAltName=@alt\n[alt]\n' +
      'URI.1=spiffe://td/ns/a/sa/a\\, URI:spiffe://td/ns/admin/sa/admin\nDNS.1=x"y\n',
  });
  execFileSync(
    'openssl',
    `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ${dir}/key.pem -out ${dir}/cert.pem -days 1 -subj /CN=x -config ${dir}/ext.cnf`.split(
      ' ',
    ),
    { stdio: 'ignore' },
  );
  const [shown] = present([new X509Certificate(readFileSync(`${dir}/cert.pem`)).raw]);
  t.equal(shown?.names.length, 2);
  t.notOk(shown?.names.includes('URI:spiffe://td/ns/admin/sa/admin'));
  t.end();
});

t.test('a flood of one peer pushes out its own records only', (t) => {
  const recorder = new FlightRecorder();
  recorder.record(failure({ remote: '10.0.0.1:1', reason: 'expired' }));
  for (let i = 0; i < 10_000; i++) recorder.record(failure({ remote: `10.0.0.66:${i + 1}` }));
  recorder.record(failure({ remote: '10.0.0.2:1', reason: 'revoked' }));
  for (let i = 0; i < 10_000; i++) recorder.record(failure({ remote: `10.0.0.66:${i + 1}` }));
  const { failures, total } = recorder.list();
  t.equal(failures.length, flightLimits.records);
  t.equal(total, 20_002);
  t.ok(failures.some(({ remote }) => remote === '10.0.0.1:1'));
  t.ok(failures.some(({ remote }) => remote === '10.0.0.2:1'));
  t.equal(failures[0]?.remote, '10.0.0.66:10000', 'the newest is there');
  t.end();
});

t.test('addresses of one IPv6 network are one peer', (t) => {
  const recorder = new FlightRecorder();
  recorder.record(failure({ remote: '[fd00:1:2:3::1]:1' }));
  for (let i = 1; i < 1_000; i++)
    recorder.record(failure({ remote: `[fd00:a:b:c:${i.toString(16)}::9]:443` }));
  t.equal(recorder.list().failures.at(-1)?.remote, '[fd00:1:2:3::1]:1');
  t.end();
});

t.test('many peers alike: the oldest goes', (t) => {
  const recorder = new FlightRecorder();
  for (let i = 0; i < 150; i++) recorder.record(failure({ remote: `10.0.${i}.1:5` }));
  const { failures } = recorder.list();
  t.equal(failures.length, 100);
  t.equal(failures[0]?.remote, '10.0.149.1:5');
  t.equal(failures.at(-1)?.remote, '10.0.50.1:5');
  t.end();
});

t.test('what strangers choose is cut and made visible', (t) => {
  const recorder = new FlightRecorder();
  recorder.record(
    failure({
      sni: `\u001b[31mred\r\n\u202eevil\\n${'x'.repeat(100_000)}`,
      alpn: Array.from({ length: 500 }, (_, i) => `p${i}\u0000${'y'.repeat(1_000)}`),
      detail: 'd'.repeat(100_000),
      openssl: 'o'.repeat(100_000),
      expectedIdentities: Array.from({ length: 500 }, (_, i) => `spiffe://td/ns/a/sa/${i}`),
      chain: Array.from({ length: 100 }, () => Buffer.alloc(5_000)),
    }),
  );
  const text = JSON.stringify(recorder.list());
  // Each of 20 protocols and 20 identities, and the four texts, within their bounds.
  t.ok(text.length < 20_000, `${text.length} characters`);
  const [one] = recorder.list().failures;
  t.ok(one?.sni?.startsWith('\\u{1b}[31mred\\u{d}\\n\\u{202e}evil\\n'), one?.sni ?? '');
  t.ok(one?.detail.endsWith('d…'));
  t.equal(one?.alpn.length, 20);
  t.equal(one?.chain.length, 3, '16 KiB of certificates');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they must not be there
  t.notMatch(text, /[\u0000-\u001f\u007f-\u009f\u202e]/);
  t.end();
});

t.test('it keeps a copy of a certificate, not the buffer it came in', (t) => {
  const der = certificate(t.testdir(), 'URI:spiffe://td/ns/shop/sa/orders');
  const large = Buffer.alloc(1_000_000);
  large.set(der, 10);
  const recorder = new FlightRecorder();
  recorder.record(failure({ chain: [large.subarray(10, 10 + der.length)] }));
  large.fill(0);
  t.match(recorder.list().failures[0]?.chain[0]?.names, ['URI:spiffe://td/ns/shop/sa/orders']);
  t.end();
});

t.test('the logs of several threads are one, by time and as fair', (t) => {
  const quiet = new FlightRecorder();
  const flooded = new FlightRecorder();
  quiet.record(failure({ at: 1_000, remote: '10.0.0.1:1' }));
  for (let i = 0; i < 200; i++) flooded.record(failure({ at: 2_000 + i, remote: '10.0.0.66:1' }));
  quiet.record(failure({ at: 9_000, remote: '10.0.0.1:2' }));
  const { failures, total } = mergeFlightLogs([quiet.list(), flooded.list()]);
  t.equal(total, 202);
  t.equal(failures.length, 100);
  t.equal(failures[0]?.remote, '10.0.0.1:2');
  t.equal(failures.at(-1)?.remote, '10.0.0.1:1');
  const times = failures.map(({ time }) => time);
  t.same(times, times.toSorted().reverse());
  t.same(mergeFlightLogs([]), { failures: [], total: 0 });
  t.end();
});
