/** What TLS between sidecars may use: mesh config's versions, cipher suites and groups, in both directions. */
import {
  type CipherNameAndProtocol,
  type ConnectionOptions,
  connect,
  createServer as createTlsServer,
} from 'node:tls';
import t from 'tap';
import type { MeshTlsPolicy } from '../../mesh/snapshot.ts';
import { tlsPolicyOf } from '../../proxy/mesh-tls.ts';
import {
  authority,
  credentialsFor,
  OutboundTls,
  originate,
  partsOf,
  serverOf,
  socketPair,
  terminate,
} from './tls-ends.ts';

const uri = 'spiffe://cluster.local/ns/shop/sa/orders';

interface Case {
  readonly title: string;
  readonly policy: Partial<MeshTlsPolicy>;
  /** Of the peer. */
  readonly peer: ConnectionOptions;
  /** `version cipher`, as OpenSSL names them; null: no handshake. */
  readonly expected: string | null;
}

const cases: readonly Case[] = [
  {
    title: 'TLS 1.2 is not spoken',
    policy: {},
    peer: { maxVersion: 'TLSv1.2' },
    expected: null,
  },
  {
    title: 'TLS 1.3 is',
    policy: {},
    peer: { ciphers: 'TLS_AES_128_GCM_SHA256' },
    expected: 'TLSv1.3 TLS_AES_128_GCM_SHA256',
  },
  {
    title: 'TLS 1.2 where mesh config allows it',
    policy: { minVersion: 'TLSv1.2' },
    peer: { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' },
    expected: 'TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384',
  },
  {
    title: 'and then TLS 1.3 all the same',
    policy: { minVersion: 'TLSv1.2' },
    peer: { ciphers: 'TLS_AES_256_GCM_SHA384' },
    expected: 'TLSv1.3 TLS_AES_256_GCM_SHA384',
  },
  {
    title: 'a cipher suite that is listed',
    policy: { minVersion: 'TLSv1.2', cipherSuites: ['ECDHE-ECDSA-AES128-GCM-SHA256'] },
    peer: { maxVersion: 'TLSv1.2' },
    expected: 'TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256',
  },
  {
    title: 'and one that is not',
    policy: { minVersion: 'TLSv1.2', cipherSuites: ['ECDHE-ECDSA-AES128-GCM-SHA256'] },
    peer: { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' },
    expected: null,
  },
  {
    title: 'a group that is listed',
    policy: { ecdhCurves: ['P-384'] },
    peer: { ecdhCurve: 'X25519:P-384', ciphers: 'TLS_AES_128_GCM_SHA256' },
    expected: 'TLSv1.3 TLS_AES_128_GCM_SHA256',
  },
  {
    title: 'and one that is not',
    policy: { ecdhCurves: ['P-384'] },
    peer: { ecdhCurve: 'X25519:P-256' },
    expected: null,
  },
  {
    title: 'the hybrid group alone, by default',
    policy: {},
    peer: { ecdhCurve: 'X25519MLKEM768', ciphers: 'TLS_AES_128_GCM_SHA256' },
    expected: 'TLSv1.3 TLS_AES_128_GCM_SHA256',
  },
];

const told = (version: string | null, { name }: CipherNameAndProtocol): string => `${version} ${name}`;

t.test('as the server', async (t) => {
  const credentials = await credentialsFor(uri, await authority('root'));
  for (const { title, policy, peer, expected } of cases) {
    const server = serverOf(partsOf(credentials, { policy: { ...tlsPolicyOf(null), ...policy } }));
    const { theirs, ours, close } = await socketPair();
    const client = connect({
      socket: ours,
      cert: credentials.chainPem,
      key: credentials.keyPem,
      rejectUnauthorized: false,
      ALPNProtocols: ['istio'],
      ...peer,
    });
    client.on('error', () => {});
    const outcome = await terminate(server, theirs);
    const found = outcome.ok ? told(outcome.stream.getProtocol(), outcome.stream.getCipher()) : null;
    t.equal(found, expected, title);
    client.destroy();
    close();
  }
});

t.test('as the client', async (t) => {
  const credentials = await credentialsFor(uri, await authority('root'));
  for (const { title, policy, peer, expected } of cases) {
    const client = new OutboundTls(partsOf(credentials, { policy: { ...tlsPolicyOf(null), ...policy } }));
    const { theirs, ours, close } = await socketPair();
    const server = createTlsServer({
      cert: credentials.chainPem,
      key: credentials.keyPem,
      ca: [...credentials.rootsPem],
      ...(peer as object),
    });
    server.on('tlsClientError', () => theirs.destroy());
    server.emit('connection', theirs);
    const outcome = await originate(client, ours);
    const found = outcome.ok ? told(outcome.stream.getProtocol(), outcome.stream.getCipher()) : null;
    t.equal(found, expected, title);
    close();
  }
});

t.test('a policy that OpenSSL does not know is refused, not ignored', async (t) => {
  const credentials = await credentialsFor(uri, await authority('root'));
  for (const policy of [{ ecdhCurves: ['P-999'] }, { cipherSuites: ['NO-SUCH-SUITE'] }]) {
    const parts = partsOf(credentials, {
      policy: { ...tlsPolicyOf(null), minVersion: 'TLSv1.2', ...policy },
    });
    t.throws(() => serverOf(parts), JSON.stringify(policy));
    t.throws(() => new OutboundTls(parts), JSON.stringify(policy));
  }
});

/** Key shares of a ClientHello (RFC 8446 §4.2.8): the groups, in the client's order. */
function keyShareGroups(record: Buffer): readonly number[] {
  // Record header 5, handshake header 4, version 2, random 32, then the session id.
  let at = 5 + 4 + 2 + 32;
  at += 1 + record.readUInt8(at);
  at += 2 + record.readUInt16BE(at);
  at += 1 + record.readUInt8(at);
  const end = at + 2 + record.readUInt16BE(at);
  at += 2;
  while (at < end) {
    const [type, length] = [record.readUInt16BE(at), record.readUInt16BE(at + 2)];
    at += 4;
    if (type === 51) {
      const groups: number[] = [];
      for (let share = at + 2; share < at + length; share += 4 + record.readUInt16BE(share + 2))
        groups.push(record.readUInt16BE(share));
      return groups;
    }
    at += length;
  }
  return [];
}

t.test('our first offer is the hybrid group', async (t) => {
  const credentials = await credentialsFor(uri, await authority('root'));
  const { theirs, ours, close } = await socketPair();
  const chunks: Buffer[] = [];
  const hello = new Promise<Buffer>((resolve) => {
    theirs.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      const all = Buffer.concat(chunks);
      if (all.length >= 5 && all.length >= 5 + all.readUInt16BE(3)) resolve(all);
    });
  });
  theirs.resume();
  const outcome = originate(new OutboundTls(partsOf(credentials)), ours);
  // 0x11ec: X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem §8).
  t.equal(keyShareGroups(await hello)[0], 0x11ec);
  theirs.destroy();
  t.notOk((await outcome).ok);
  close();
});
