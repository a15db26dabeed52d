/** What the CA answers is believed only if it fits: key, identity, chain, times. */
import { generateKeyPairSync } from 'node:crypto';
import t from 'tap';
import { checkCredentials } from '../../ca-client/check.ts';
import type { EmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { identityOf } from '../../mesh/identity.ts';
import {
  clientOf,
  embeddedCa,
  fileWith,
  type Misbehaviour,
  makeCertificate,
  orders,
  scene,
} from './helper.ts';

const HOUR = 3_600_000;
const never = new AbortController().signal;

/** Answers with the certificates that `make` gives for the CSR. */
function answering(make: (csr: string) => Promise<readonly string[]>): Misbehaviour {
  return (call, callback) => {
    make(call.request.csr).then(
      (certChain) => callback(null, { certChain }),
      (error: Error) => callback({ code: 13, details: error.message }),
    );
  };
}

t.test('an answer that fits becomes credentials', async (t) => {
  let seen: Parameters<Misbehaviour>[0] | null = null;
  const world = await scene(t, (ca) => (call, callback) => {
    seen = call;
    const issued = ca.issueForRequest(call.request.csr, orders, HOUR);
    issued.then(({ certificatePem }) => callback(null, { certChain: [certificatePem, ca.rootPem] }));
  });
  const other = await embeddedCa(t);
  const caRootFile = fileWith(t, `# old root\n${other.rootPem}\n# new root\n${world.ca.rootPem}`);
  const credentials = await clientOf(world, { clusterId: 'Kubernetes', caRootFile, ttlMs: 90_000 }).obtain(
    never,
  );
  const origin = `ca ${world.address}`;
  t.match(credentials, {
    identity: { uri: orders.uri, serviceAccount: 'orders' },
    origin,
    serial: /^[0-9a-f]{32}$/,
  });
  t.ok(Math.abs(credentials.notAfter - Date.now() - HOUR) < 10_000);
  t.same(new Set(credentials.rootsPem), new Set([world.ca.rootPem, other.rootPem]), 'both roots are trusted');
  t.equal(credentials.chainPem.match(/BEGIN/g)?.length, 1, 'the root is no part of the chain');
  const call = seen as Parameters<Misbehaviour>[0] | null;
  t.same(call?.metadata.get('authorization'), ['Bearer a.b.c']);
  t.same(call?.metadata.get('ClusterID'), ['Kubernetes']);
  t.equal(call?.request.validityDuration, 90);
});

t.test("roots that only vouch for the CA's own certificate vouch for no workload", async (t) => {
  const mesh = await makeCertificate({ ca: true });
  const world = await scene(t, (ca) =>
    answering(async (csr) => {
      const { certificatePem } = await ca.issueForRequest(csr, orders, HOUR);
      return [await resigned(certificatePem, mesh), mesh.pem];
    }),
  );
  t.same((await clientOf(world).obtain(never)).rootsPem, [mesh.pem]);
  const caRootFile = fileWith(t, world.ca.rootPem + mesh.pem);
  const both = await clientOf(world, { caRootFile }).obtain(never);
  t.same(new Set(both.rootsPem), new Set([mesh.pem, world.ca.rootPem]), "the file is the mesh's own");
});

t.test('an intermediate and several roots, in one element each or joined', async (t) => {
  const root = await makeCertificate({ ca: true });
  const old = await makeCertificate({ ca: true });
  const middle = await makeCertificate({ ca: true, issuer: root, until: 600 });
  for (const join of [false, true]) {
    const world = await scene(t, (ca) =>
      answering(async (csr) => {
        const { certificatePem } = await ca.issueForRequest(csr, orders, HOUR);
        const leaf = await resigned(certificatePem, middle);
        const all = [leaf, middle.pem, old.pem, root.pem];
        return join ? [all.join('')] : all;
      }),
    );
    const credentials = await clientOf(world).obtain(never);
    t.equal(credentials.chainPem.match(/BEGIN/g)?.length, 2);
    t.equal(credentials.rootsPem.length, 2);
    t.ok(credentials.notAfter < Date.now() + 601_000, 'ends with the shortest of the chain');
  }
});

t.test('answers that do not fit are refused', async (t) => {
  const stranger = await makeCertificate({ ca: true });
  const rows: readonly (readonly [
    string,
    RegExp,
    (ca: EmbeddedCa, csr: string) => Promise<readonly string[]>,
  ])[] = [
    ['nothing', /no PEM certificate/, async () => []],
    ['garbage', /no PEM certificate/, async () => ['garbage']],
    [
      'garbage between the marks',
      /cannot be read/,
      async () => [
        '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----',
        '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----',
      ],
    ],
    ['half a certificate', /besides whole PEM|no PEM/, async (ca) => [ca.rootPem, ca.rootPem.slice(0, 300)]],
    [
      'another identity',
      /is for spiffe:\/\/cluster.local\/ns\/shop\/sa\/payments, but this workload is/,
      async (ca, csr) => [
        (await ca.issueForRequest(csr, identityOf('cluster.local', 'shop', 'payments'), HOUR)).certificatePem,
        ca.rootPem,
      ],
    ],
    [
      'another trust domain',
      /is for spiffe:\/\/td2/,
      async (ca, csr) => [
        (await ca.issueForRequest(csr, identityOf('td2', 'shop', 'orders'), HOUR)).certificatePem,
        ca.rootPem,
      ],
    ],
    [
      'a key not ours',
      /private key is not the certificate's/,
      async (ca) => [(await ca.issueWithKey(orders, HOUR)).certificatePem, ca.rootPem],
    ],
    [
      'an expired one',
      /expired at .*clock/,
      async (ca, csr) => [
        await resigned((await ca.issueForRequest(csr, orders, HOUR)).certificatePem, stranger, {
          from: -600,
          until: -5,
        }),
        stranger.pem,
      ],
    ],
    [
      'one not yet valid',
      /not valid before .*clocks/,
      async (ca, csr) => [
        await resigned((await ca.issueForRequest(csr, orders, HOUR)).certificatePem, stranger, {
          from: 90,
        }),
        stranger.pem,
      ],
    ],
    [
      'two URIs',
      /carries 2 URIs/,
      async (ca, csr) => [
        await resigned((await ca.issueForRequest(csr, orders, HOUR)).certificatePem, stranger, {
          uris: [orders.uri, 'https://x/'],
        }),
        stranger.pem,
      ],
    ],
    [
      'no URI',
      /carries 0 URIs/,
      async (ca, csr) => [
        await resigned((await ca.issueForRequest(csr, orders, HOUR)).certificatePem, stranger, {
          uris: [],
          dns: ['a'],
        }),
        stranger.pem,
      ],
    ],
    [
      'a CA',
      /is a CA's/,
      async (ca, csr) => [
        await resigned((await ca.issueForRequest(csr, orders, HOUR)).certificatePem, stranger, {
          ca: true,
        }),
        stranger.pem,
      ],
    ],
    [
      "another's root",
      /does not lead to any of the roots/,
      async (ca, csr) => [(await ca.issueForRequest(csr, orders, HOUR)).certificatePem, stranger.pem],
    ],
    [
      'no root',
      /does not end in a root/,
      async (ca, csr) => [(await ca.issueForRequest(csr, orders, HOUR)).certificatePem],
    ],
    ['only the root', /the chain is empty/, async (ca) => [ca.rootPem]],
    [
      'a stranger in between',
      /is not signed by the certificate after it/,
      async (ca, csr) => [
        (await ca.issueForRequest(csr, orders, HOUR)).certificatePem,
        (await makeCertificate({ ca: true, issuer: stranger })).pem,
        ca.rootPem,
      ],
    ],
    [
      'a chain too long',
      /longer than 10/,
      async (ca, csr) => {
        const { certificatePem } = await ca.issueForRequest(csr, orders, HOUR);
        return [...new Array(12).fill(certificatePem), ca.rootPem];
      },
    ],
  ];
  for (const [title, words, make] of rows) {
    const world = await scene(t, (ca) => answering((csr) => make(ca, csr)));
    await t.rejects(clientOf(world).obtain(never), { name: 'CredentialsError', message: words }, title);
    await t.rejects(clientOf(world).obtain(never), {
      message: new RegExp(`^CA ${world.address}: its answer is refused`),
    });
  }
});

t.test('intermediates among the roots', async (t) => {
  const root = await makeCertificate({ ca: true, subject: 'CN=root' });
  const upper = await makeCertificate({ ca: true, issuer: root, subject: 'CN=upper' });
  const lower = await makeCertificate({ ca: true, issuer: upper, subject: 'CN=lower' });
  const crossSigned = await makeCertificate({ ca: true, issuer: upper, subject: 'CN=root', keys: root.keys });
  const leaf = await makeCertificate({ uris: [orders.uri], issuer: lower });
  const whole = [leaf.pem, lower.pem, upper.pem];
  const rows: readonly (readonly [
    string,
    readonly string[],
    readonly string[],
    readonly string[] | RegExp,
  ])[] = [
    ['none', whole, [root.pem], whole],
    ['all', [leaf.pem], [lower.pem, upper.pem, root.pem], whole],
    ['in both places', whole, [upper.pem, lower.pem, root.pem], whole],
    ['some', [leaf.pem, lower.pem], [root.pem, upper.pem], whole],
    ['the root signed by another as well', whole, [crossSigned.pem, root.pem], whole],
    // X509-SVID §6.1: what a bundle lists SHOULD be self-signed; Envoy and ztunnel take it so as well
    ['and no root', whole, [upper.pem], [leaf.pem, lower.pem]],
    ['in a circle', whole, [upper.pem, crossSigned.pem], whole],
    ['a gap', [leaf.pem], [upper.pem, root.pem], /does not lead to any of the roots/],
  ];
  for (const [title, chain, roots, wanted] of rows) {
    const offered = { chain, keyPem: leaf.keyPem, roots, origin: 'test', expected: orders, now: Date.now() };
    if (wanted instanceof RegExp) t.throws(() => checkCredentials(offered), { message: wanted }, title);
    else t.equal(checkCredentials(offered).chainPem, wanted.join(''), title);
  }
});

t.test('keys of every usual notation fit their certificates', async (t) => {
  const root = await makeCertificate({ ca: true });
  for (const [type, format] of [
    ['ec', 'sec1'],
    ['ec', 'pkcs8'],
    ['rsa', 'pkcs1'],
    ['rsa', 'pkcs8'],
  ] as const) {
    const { keyPem, chain } = await withKey(root, type, format);
    const offered = {
      chain: [chain],
      keyPem,
      roots: [root.pem],
      origin: 'test',
      expected: orders,
      now: Date.now(),
    };
    t.equal(checkCredentials(offered).keyPem, keyPem, `${type} ${format}`);
    t.throws(() => checkCredentials({ ...offered, keyPem: 'rubbish' }), { message: /unencrypted PEM key/ });
  }
});

/** The same public key in a certificate of another issuer. */
async function resigned(
  pem: string,
  issuer: Awaited<ReturnType<typeof makeCertificate>>,
  more: Parameters<typeof makeCertificate>[0] = {},
): Promise<string> {
  const { loadX509 } = await import('../../ca-client/x509.ts');
  const { X509Certificate } = await loadX509();
  const publicKey = await new X509Certificate(pem).publicKey.export();
  const keys = { publicKey, privateKey: issuer.keys.privateKey };
  return (await makeCertificate({ uris: [orders.uri], issuer, keys, ...more })).pem;
}

async function withKey(
  root: Awaited<ReturnType<typeof makeCertificate>>,
  type: 'ec' | 'rsa',
  format: 'sec1' | 'pkcs1' | 'pkcs8',
) {
  const { publicKey, privateKey } =
    type === 'ec'
      ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
      : generateKeyPairSync('rsa', { modulusLength: 2048 });
  const usage =
    type === 'ec' ? { name: 'ECDSA', namedCurve: 'P-256' } : { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
  const keys = {
    publicKey: publicKey.toCryptoKey(usage, true, ['verify']),
    privateKey: root.keys.privateKey,
  };
  const { pem } = await makeCertificate({ uris: [orders.uri], issuer: root, keys });
  const keyPem = privateKey.export({ type: format as 'pkcs8', format: 'pem' }).toString();
  return { chain: pem, keyPem };
}
