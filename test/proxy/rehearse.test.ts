/** A set of credentials meets itself before it goes live: what peers would refuse is refused at home. */
import t from 'tap';
import type { Credentials } from '../../mesh/credentials.ts';
import { limitsWith } from '../../mesh/limits.ts';
import { tlsPolicyOf } from '../../proxy/mesh-tls.ts';
import { rehearse } from '../../proxy/rehearse.ts';
import { makeCertificate } from '../ca-client/helper.ts';
import { authority, credentialsFor } from './tls-ends.ts';

const uri = 'spiffe://cluster.local/ns/shop/sa/orders';
const limits = limitsWith({});

function tried(credentials: Credentials): Promise<string | null> {
  return rehearse(credentials, tlsPolicyOf(null), limits).then(
    () => null,
    (error: Error) => error.message,
  );
}

t.test('a sound set passes', async (t) => {
  const root = await authority('root');
  t.equal(await tried(await credentialsFor(uri, root)), null, 'under its root');
  const intermediate = await authority('intermediate', { issuer: root });
  const set = await credentialsFor(uri, intermediate, { roots: [root], above: [intermediate] });
  t.equal(await tried(set), null, 'under an intermediate');
  const partial = await credentialsFor(uri, intermediate, { roots: [intermediate] });
  t.equal(await tried(partial), null, 'under a bundle that ends in an intermediate (X509-SVID §6.1)');
  const other = await authority('other');
  t.equal(await tried(await credentialsFor(uri, root, { roots: [other, root] })), null, 'with two roots');
});

t.test('what peers would refuse does not', async (t) => {
  const root = await authority('root');
  const other = await authority('root');
  const intermediate = await authority('intermediate', { issuer: root });
  const notCa = await makeCertificate({ subject: 'CN=no CA', issuer: root });
  const sound = await credentialsFor(uri, root);
  const cases: readonly (readonly [string, Credentials, RegExp])[] = [
    ['a key of another set', { ...sound, keyPem: (await credentialsFor(uri, root)).keyPem }, /key/],
    ['roots that are not its own', { ...sound, rootsPem: [other.pem] }, /untrusted_issuer/],
    ['no roots', { ...sound, rootsPem: [] }, /untrusted_issuer/],
    [
      'an intermediate that is missing',
      await credentialsFor(uri, intermediate, { roots: [root] }),
      /untrusted_issuer/,
    ],
    [
      'an issuer that is no CA',
      await credentialsFor(uri, notCa, { roots: [root], above: [notCa] }),
      /bad_certificate|untrusted_issuer/,
    ],
    ['a certificate that has expired', await credentialsFor(uri, root, { wish: { until: -5 } }), /expired/],
    ['one that is not valid yet', await credentialsFor(uri, root, { wish: { from: 60 } }), /expired/],
    [
      'two SPIFFE IDs',
      await credentialsFor(uri, root, { wish: { uris: [uri, `${uri}-2`] } }),
      /bad_spiffe_id/,
    ],
    [
      'the identity of another workload',
      await credentialsFor(uri, root, { wish: { uris: [`${uri}-2`] } }),
      /identity_mismatch/,
    ],
    [
      "a CA's certificate",
      await credentialsFor(uri, root, { wish: { ca: true, subject: 'CN=leaf' } }),
      /bad_spiffe_id|bad_certificate/,
    ],
  ];
  for (const [title, credentials, expected] of cases) t.match(await tried(credentials), expected, title);
});

t.test('it leans on nothing but the set itself', async (t) => {
  const [root, other] = [await authority('root'), await authority('other')];
  const federated = [{ trustDomain: 'cluster.local', rootsPem: [root.pem] }];
  const set = await credentialsFor(uri, root, { roots: [other], federated });
  t.match(await tried(set), /untrusted_issuer/, 'a federated bundle does not vouch for us');
});
