/** Mesh config's `meshMTLS` and `caCertificates`: what is read, what is an error, and what OpenSSL makes of the names. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { connect, createServer, type SecureVersion } from 'node:tls';
import t from 'tap';
import { parseDocuments } from '../../config/documents.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { CaCertificates, MeshTlsPolicy } from '../../mesh/snapshot.ts';
import { decodeMeshConfig } from '../../registry/mesh-config.ts';

interface Read {
  readonly tls: MeshTlsPolicy | undefined;
  readonly roots: readonly CaCertificates[];
  /** `severity field code`, in order. */
  readonly problems: readonly string[];
  readonly messages: readonly string[];
}

/** @param fields one line of JSON, fields of a MeshConfig */
function read(fields: string): Read {
  const parsed = parseDocuments(`kind: MeshConfig\n${fields}\n`, 'mesh.yaml');
  const problems: Problem[] = [...parsed.problems];
  const [resource] = parsed.resources;
  if (resource === undefined) throw new Error(JSON.stringify(problems));
  const { meshTls, caCertificates } = decodeMeshConfig(resource, problems);
  return {
    tls: meshTls,
    roots: caCertificates,
    problems: problems.map(({ severity, field, code }) => `${severity} ${field} ${code}`),
    messages: problems.map(({ message }) => message),
  };
}

const OF_13 = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];

t.test('minProtocolVersion: 1.3 unless 1.2 is asked for', async (t) => {
  const versions: readonly (readonly [string, string | undefined])[] = [
    ['trustDomain: td', undefined],
    ['meshMTLS: {}', 'TLSv1.3'],
    ['meshMTLS: {minProtocolVersion: TLS_AUTO}', 'TLSv1.3'],
    ['meshMTLS: {minProtocolVersion: TLSV1_3}', 'TLSv1.3'],
    ['meshMTLS: {minProtocolVersion: TLSV1_2}', 'TLSv1.2'],
  ];
  for (const [fields, version] of versions) {
    const { tls, problems } = read(fields);
    t.equal(tls?.minVersion, version, fields);
    t.same(problems, [], fields);
  }
});

t.test('groups and cipher suites: kept in order, without what cannot be had', async (t) => {
  const cases: readonly (readonly [string, Partial<MeshTlsPolicy>, readonly string[]])[] = [
    ['ecdhCurves: [X25519MLKEM768, P-256, P-384]', { ecdhCurves: ['X25519MLKEM768', 'P-256', 'P-384'] }, []],
    [
      'ecdhCurves: [P-256, P-512, P-256, P-224, X25519Kyber768Draft00]',
      { ecdhCurves: ['P-256'] },
      [
        'Warning meshMTLS.ecdhCurves OLK0108',
        'Warning meshMTLS.ecdhCurves OLK0109',
        'Warning meshMTLS.ecdhCurves OLK0108',
        'Warning meshMTLS.ecdhCurves OLK0108',
      ],
    ],
    [
      'ecdhCurves: [P-224]',
      { ecdhCurves: [] },
      ['Warning meshMTLS.ecdhCurves OLK0108', 'Error meshMTLS.ecdhCurves OLK0108'],
    ],
    [
      'minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]',
      { cipherSuites: [...OF_13, 'ECDHE-ECDSA-AES128-GCM-SHA256'] },
      [],
    ],
    [
      'minProtocolVersion: TLSV1_2',
      {
        cipherSuites: [
          ...OF_13,
          'ECDHE-ECDSA-AES256-GCM-SHA384',
          'ECDHE-RSA-AES256-GCM-SHA384',
          'ECDHE-ECDSA-AES128-GCM-SHA256',
          'ECDHE-RSA-AES128-GCM-SHA256',
        ],
      },
      [],
    ],
    [
      'minProtocolVersion: TLSV1_2, cipherSuites: ["[ECDHE-ECDSA-CHACHA20-POLY1305|ECDHE-ECDSA-AES128-GCM-SHA256]", ECDHE-ECDSA-AES128-GCM-SHA256, DES-CBC3-SHA]',
      { cipherSuites: [...OF_13, 'ECDHE-ECDSA-CHACHA20-POLY1305', 'ECDHE-ECDSA-AES128-GCM-SHA256'] },
      ['Warning meshMTLS.cipherSuites OLK0109', 'Warning meshMTLS.cipherSuites OLK0108'],
    ],
    [
      'minProtocolVersion: TLSV1_2, cipherSuites: [TLS_RSA]',
      {},
      ['Warning meshMTLS.cipherSuites OLK0108', 'Error meshMTLS.cipherSuites OLK0108'],
    ],
    [
      'cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]',
      { minVersion: 'TLSv1.3', cipherSuites: [] },
      ['Warning meshMTLS.cipherSuites OLK0110'],
    ],
    ['ecdhCurves: P-256', {}, ['Error meshMTLS.ecdhCurves OLK0104']],
    ['minProtocolVersion: TLSV1_1', {}, ['Error meshMTLS.minProtocolVersion OLK0105']],
    ['maxProtocolVersion: TLSV1_2', {}, ['Error meshMTLS.maxProtocolVersion OLK0103']],
  ];
  for (const [fields, policy, expected] of cases) {
    const { tls, problems } = read(`meshMTLS: {${fields}}`);
    t.match(tls, policy, fields);
    t.same(problems, expected, fields);
  }
});

interface Hello {
  readonly maxVersion?: SecureVersion;
  readonly groups?: string;
}

/** Protocol, suite and group that a client gets from a server of this policy; the error's code where none. */
async function negotiated(
  dir: string,
  policy: MeshTlsPolicy,
  { maxVersion, groups }: Hello,
): Promise<string> {
  const { minVersion, cipherSuites, ecdhCurves } = policy;
  const server = createServer({
    key: readFileSync(join(dir, 'key.pem')),
    cert: readFileSync(join(dir, 'cert.pem')),
    minVersion,
    ...(ecdhCurves.length === 0 ? {} : { ecdhCurve: ecdhCurves.join(':') }),
    ...(cipherSuites.length === 0 ? {} : { ciphers: cipherSuites.join(':') }),
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const client = connect({
    host: '127.0.0.1',
    port,
    rejectUnauthorized: false,
    ...(maxVersion === undefined ? {} : { maxVersion }),
    ...(groups === undefined ? {} : { ecdhCurve: groups }),
  });
  try {
    await once(client, 'secureConnect');
    const { name } = client.getEphemeralKeyInfo() as { name?: string };
    return [client.getProtocol(), client.getCipher().name, ...(name === undefined ? [] : [name])].join(' ');
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  } finally {
    client.destroy();
    server.close();
  }
}

t.test('what OpenSSL makes of it', async (t) => {
  const dir = t.testdir();
  selfSigned(dir, true);
  const policyOf = (fields: string): MeshTlsPolicy => {
    const { tls } = read(`meshMTLS: {${fields}}`);
    if (tls === undefined) throw new Error(fields);
    return tls;
  };
  const cases: readonly (readonly [string, Hello, RegExp])[] = [
    ['', {}, /^TLSv1.3 /],
    ['', { maxVersion: 'TLSv1.2' }, /PROTOCOL_VERSION/],
    ['minProtocolVersion: TLSV1_2', {}, /^TLSv1.3 /],
    ['minProtocolVersion: TLSV1_2', { maxVersion: 'TLSv1.2' }, /^TLSv1.2 ECDHE-ECDSA-AES/],
    [
      'minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-CHACHA20-POLY1305]',
      { maxVersion: 'TLSv1.2' },
      /^TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305/,
    ],
    ['minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-CHACHA20-POLY1305]', {}, /^TLSv1.3 /],
    ['minProtocolVersion: TLSV1_2, ecdhCurves: [P-384]', { maxVersion: 'TLSv1.2' }, /secp384r1$/],
    ['ecdhCurves: [P-384]', { groups: 'P-256:P-384' }, /^TLSv1.3 .*secp384r1/],
    ['ecdhCurves: [P-384]', { groups: 'P-256' }, /HANDSHAKE_FAILURE/],
    ['ecdhCurves: [X25519MLKEM768]', { groups: 'X25519MLKEM768' }, /^TLSv1.3 /],
    ['ecdhCurves: [X25519MLKEM768]', { groups: 'X25519' }, /HANDSHAKE_FAILURE/],
    ['ecdhCurves: [SecP256r1MLKEM768, SecP384r1MLKEM1024, P-521]', { groups: 'P-521' }, /^TLSv1.3 /],
  ];
  for (const [fields, hello, expected] of cases) {
    t.match(await negotiated(dir, policyOf(fields), hello), expected, `${fields} ${JSON.stringify(hello)}`);
  }
});

/** A self-signed certificate in `cert.pem`, with `key.pem`. */
function selfSigned(dir: string, ca: boolean): string {
  const words = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /O=shop'.split(
    ' ',
  );
  const files = ['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'cert.pem')];
  const extension = ['-addext', `basicConstraints=critical,CA:${ca ? 'TRUE' : 'FALSE'}`];
  execFileSync('openssl', [...words, ...files, ...extension], { stdio: 'ignore' });
  return readFileSync(join(dir, 'cert.pem'), 'utf8');
}

t.test('caCertificates: roots, by PEM or by URL, and whom they vouch for', async (t) => {
  const pem = selfSigned(t.testdir(), true);
  const list = [
    { pem },
    { pem: `# two of them\n${pem}\n${pem}`, trustDomains: ['td1', 'td2.example'] },
    { spiffeBundleUrl: 'https://trust.example:8443/bundle', trustDomains: ['td3'] },
    { spiffeBundleUrl: 'trust.example/bundle' },
  ];
  const { roots, problems } = read(`caCertificates: ${JSON.stringify(list)}`);
  t.same(problems, []);
  t.same(roots, [
    { pem, spiffeBundleUrl: null, trustDomains: [] },
    { pem: list[1]?.pem, spiffeBundleUrl: null, trustDomains: ['td1', 'td2.example'] },
    { pem: null, spiffeBundleUrl: 'https://trust.example:8443/bundle', trustDomains: ['td3'] },
    { pem: null, spiffeBundleUrl: 'https://trust.example/bundle', trustDomains: [] },
  ]);
});

t.test('caCertificates: what is refused or warned of', async (t) => {
  const pem = selfSigned(t.testdir(), true);
  const leaf = selfSigned(t.testdir(), false);
  const key = readFileSync(join(t.testdirName, 'key.pem'), 'utf8');
  const broken = pem.replace(/\n[^\n]{64}\n/, '\n');
  const cases: readonly (readonly [object, string, RegExp])[] = [
    [{ pem: 'x' }, 'Error caCertificates[0].pem OLK0108', /no block/],
    [{ pem: broken }, 'Error caCertificates[0].pem OLK0108', /cannot be read/],
    [{ pem: leaf }, 'Error caCertificates[0].pem OLK0108', /CAs: it is none \(O=shop\)/],
    [{ pem: pem + leaf }, 'Error caCertificates[0].pem OLK0108', /block 2 is none/],
    [{ pem: pem + key }, 'Error caCertificates[0].pem OLK0108', /block 2 is a PRIVATE KEY/],
    [{ pem: 7 }, 'Error caCertificates[0].pem OLK0104', /string/],
    [{ spiffeBundleUrl: 'http://x/y' }, 'Error caCertificates[0].spiffeBundleUrl OLK0108', /https URL/],
    [{ spiffeBundleUrl: 'file:///x' }, 'Error caCertificates[0].spiffeBundleUrl OLK0108', /https URL/],
    [
      { spiffeBundleUrl: 'https://me:s3cret@x/y' },
      'Error caCertificates[0].spiffeBundleUrl OLK0108',
      /^(?!.*s3cret).*without user/,
    ],
    [{ spiffeBundleUrl: 'https://' }, 'Error caCertificates[0].spiffeBundleUrl OLK0108', /https URL/],
    [{ pem, spiffeBundleUrl: 'https://x/y' }, 'Error caCertificates[0] OLK0108', /exclude each other/],
    [{ pem, trustDomains: ['A/b'] }, 'Error caCertificates[0].trustDomains[0] OLK0108', /trust domain/],
    [{ pem, signers: [] }, 'Error caCertificates[0].signers OLK0103', /unknown field/],
    [{ pem, certSigners: ['a'] }, 'Warning caCertificates[0].certSigners OLK0110', /istiod/],
    [{ trustDomains: ['td'] }, 'Warning caCertificates[0] OLK0106', /names no root/],
  ];
  for (const [entry, expected, message] of cases) {
    const { problems, messages } = read(`caCertificates: [${JSON.stringify(entry)}]`);
    t.same(problems, [expected], expected);
    t.match(messages[0], message);
    t.notMatch(messages.join(), key.split('\n')[1], 'no key in a message');
  }
});
