/** A CA that is down, slow, silent, confused or hostile while certificates of seconds must be renewed: no request fails. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type EmbeddedCa, openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { loadX509 } from '../../ca-client/x509.ts';
import { identityOf } from '../../mesh/identity.ts';
import { type Misbehaviour, makeCertificate, scriptedCa } from '../ca-client/helper.ts';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { Traffic } from './harness/traffic.ts';
import { pause, until } from './harness/wait.ts';

t.setTimeout(180_000);

/** Renewed at half: a busy machine has ten seconds for all that goes wrong. */
const TTL_MS = 24_000;
const UNAVAILABLE = 14;
const UNAUTHENTICATED = 16;

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
const dir = join(mesh.dir, 'ca');
const ca = await openEmbeddedCa({ dir, trustDomain: null });
/** The same by a clock that is ahead by more than it backdates: what it issues begins in two to three seconds, well before
 * the set it is to follow ends. */
const early = await openEmbeddedCa({ dir, trustDomain: null, now: () => Date.now() + 63_000 });
const stranger = await makeCertificate({ ca: true });

type Call = Parameters<Misbehaviour>[0];
/** What to answer; a number is a gRPC status, `silence` no answer at all. */
type Answer = readonly string[] | number | 'silence';

const chainFor = async (
  csr: string,
  account: string,
  issuer: EmbeddedCa = ca,
): Promise<readonly string[]> => [
  (await issuer.issueForRequest(csr, identityOf('cluster.local', 'shop', account), TTL_MS)).certificatePem,
  ca.rootPem,
];

/** Each fault, and what the log must say of it. */
const faults: Record<string, { says: RegExp; answer: (csr: string, account: string) => Promise<Answer> }> = {
  down: { says: /UNAVAILABLE/, answer: async () => UNAVAILABLE },
  '401': { says: /UNAUTHENTICATED.*token/, answer: async () => UNAUTHENTICATED },
  garbage: { says: /no PEM certificate/, answer: async () => ['garbage'] },
  'another identity': {
    says: /is for spiffe:\/\/cluster.local\/ns\/shop\/sa\/payments/,
    answer: (csr) => chainFor(csr, 'payments'),
  },
  expired: {
    says: /expired at/,
    answer: async (csr, account) => {
      const { X509Certificate } = await loadX509();
      const [good = ''] = await chainFor(csr, account);
      const publicKey = await new X509Certificate(good).publicKey.export();
      const { uri } = identityOf('cluster.local', 'shop', account);
      const keys = { publicKey, privateKey: stranger.keys.privateKey };
      const { pem } = await makeCertificate({ uris: [uri], issuer: stranger, keys, from: -600, until: -5 });
      return [pem, stranger.pem];
    },
  },
  'a key not ours': {
    says: /private key is not the certificate's/,
    answer: async (_csr, account) => {
      const issued = await ca.issueWithKey(identityOf('cluster.local', 'shop', account), TTL_MS);
      return [issued.certificatePem, ca.rootPem];
    },
  },
  slow: {
    says: /new credentials are in force/,
    answer: async (csr, account) => {
      await pause(1_500);
      return chainFor(csr, account);
    },
  },
  'ahead of us': {
    says: /new credentials are in force/,
    answer: (csr, account) => chainFor(csr, account, early),
  },
  'hangs mid-answer': { says: /gave no answer within/, answer: async () => 'silence' },
};

/** What each sidecar's next requests will meet, by account. */
const ahead: Record<string, string[]> = { web: [], orders: [] };

/** The token is the account's name. */
const accountOf = ({ metadata }: Call): string =>
  String(metadata.get('authorization')[0]).replace(/^Bearer /, '');

const address = await scriptedCa(t, ca, (call, callback) => {
  const { csr } = call.request;
  const account = accountOf(call);
  const fault = faults[ahead[account]?.shift() ?? ''];
  const answer = fault === undefined ? chainFor(csr, account) : fault.answer(csr, account);
  answer.then((what) => {
    if (typeof what === 'number') callback({ code: what, details: 'so it was scripted' });
    else if (what !== 'silence') callback(null, { certChain: [...what] });
  });
});

async function begin(name: string): Promise<Sidecar> {
  const dir = join(mesh.dir, `ca-${name}`);
  mkdirSync(dir);
  const [root, token] = [join(dir, 'root.pem'), join(dir, 'token')];
  writeFileSync(root, ca.rootPem);
  writeFileSync(token, name);
  const flags = ['--ca-address', address, '--ca-root', root, '--token', token, '--access-log', 'off'];
  return ready(start(t, mesh.flags(`shop/${name}`, ...flags)));
}

const [web, orders] = await Promise.all([begin('web'), begin('orders')]);
const sidecars = { web, orders };
const kept = new Traffic(t, ports.http);
const fresh = new Traffic(t, ports.http, { kept: false });
await Promise.all([kept.goesOn(), fresh.goesOn()]);

interface Certs {
  readonly state: string;
  readonly chain: readonly { readonly notBefore: string }[];
  readonly rotation: {
    phase: string;
    waitingFor: string | null;
    lastError: string | null;
    alarms: { kind: string; message: string }[];
  };
}

const certs = async (sidecar: Sidecar): Promise<Certs> => (await sidecar.admin('/certs')) as unknown as Certs;

/** Has both sidecars meet these at their next renewal, one after the other, and see them through. */
async function meet(
  t: Test,
  names: readonly string[],
  during: (sidecar: Sidecar) => Promise<void>,
): Promise<void> {
  await Promise.all(
    Object.entries(sidecars).map(async ([account, sidecar]) => {
      const { mark } = sidecar;
      ahead[account] = [...names];
      await during(sidecar);
      for (const name of names) {
        const line = await sidecar.logged({ msg: faults[name]?.says }, mark);
        t.ok(line, `${account}: ${name}: ${line.msg}`);
      }
      await sidecar.logged({ msg: /new credentials are in force/ }, mark);
      t.equal(ahead[account]?.length, 0, 'it met them all');
    }),
  );
}

t.test(
  'a CA that is down, refuses the token, answers what cannot be used, and is slow in the end',
  async (t) => {
    await meet(
      t,
      ['down', '401', 'garbage', 'another identity', 'expired', 'a key not ours', 'slow'],
      async (sidecar) => {
        const failing = await until('the renewal to fail', async () => {
          const view = await certs(sidecar);
          return view.rotation.alarms.some(({ kind }) => kind === 'set_refused') ? view : null;
        });
        t.match(failing, { state: 'valid', rotation: { phase: 'failing', lastError: /^CA 127/ } });
        const { status, body } = await sidecar.health();
        t.equal(status, 200, 'ready all the same');
        t.match(JSON.stringify(body.warnings), /its answer is refused.*the set before stays in force/);
        t.equal(await sidecar.metric('oarlock_credentials_alarms', { kind: 'set_refused' }), 1);
      },
    );
    for (const sidecar of [web, orders]) {
      await until('the alarm to be over', async () => (await certs(sidecar)).rotation.alarms.length === 0);
      t.match((await certs(sidecar)).rotation, { phase: 'valid', lastError: null });
      t.match(await sidecar.health(), { status: 200, body: { ready: true } });
      t.equal(await sidecar.metric('oarlock_credentials_alarms', { kind: 'set_refused' }), 0);
      t.equal(sidecar.process.stderr.matching({ alarm: 'set_refused', msg: /^CA / }).length, 1, 'told once');
      t.equal(sidecar.process.stderr.matching({ alarm: 'set_refused', msg: /^over: / }).length, 1);
    }
  },
);

t.test(
  'one that hangs mid-answer, then gives what begins in a moment: it is held, and the old serves',
  async (t) => {
    await meet(t, ['hangs mid-answer', 'ahead of us'], async (sidecar) => {
      const held = await until('a set to be held', async () => {
        const view = await certs(sidecar);
        return view.rotation.phase === 'held' ? view : null;
      });
      t.equal(held.state, 'valid');
      t.match(held.rotation.waitingFor, /^certificate [0-9a-f]+ of ca 127.*, not valid before 20/);
      t.equal((await sidecar.health()).status, 200);
    });
    for (const sidecar of [web, orders]) {
      const view = await until('all to be well', async () => {
        const now = await certs(sidecar);
        return now.rotation.phase === 'valid' ? now : null;
      });
      const begins = Date.parse(view.chain[0]?.notBefore ?? '');
      t.ok(Date.now() - begins < 20_000, `${Date.now() - begins} ms old: the one that was held`);
    }
  },
);

t.test('nobody noticed', async (t) => {
  for (const traffic of [kept, fresh]) {
    await traffic.goesOn();
    await traffic.stop();
    t.same(traffic.failures, []);
    t.ok(traffic.served > 100, `${traffic.served} requests served`);
  }
  for (const sidecar of [web, orders]) {
    t.notMatch(sidecar.process.stderr.text, /PRIVATE KEY/);
    t.equal((await sidecar.metric('oarlock_certificate_expiry_seconds')) > Date.now() / 1000, true);
  }
});
