/** What the embedded CA issues, seen through OpenSSL's eyes, and which requests it refuses. */
import { execFileSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { RequestError } from '../../ca-client/csr.ts';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { EC_P256 } from '../../ca-client/keys.ts';
import { makeRequest } from '../../ca-client/request.ts';
import { loadX509 } from '../../ca-client/x509.ts';
import { readCertificate, spiffeIdentity } from '../../mesh/certificates.ts';
import { identityOf } from '../../mesh/identity.ts';
import { embeddedCa, openssl, orders, temporaryFolder } from './helper.ts';

const HOUR = 3_600_000;

t.test('a leaf, as OpenSSL sees it', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const { csrPem } = await makeRequest(identityOf('evil.example', 'kube-system', 'admin'));
  const issued = await ca.issueForRequest(csrPem, orders, HOUR);
  const file = join(dir, 'leaf.pem');
  writeFileSync(file, issued.certificatePem);
  t.match(
    await openssl('verify', '-x509_strict', '-CAfile', ca.rootFile, '-purpose', 'sslserver', file),
    /leaf.pem: OK/,
  );
  t.match(
    await openssl('verify', '-x509_strict', '-CAfile', ca.rootFile, '-purpose', 'sslclient', file),
    /leaf.pem: OK/,
  );
  const text = await openssl('x509', '-in', file, '-noout', '-text');
  t.match(text, /Subject: *\n/, 'no subject');
  t.match(text, /Alternative Name: critical\s+URI:spiffe:\/\/cluster.local\/ns\/shop\/sa\/orders\n/);
  t.match(text, /Key Usage: critical\s+Digital Signature, Key Encipherment\n/);
  t.match(text, /Extended Key Usage: *\n\s+TLS Web Server Authentication, TLS Web Client Authentication\n/);
  t.match(text, /Basic Constraints: critical\s+CA:FALSE\n/);
  t.match(text, /Public-Key: \(256 bit\)/);
  t.match(text, /Signature Algorithm: ecdsa-with-SHA256/);
  t.match(text, /Subject Key Identifier/);
  t.match(text, /Authority Key Identifier/);
  t.notMatch(text, /evil|kube-system/, "the request's names do not count");
  t.equal(spiffeIdentity(new X509Certificate(issued.certificatePem).raw)?.uri, orders.uri);
  t.ok(Math.abs(issued.notAfter - Date.now() - HOUR) < 5_000);
  t.ok(issued.notBefore <= Date.now() - 55_000, 'a little in the past, for clocks differ');
  const serials = await Promise.all([1, 2, 3].map(async () => (await ca.issueWithKey(orders, HOUR)).serial));
  t.equal(new Set(serials).size, 3);
});

t.test('the root', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: 'td1' });
  const text = await openssl('x509', '-in', ca.rootFile, '-noout', '-text');
  t.match(text, /Basic Constraints: critical\s+CA:TRUE/);
  t.match(text, /Key Usage: critical\s+Certificate Sign, CRL Sign/);
  t.match(text, /URI:spiffe:\/\/td1\n/);
  t.equal(statSync(join(dir, 'root-key.pem')).mode & 0o777, 0o600);
  const again = await openEmbeddedCa({ dir, trustDomain: null });
  t.equal(again.rootPem, ca.rootPem, 'stays');
  t.equal(again.trustDomain, 'td1', 'tells its trust domain');
  await t.rejects(openEmbeddedCa({ dir, trustDomain: 'td2' }), /is the root of trust domain td1, not of td2/);
});

t.test('several processes that start at once share one root', async (t) => {
  const dir = join(temporaryFolder(t), 'new', 'folder');
  const program = `import { openEmbeddedCa } from ${JSON.stringify(join(import.meta.dirname, '../../ca-client/embedded-ca.ts'))};
    process.stdout.write((await openEmbeddedCa({ dir: ${JSON.stringify(dir)}, trustDomain: null })).rootPem);`;
  const { spawn } = await import('node:child_process');
  const run = () =>
    new Promise<string>((resolve) => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let out = '';
      child.stdout.on('data', (chunk) => {
        out += chunk;
      });
      child.on('close', () => resolve(out));
    });
  const roots = await Promise.all([run(), run(), run(), run()]);
  t.equal(new Set(roots).size, 1);
  t.match(roots[0], /BEGIN CERTIFICATE/);
  t.same(readdirSync(dir).sort(), ['.lock', 'root-cert.pem', 'root-key.pem'], 'nothing temporary is left');
  const inside = await Promise.all([1, 2, 3].map(() => openEmbeddedCa({ dir, trustDomain: null })));
  t.equal(new Set(inside.map((ca) => ca.rootPem)).size, 1);
});

t.test('a start cut off between key and certificate goes on with the key', async (t) => {
  const dir = temporaryFolder(t);
  const first = await openEmbeddedCa({ dir, trustDomain: null });
  rmSync(first.rootFile);
  const key = readFileSync(join(dir, 'root-key.pem'), 'utf8');
  await openEmbeddedCa({ dir, trustDomain: null });
  t.equal(readFileSync(join(dir, 'root-key.pem'), 'utf8'), key);
});

t.test('files that do not fit together are named', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const other = await embeddedCa(t);
  writeFileSync(ca.rootFile, other.rootPem);
  await t.rejects(
    openEmbeddedCa({ dir, trustDomain: null }),
    /root-cert.pem cannot be used: its key is not that of/,
  );
  writeFileSync(ca.rootFile, 'rubbish');
  await t.rejects(openEmbeddedCa({ dir, trustDomain: null }), /root-cert.pem cannot be used/);
  writeFileSync(join(dir, 'root-key.pem'), 'rubbish');
  await t.rejects(
    openEmbeddedCa({ dir, trustDomain: null }),
    /root-key.pem does not hold an unencrypted EC P-256/,
  );
  rmSync(join(dir, 'root-key.pem'));
  await t.rejects(openEmbeddedCa({ dir, trustDomain: null }), /root-key.pem is not; bring it back/);
});

t.test('no leaf outlives the root', async (t) => {
  const ca = await embeddedCa(t, { rootTtlMs: 60_000 });
  const root = readCertificate(new X509Certificate(ca.rootPem).raw);
  t.equal((await ca.issueWithKey(orders, HOUR)).notAfter, root.notAfter);
  let now = Date.now();
  const late = await openEmbeddedCa({
    dir: temporaryFolder(t),
    trustDomain: null,
    rootTtlMs: 60_000,
    now: () => now,
  });
  now += 61_000;
  await t.rejects(
    late.issueWithKey(orders, HOUR),
    /root or intermediate \(O=cluster.local, CN=.*\) expired at/,
  );
});

t.test('requests made by OpenSSL', async (t) => {
  const ca = await embeddedCa(t);
  const dir = temporaryFolder(t);
  const rows: readonly (readonly [string, RegExp | null, readonly string[]])[] = [
    ['EC P-256', null, ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']],
    ['EC P-384', null, ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384']],
    ['RSA 2048', null, ['-newkey', 'rsa:2048']],
    ['EC P-521', /key \(ec secp521r1\) is refused/, ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-521']],
    ['EC P-224', /refused|cannot be read/, ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:secp224r1']],
    ['RSA 1024', /key \(rsa 1024\) is refused: use EC P-256/, ['-newkey', 'rsa:1024']],
    [
      'RSA with exponent 3',
      /public exponent 3 is refused: use 65537/,
      ['-newkey', 'rsa:2048', '-pkeyopt', 'rsa_keygen_pubexp:3'],
    ],
    ['RSA 3072', null, ['-newkey', 'rsa:3072']],
    ['RSA-PSS', /refused|cannot be read/, ['-newkey', 'rsa-pss', '-pkeyopt', 'rsa_keygen_bits:2048']],
    ['signed by way of SHA-1', /signature \(SHA-1\) is refused/, ['-newkey', 'rsa:2048', '-sha1']],
    ['signed by way of MD5', /refused|cannot be read/, ['-newkey', 'rsa:2048', '-md5']],
    ['EC secp256k1', /refused|cannot be read/, ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:secp256k1']],
    [
      'EC given by its parameters',
      /curve must be given by its name/,
      [...['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-pkeyopt', 'ec_param_enc:explicit']],
    ],
    ['Ed25519', /key \(ed25519\) is refused/, ['-newkey', 'ed25519']],
  ];
  for (const [title, refused, args] of rows) {
    const names = [
      '-subj',
      '/O=system:masters/CN=admin',
      '-addext',
      'subjectAltName=URI:spiffe://cluster.local/ns/a/sa/admin',
    ];
    const extensions = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=keyCertSign'];
    const common = ['req', '-new', '-nodes', '-keyout', join(dir, 'key.pem'), ...names, ...extensions];
    const csr = execFileSync('openssl', [...common, ...args], {
      stdio: ['ignore', 'pipe', 'ignore'],
    }).toString();
    if (refused !== null) {
      await t.rejects(
        ca.issueForRequest(csr, orders, HOUR),
        { name: 'RequestError', message: refused },
        title,
      );
      continue;
    }
    const issued = await ca.issueForRequest(csr, orders, HOUR);
    const x509 = new X509Certificate(issued.certificatePem);
    t.same(readCertificate(x509.raw).uris, [orders.uri], title);
    t.equal(x509.ca, false);
    t.notOk(x509.subject, 'no name of the request counts');
  }
});

t.test('RSA moduli with a factor anyone finds', async (t) => {
  const ca = await embeddedCa(t);
  const { modulus, exponent } = rsaNumbers();
  for (const factor of [2n, 3n, 751n]) {
    const csr = await rsaRequest(modulus - (modulus % factor), exponent);
    const message = /modulus is refused: it has a small factor|cannot be read|public exponent/;
    await t.rejects(ca.issueForRequest(csr, orders, HOUR), { name: 'RequestError', message }, String(factor));
  }
});

t.test('the CA’s own key, and a point written shorter', async (t) => {
  const dir = temporaryFolder(t);
  const own = await openEmbeddedCa({ dir, trustDomain: null });
  const compressed = join(dir, 'compressed.pem');
  execFileSync(
    'openssl',
    [...['ec', '-in', join(dir, 'root-key.pem'), '-conv_form', 'compressed', '-out', compressed]],
    { stdio: 'ignore' },
  );
  const rows: readonly (readonly [string, RegExp])[] = [
    [join(dir, 'root-key.pem'), /the key is the CA's own/],
    [compressed, /its point uncompressed/],
  ];
  for (const [key, message] of rows) {
    const csr = execFileSync('openssl', ['req', '-new', '-key', key, '-subj', '/CN=x']).toString();
    await t.rejects(own.issueForRequest(csr, orders, HOUR), { name: 'RequestError', message });
  }
});

t.test('requests that are none', async (t) => {
  const ca = await embeddedCa(t);
  const { csrPem } = await makeRequest(orders);
  const der = Buffer.from(csrPem.replace(/-----.*-----|\s/g, ''), 'base64');
  const damaged = Buffer.from(der);
  damaged[der.length - 5] = (damaged[der.length - 5] ?? 0) ^ 1;
  const rows: readonly (readonly [string, RegExp, string])[] = [
    ['nothing', /not one PEM block/, ''],
    ['a certificate', /not one PEM block/, ca.rootPem],
    ['two', /not one PEM block/, csrPem + csrPem],
    ['too long', /longer than 16384/, csrPem.padEnd(20_000)],
    ['garbage', /cannot be read/, pem(Buffer.from('hello'))],
    ['cut off', /cannot be read/, pem(der.subarray(0, 100))],
    ['nested ten thousand deep', /cannot be read/, pem(nested(2_500))],
    ['signature changed', /does not verify/, pem(damaged)],
    ["another's signature", /does not verify/, await mixed()],
  ];
  for (const [title, message, csr] of rows) {
    await t.rejects(ca.issueForRequest(csr, orders, HOUR), { name: 'RequestError', message }, title);
  }
  t.ok(new RequestError('x') instanceof Error);
});

t.test('a server certificate covers names and addresses', async (t) => {
  const ca = await embeddedCa(t);
  const { certificatePem } = await ca.issueServer(['localhost', '127.0.0.1', '::1'], HOUR);
  const x509 = new X509Certificate(certificatePem);
  t.ok(x509.checkHost('localhost'));
  t.ok(x509.checkIP('127.0.0.1'));
  t.ok(x509.checkIP('::1'));
  t.notOk(x509.checkHost('other'));
  t.equal(spiffeIdentity(x509.raw), null, 'and is nobody in the mesh');
});

function pem(der: Buffer): string {
  return `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
}

/** SEQUENCE in SEQUENCE in …: what makes a careless parser run out of stack. */
function nested(depth: number): Buffer {
  let inner = Buffer.alloc(0);
  for (let i = 0; i < depth; i++) {
    const length = inner.length < 0x80 ? [inner.length] : [0x82, inner.length >> 8, inner.length & 0xff];
    inner = Buffer.concat([Buffer.from([0x30, ...length]), inner]);
  }
  return inner;
}

function rsaNumbers(): { modulus: bigint; exponent: bigint } {
  const { n = '' } = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ format: 'jwk' });
  return { modulus: BigInt(`0x${Buffer.from(n, 'base64url').toString('hex')}`), exponent: 65_537n };
}

/** A request for an RSA key of these numbers. Its signature is another key's: nobody gets to look at it. */
async function rsaRequest(modulus: bigint, exponent: bigint): Promise<string> {
  const { Pkcs10CertificateRequestGenerator } = await loadX509();
  const text = (value: bigint) => {
    const hex = value.toString(16);
    return Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, 'hex').toString('base64url');
  };
  const usage = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
  const publicKey = createPublicKey({
    key: { kty: 'RSA', n: text(modulus), e: text(exponent) },
    format: 'jwk',
  }).toCryptoKey(usage, true, ['verify']);
  const signer = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  const privateKey = signer.toCryptoKey(usage, true, ['sign']);
  const request = await Pkcs10CertificateRequestGenerator.create({
    keys: { publicKey, privateKey },
    signingAlgorithm: usage,
  });
  return request.toString('pem');
}

/** A request for one key, signed by another. */
async function mixed(): Promise<string> {
  const { Pkcs10CertificateRequestGenerator } = await loadX509();
  const [mine, other] = [1, 2].map(() => generateKeyPairSync('ec', { namedCurve: 'P-256' }));
  if (mine === undefined || other === undefined) throw new Error('no keys');
  const usage = { name: 'ECDSA', namedCurve: 'P-256' };
  const publicKey = mine.publicKey.toCryptoKey(usage, true, ['verify']);
  const privateKey = other.privateKey.toCryptoKey(usage, true, ['sign']);
  const request = await Pkcs10CertificateRequestGenerator.create({
    keys: { publicKey, privateKey },
    signingAlgorithm: EC_P256,
  });
  return request.toString('pem');
}
