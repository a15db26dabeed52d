/** What `/certs` is made from: states, times as ISO texts, peers of several threads as one. */
import t from 'tap';
import type { Credentials } from '../../mesh/credentials.ts';
import { identityOf } from '../../mesh/identity.ts';
import { type CertsSources, certsView, type PeerCertificate } from '../../telemetry/certs-view.ts';
import { makeCertificate } from '../ca-client/helper.ts';

const NOW = Date.parse('2026-05-01T12:00:00Z');
const root = await makeCertificate({ ca: true, subject: 'O=td' });
const other = await makeCertificate({ ca: true, subject: 'O=partner' });
const leaf = await makeCertificate({ uris: ['spiffe://td/ns/shop/sa/web'], issuer: root });

const credentials: Credentials = {
  identity: identityOf('td', 'shop', 'web'),
  chainPem: leaf.pem,
  keyPem: leaf.keyPem,
  rootsPem: [root.pem],
  federated: [],
  notBefore: NOW - 1_000,
  notAfter: NOW + 10_500,
  serial: '01',
  origin: 'files /certs',
  clockSkewMs: null,
};

const empty: CertsSources = {
  credentials: null,
  bundles: [],
  fetched: [],
  crl: null,
  rotation: null,
  peers: [],
};

const peer: PeerCertificate = {
  identity: 'spiffe://td/ns/shop/sa/orders',
  serial: '0a',
  issuer: 'O=td',
  root: 'O=td',
  notAfter: NOW + 60_000,
  direction: 'inbound',
  connections: 1,
};

t.test('nothing yet', async (t) => {
  t.same(certsView(empty, NOW), {
    state: 'none',
    identity: null,
    origin: null,
    secondsLeft: null,
    chain: [],
    roots: [],
    trust: [],
    fetched: [],
    crl: null,
    rotation: null,
    peers: [],
  });
});

t.test('our own, and the roots of each trust domain', async (t) => {
  const bundles = [
    { trustDomain: 'td', rootsPem: [root.pem] },
    { trustDomain: 'partner', rootsPem: [other.pem, root.pem] },
    { trustDomain: 'silent', rootsPem: [] },
  ];
  const view = certsView({ ...empty, credentials, bundles }, NOW);
  t.match(view, {
    state: 'valid',
    secondsLeft: 10,
    identity: 'spiffe://td/ns/shop/sa/web',
    chain: [{ issuer: 'O=td' }],
  });
  t.same(
    view.trust.map(({ trustDomain, roots }) => [trustDomain, roots.map(({ subject }) => subject)]),
    [
      ['td', ['O=td']],
      ['partner', ['O=partner', 'O=td']],
      ['silent', []],
    ],
  );
  t.notMatch(JSON.stringify(view), /PRIVATE/);
  t.notOk(JSON.stringify(view).includes(leaf.keyPem.split('\n')[1] ?? 'missing'));
});

t.test('renewal, in ISO times', async (t) => {
  const { rotation } = certsView(
    {
      ...empty,
      rotation: {
        source: 'ca x:1',
        phase: 'failing',
        waitingFor: 'the CA',
        rotations: 2,
        lastSuccess: NOW - 5_000,
        failures: 3,
        lastError: 'down',
        nextAttempt: NOW + 1_000,
        clockSkewMs: -45_678,
        alarms: [{ kind: 'clock_skew', message: 'far apart', since: NOW - 1_000 }],
      },
    },
    NOW,
  );
  t.same(rotation, {
    source: 'ca x:1',
    phase: 'failing',
    waitingFor: 'the CA',
    rotations: 2,
    lastSuccess: '2026-05-01T11:59:55.000Z',
    failures: 3,
    lastError: 'down',
    nextAttempt: '2026-05-01T12:00:01.000Z',
    clockSkewSeconds: -45.7,
    alarms: [{ kind: 'clock_skew', message: 'far apart', since: '2026-05-01T11:59:59.000Z' }],
  });
});

t.test('peers of several threads, the next to expire first', async (t) => {
  const later = { ...peer, serial: '0b', notAfter: NOW + 120_000, connections: 5 };
  const outbound: PeerCertificate = { ...peer, direction: 'outbound', notAfter: NOW - 1_000 };
  const { peers } = certsView({ ...empty, peers: [later, peer, { ...peer, connections: 3 }, outbound] }, NOW);
  t.same(
    peers.map(({ serial, direction, connections, notAfter, secondsLeft }) => [
      serial,
      direction,
      connections,
      notAfter,
      secondsLeft,
    ]),
    [
      ['0a', 'outbound', 1, '2026-05-01T11:59:59.000Z', -1],
      ['0a', 'inbound', 4, '2026-05-01T12:01:00.000Z', 60],
      ['0b', 'inbound', 5, '2026-05-01T12:02:00.000Z', 120],
    ],
  );
});
