/** The Workload API's messages byte by byte, as the protobuf encoding guide and workloadapi.proto lay them down. */
import fc from 'fast-check';
import t from 'tap';
import {
  decodeBundlesResponse,
  decodeSvidResponse,
  encodeBundlesResponse,
  encodeSvidResponse,
} from '../../ca-client/workload-api-proto.ts';

const utf8 = (text: string) => Buffer.from(text).toString('hex');

t.test('an X509SVIDResponse', (t) => {
  const svid = [`0a03${utf8('id1')}`, '12020102', '1a0103', '220104', `2a01${utf8('h')}`].join('');
  const length = (svid.length / 2).toString(16);
  const hex = [`0a${length}${svid}`, '12020506', `1a070a02${utf8('td')}120107`].join('');
  const expected = {
    svids: [{ spiffeId: 'id1', chain: Buffer.of(1, 2), key: Buffer.of(3), bundle: Buffer.of(4), hint: 'h' }],
    crls: [Buffer.of(5, 6)],
    federatedBundles: new Map([['td', Buffer.of(7)]]),
  };
  t.same(decodeSvidResponse(Buffer.from(hex, 'hex')), expected);
  t.equal(encodeSvidResponse(expected).toString('hex'), hex);
  t.end();
});

t.test('an X509BundlesResponse', (t) => {
  const hex = ['0a0108', `12070a02${utf8('td')}120109`].join('');
  const expected = { crls: [Buffer.of(8)], bundles: new Map([['td', Buffer.of(9)]]) };
  t.same(decodeBundlesResponse(Buffer.from(hex, 'hex')), expected);
  t.equal(encodeBundlesResponse(expected).toString('hex'), hex);
  t.end();
});

t.test('fields of a later version are skipped, of a key that comes twice the last value counts', (t) => {
  const unknown = ['3a0178', '4001', '4d01020304'].join(''); // fields 7, 8 and 9, of three wire types
  const hex = [unknown, `12070a02${utf8('td')}120101`, `12070a02${utf8('td')}120102`].join('');
  const { bundles } = decodeBundlesResponse(Buffer.from(hex, 'hex'));
  t.same([...bundles], [['td', Buffer.of(2)]]);
  t.same(decodeSvidResponse(Buffer.from(unknown, 'hex')).svids, []);
  t.end();
});

t.test('whatever the bytes, a message or an Error', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      for (const decode of [decodeSvidResponse, decodeBundlesResponse]) {
        try {
          decode(bytes);
        } catch (error) {
          if (!(error instanceof Error)) return false;
        }
      }
      return true;
    }),
    { numRuns: 2_000 },
  );
  t.pass();
  t.end();
});
