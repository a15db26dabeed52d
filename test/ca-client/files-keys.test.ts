/** Credentials from files whose keys OpenSSL made: every kind and notation in use is taken, encrypted ones are refused. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, createServer } from 'node:tls';
import t from 'tap';
import { fileSource } from '../../ca-client/files.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { openssl, orders, temporaryFolder } from './helper.ts';

const never = new AbortController().signal;
type Tap = Parameters<typeof temporaryFolder>[0];

/** A root, and what makes a folder of files for a key that is there already. */
async function authority(t: Tap) {
  const home = temporaryFolder(t);
  const root = join(home, 'root.pem');
  const rootKey = join(home, 'root.key');
  await openssl(
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1'],
    ...['-subj', '/O=test', '-addext', 'keyUsage=critical,keyCertSign', '-keyout', rootKey, '-out', root],
  );
  return async (dir: string, key: string): Promise<void> => {
    const at = (name: string) => join(dir, name);
    await openssl(
      ...['req', '-new', '-key', key, '-subj', '/', '-out', at('csr'), '-passin', 'pass:secret'],
      ...['-addext', `subjectAltName=critical,URI:${orders.uri}`],
      ...[
        '-addext',
        'keyUsage=critical,digitalSignature',
        '-addext',
        'extendedKeyUsage=serverAuth,clientAuth',
      ],
    );
    await openssl(
      ...['x509', '-req', '-in', at('csr'), '-CA', root, '-CAkey', rootKey, '-days', '1', '-set_serial', '7'],
      ...['-copy_extensions', 'copyall', '-out', at('tls.crt')],
    );
    await openssl('x509', '-in', root, '-out', at('ca.crt'));
  };
}

/** OpenSSL's commands that write a key to the file at the end. */
const EC = (curve: string) => [
  'genpkey',
  '-algorithm',
  'EC',
  '-pkeyopt',
  `ec_paramgen_curve:${curve}`,
  '-out',
];
const RSA = (bits: number) => ['genpkey', '-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`, '-out'];

t.test('kinds and notations', async (t) => {
  const rows: readonly (readonly [string, RegExp, readonly string[], (readonly string[])?])[] = [
    ['P-256, PKCS#8', /BEGIN PRIVATE KEY/, EC('P-256')],
    ['P-384, PKCS#8', /BEGIN PRIVATE KEY/, EC('P-384')],
    ['P-521, PKCS#8', /BEGIN PRIVATE KEY/, EC('P-521')],
    [
      'P-256, SEC1',
      /^-----BEGIN EC PRIVATE KEY/,
      ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out'],
    ],
    [
      'P-384, SEC1 after its parameters',
      /BEGIN EC PARAMETERS/,
      ['ecparam', '-name', 'secp384r1', '-genkey', '-out'],
    ],
    ['RSA 2048, PKCS#8', /BEGIN PRIVATE KEY/, RSA(2048)],
    ['RSA 2048, PKCS#1', /BEGIN RSA PRIVATE KEY/, ['genrsa', '-traditional', '-out']],
    ['RSA 3072, PKCS#8', /BEGIN PRIVATE KEY/, RSA(3072)],
  ];
  const issue = await authority(t);
  for (const [title, notation, command] of rows) {
    const dir = temporaryFolder(t);
    const key = join(dir, 'tls.key');
    await openssl(...command, key, ...(command[0] === 'genrsa' ? ['2048'] : []));
    t.match(readFileSync(key, 'utf8'), notation, `${title}: as it is meant`);
    await issue(dir, key);
    const credentials = await fileSource({ dir }).obtain(never);
    t.equal(credentials.identity.uri, orders.uri, title);
    t.equal(await handshake(credentials), 'TLSv1.3', `${title}: and serves`);
  }
});

t.test('encrypted keys', async (t) => {
  const rows: readonly (readonly [string, RegExp, readonly string[]])[] = [
    ['PKCS#8', /BEGIN ENCRYPTED PRIVATE KEY/, ['pkcs8', '-topk8', '-passout', 'pass:secret']],
    ['SEC1', /Proc-Type: 4,ENCRYPTED/, ['ec', '-aes128', '-passout', 'pass:secret']],
  ];
  const issue = await authority(t);
  for (const [title, notation, command] of rows) {
    const dir = temporaryFolder(t);
    const [plain, key] = [join(dir, 'plain'), join(dir, 'tls.key')];
    await openssl(...EC('P-256'), plain);
    await openssl(...command, '-in', plain, '-out', key);
    t.match(readFileSync(key, 'utf8'), notation);
    await issue(dir, key);
    await t.rejects(
      fileSource({ dir }).obtain(never),
      { message: /tls.key is encrypted, and there is nobody here to ask.*openssl pkey/ },
      title,
    );
  }
});

t.test('no key at all', async (t) => {
  const issue = await authority(t);
  const dir = temporaryFolder(t);
  await openssl(...EC('P-256'), join(dir, 'tls.key'));
  await issue(dir, join(dir, 'tls.key'));
  await openssl('pkey', '-in', join(dir, 'tls.key'), '-pubout', '-out', join(dir, 'tls.key'));
  await t.rejects(
    fileSource({ dir }).obtain(never),
    { message: /private key cannot be read/ },
    'a public key',
  );
});

/** Both ends show the same set; answers the protocol they agreed on. */
function handshake({ chainPem, keyPem, rootsPem }: Credentials): Promise<string | null> {
  const options = { cert: chainPem, key: keyPem, ca: [...rootsPem], checkServerIdentity: () => undefined };
  return new Promise((resolve, reject) => {
    const server = createServer({ ...options, requestCert: true, rejectUnauthorized: true }, (socket) => {
      resolve(socket.getProtocol());
      socket.destroy();
      server.close();
    });
    server.on('tlsClientError', reject);
    server.listen(0, '127.0.0.1', () => {
      const bound = server.address();
      const port = typeof bound === 'object' ? (bound?.port ?? 0) : 0;
      connect({ ...options, port, host: '127.0.0.1' }).on('error', reject);
    });
  });
}
