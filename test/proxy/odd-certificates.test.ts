/** Handshakes with certificates that make no sense, from strangers and from servers: each is refused, and we live on. */
import t, { type Test } from 'tap';
import { OutboundTls } from '../../proxy/tls-outbound.ts';
import { present } from '../../telemetry/present.ts';
import { oddKeys } from '../mesh/odd-keys.ts';
import {
  basicConstraints,
  CLIENT,
  certificate,
  distinguishedName,
  ecKeys,
  extension,
  integer,
  names,
  nextSerial,
  oid,
  purposes,
  rsaKeys,
  SERVER,
  sequence,
  signed,
  time,
  tlv,
  uriName,
  usage,
} from '../mesh/pki.ts';
import { answerAsServer, comeAsClient, type Presented, presentable } from './stranger.ts';
import { authority, credentialsFor, partsOf, serverOf, shakeHands } from './tls-ends.ts';

const HOUR = 3_600_000;
const now = Date.now();
const root = await authority('root');
const credentials = await credentialsFor('spiffe://home.example/ns/a/sa/b', root);
const parts = partsOf(credentials);
const server = serverOf(parts);
const client = new OutboundTls(parts);

const leafExtensions = [
  basicConstraints(false),
  usage('digitalSignature'),
  purposes(CLIENT, SERVER),
  names(uriName('spiffe://home.example/ns/a/sa/evil')),
];
const caExtensions = [basicConstraints(true), usage('keyCertSign', 'cRLSign')];
const ca = ecKeys();
/** Too short for OpenSSL's security level: it refuses by a code that Node has no name for, and our own search goes on. */
const short = rsaKeys(1_024);

/** Both ways; each is refused, and the next peer is served. */
async function refused(t: Test, presented: Presented, title: string): Promise<void> {
  if (!presentable(presented)) return t.comment(`${title}: OpenSSL reads no such certificate`);
  const inbound = await comeAsClient(server, presented);
  t.match(inbound, { ok: false, detail: /./ }, `${title}: from a client`);
  const outbound = await answerAsServer(client, presented);
  t.match(outbound, { ok: false, detail: /./ }, `${title}: from a server`);
}

t.test('public keys', async (t) => {
  const leaf = certificate({
    subject: 'leaf',
    issuer: 'ca',
    keys: short,
    issuerKey: ca.privateKey,
    notBefore: now - HOUR,
    notAfter: now + HOUR,
    extensions: leafExtensions,
  });
  const issuer = { subject: 'ca', keys: ca, issuerKey: ca.privateKey, extensions: caExtensions };
  const last = certificate({ ...issuer, issuer: 'nobody', notBefore: now - HOUR, notAfter: now + HOUR });
  for (const [title, write] of Object.entries(oddKeys)) {
    const spki = write();
    // Expired: OpenSSL passes over it in building its chain, and refuses nothing for its key.
    const old = certificate({
      ...issuer,
      issuer: 'x',
      spki,
      notBefore: now - 3 * HOUR,
      notAfter: now - HOUR,
    });
    const fresh = certificate({ ...issuer, issuer: 'x', spki, notBefore: now - HOUR, notAfter: now + HOUR });
    await refused(t, { chain: [leaf, old, last], key: short.privateKey }, `${title}, expired`);
    await refused(t, { chain: [leaf, fresh], key: short.privateKey }, title);
  }
});

const utc = (text: string): Buffer => tlv(0x17, Buffer.from(text));
const generalized = (text: string): Buffer => tlv(0x18, Buffer.from(text));
const past = time(now - HOUR);
const future = time(now + HOUR);
const oneName = (value: Uint8Array): Buffer => sequence(tlv(0x31, sequence(oid('2.5.4.3'), value)));

/** What else of a certificate may be odd; what is not said is as it should be, but for the end of its validity. */
interface Oddity {
  readonly validity?: readonly [Uint8Array, Uint8Array];
  readonly subject?: Uint8Array;
  readonly issuer?: Uint8Array;
  readonly serial?: Uint8Array;
  readonly extensions?: readonly Uint8Array[];
}

const oddities: Readonly<Record<string, Oddity>> = {
  'notBefore is no date': { validity: [utc('xx0101000000Z'), past] },
  'notBefore is empty': { validity: [utc(''), past] },
  'notBefore is a word': { validity: [generalized('garbage'), past] },
  'notBefore in a thirteenth month': { validity: [utc('991301000000Z'), past] },
  'notBefore far away': { validity: [generalized('99991231235959Z'), past] },
  'notBefore in the year 0': { validity: [generalized('00000101000000Z'), past] },
  'notBefore with an offset': { validity: [utc('990101000000+9999'), past] },
  'notBefore with a fraction': { validity: [generalized('19990101000000.5Z'), past] },
  'notAfter is no date': { validity: [past, utc('xx')] },
  'notAfter is no date, notBefore to come': { validity: [future, utc('xx')] },
  'both in the year 0': { validity: [generalized('00000101000000Z'), generalized('00000101000000Z')] },
  'no issuer': { issuer: sequence() },
  'no subject': { subject: sequence() },
  'an issuer of half characters': { issuer: oneName(tlv(0x1e, Buffer.from('abc'))) },
  'an issuer that is no UTF-8': { issuer: oneName(tlv(0x0c, Buffer.from('fffefd00', 'hex'))) },
  'a negative serial number': { serial: tlv(0x02, Buffer.alloc(40, 0xff)) },
  'a serial number of 5,000 bytes': { serial: tlv(0x02, Buffer.alloc(5_000, 0x11)) },
  'alternative names that are none': { extensions: [extension('2.5.29.17', Buffer.of(0x30))] },
  'alternative names of odd kinds': {
    extensions: [
      names(
        tlv(0xa4, distinguishedName('a, URI:spiffe://x/y')),
        tlv(0xa0, oid('1.2.3'), tlv(0xa0, tlv(0x0c, Buffer.from('other')))),
        tlv(0x87, Buffer.of(1, 2, 3)),
        tlv(0x88, Buffer.of(0x2a)),
      ),
    ],
  },
  'every extension twice': { extensions: [...leafExtensions, ...leafExtensions] },
  'no extension': { extensions: [] },
};

t.test('dates, names and numbers', async (t) => {
  const keys = ecKeys();
  for (const [title, odd] of Object.entries(oddities)) {
    const { validity = [time(now - 3 * HOUR), past], extensions = leafExtensions } = odd;
    const leaf = signed(
      (algorithm) =>
        sequence(
          tlv(0xa0, tlv(0x02, Buffer.of(2))),
          odd.serial ?? integer(nextSerial()),
          algorithm,
          odd.issuer ?? distinguishedName('ca'),
          sequence(...validity),
          odd.subject ?? distinguishedName('leaf'),
          keys.publicKey.export({ type: 'spki', format: 'der' }),
          tlv(0xa3, sequence(...extensions)),
        ),
      ca.privateKey,
    );
    await refused(t, { chain: [leaf], key: keys.privateKey }, title);
    t.equal(present([leaf]).length, 1, `${title}: and it can be shown`);
  }
});

t.test('after all that, the next peer is served', async (t) => {
  const peer = await credentialsFor('spiffe://home.example/ns/a/sa/peer', root);
  t.match(await shakeHands(server, new OutboundTls(partsOf(peer))), {
    inbound: { ok: true },
    outbound: { ok: true },
  });
});
