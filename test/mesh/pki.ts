/** Certificates and revocation lists of any make, sound or not, written byte by byte: what a generator refuses to make too. */
import { constants, createHash, generateKeyPairSync, type KeyObject, sign as signBytes } from 'node:crypto';

export interface Keys {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

export function ecKeys(namedCurve = 'P-256', paramEncoding: 'named' | 'explicit' = 'named'): Keys {
  return generateKeyPairSync('ec', { namedCurve, paramEncoding });
}

export function rsaKeys(modulusLength = 2048, publicExponent = 65_537): Keys {
  return generateKeyPairSync('rsa', { modulusLength, publicExponent });
}

export function edKeys(): Keys {
  return generateKeyPairSync('ed25519');
}

/** One element: tag, length, content. */
export function tlv(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const { length } = body;
  const bytes: number[] = [];
  for (let left = length; left > 0; left = Math.floor(left / 256)) bytes.unshift(left % 256);
  const head = length < 128 ? [length] : [0x80 + bytes.length, ...bytes];
  return Buffer.concat([Buffer.from([tag, ...head]), body]);
}

export const sequence = (...parts: readonly Uint8Array[]): Buffer => tlv(0x30, ...parts);
export const octets = (bytes: Uint8Array): Buffer => tlv(0x04, bytes);
const TRUE = tlv(0x01, Buffer.of(0xff));

export function oid(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split('.').map(Number);
  const bytes: number[] = [];
  for (const arc of [first * 40 + second, ...rest]) {
    const digits = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) {
      digits.unshift(128 + (left % 128));
    }
    bytes.push(...digits);
  }
  return tlv(0x06, Buffer.from(bytes));
}

export function integer(hex: string): Buffer {
  return tlv(0x02, Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex'));
}

export function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/\.\d+|[-:T]/g, '');
  return digits < '2050' ? tlv(0x17, Buffer.from(digits.slice(2))) : tlv(0x18, Buffer.from(digits));
}

/** A name of one CN, or none. */
export function distinguishedName(common: string): Buffer {
  if (common === '') return sequence();
  return sequence(tlv(0x31, sequence(oid('2.5.4.3'), tlv(0x0c, Buffer.from(common)))));
}

export function extension(id: string, value: Uint8Array, critical = false): Buffer {
  return sequence(oid(id), ...(critical ? [TRUE] : []), octets(value));
}

export function basicConstraints(ca: boolean, pathLength: number | null = null): Buffer {
  const length = pathLength === null ? [] : [tlv(0x02, Buffer.of(pathLength))];
  return extension('2.5.29.19', sequence(...(ca ? [TRUE] : []), ...length), true);
}

const BITS = ['digitalSignature', 'nonRepudiation', 'keyEncipherment', '', '', 'keyCertSign', 'cRLSign'];
export function usage(...names: readonly string[]): Buffer {
  let byte = 0;
  for (const name of names) byte |= 0x80 >> BITS.indexOf(name);
  return extension('2.5.29.15', tlv(0x03, Buffer.of(0, byte)), true);
}

export const CLIENT = '1.3.6.1.5.5.7.3.2';
export const SERVER = '1.3.6.1.5.5.7.3.1';
export function purposes(...oids: readonly string[]): Buffer {
  return extension('2.5.29.37', sequence(...oids.map(oid)));
}

export const uriName = (uri: string): Buffer => tlv(0x86, Buffer.from(uri));
export const dnsName = (name: string): Buffer => tlv(0x82, Buffer.from(name));
export function names(...list: readonly Uint8Array[]): Buffer {
  return extension('2.5.29.17', sequence(...list), true);
}

export function constraints(wish: {
  readonly permitted?: readonly Uint8Array[];
  readonly excluded?: readonly Uint8Array[];
}): Buffer {
  const trees = (list: readonly Uint8Array[]) => list.map((base) => sequence(base));
  return extension(
    '2.5.29.30',
    sequence(
      ...(wish.permitted === undefined ? [] : [tlv(0xa0, ...trees(wish.permitted))]),
      ...(wish.excluded === undefined ? [] : [tlv(0xa1, ...trees(wish.excluded))]),
    ),
    true,
  );
}

export function keyId(key: KeyObject): Buffer {
  return createHash('sha1')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest();
}
export const subjectKeyId = (id: Uint8Array): Buffer => extension('2.5.29.14', octets(id));
export const authorityKeyId = (id: Uint8Array): Buffer => extension('2.5.29.35', sequence(tlv(0x80, id)));

const NULL = Buffer.of(5, 0);
const SHA256 = sequence(oid('2.16.840.1.101.3.4.2.1'), NULL);
const PSS_SHA256 = sequence(
  tlv(0xa0, SHA256),
  tlv(0xa1, sequence(oid('1.2.840.113549.1.1.8'), SHA256)),
  tlv(0xa2, tlv(0x02, Buffer.of(32))),
);
const ALGORITHMS = {
  'rsa md5': ['md5', oid('1.2.840.113549.1.1.4'), NULL],
  'rsa sha1': ['sha1', oid('1.2.840.113549.1.1.5'), NULL],
  'rsa sha256': ['sha256', oid('1.2.840.113549.1.1.11'), NULL],
  'rsa pss': ['sha256', oid('1.2.840.113549.1.1.10'), PSS_SHA256],
  'ec sha1': ['sha1', oid('1.2.840.10045.4.1')],
  'ec sha256': ['sha256', oid('1.2.840.10045.4.3.2')],
  'ec sha384': ['sha384', oid('1.2.840.10045.4.3.3')],
  ed25519: [null, oid('1.3.101.112')],
} as const;
export type Algorithm = keyof typeof ALGORITHMS;

function usualAlgorithm(key: KeyObject): Algorithm {
  if (key.asymmetricKeyType === 'ed25519') return 'ed25519';
  return key.asymmetricKeyType === 'rsa' ? 'rsa sha256' : 'ec sha256';
}

/** SEQUENCE of what is signed, the algorithm and the signature: a certificate or a list. */
export function signed(tbs: (algorithm: Buffer) => Buffer, key: KeyObject, wanted?: Algorithm): Buffer {
  const name = wanted ?? usualAlgorithm(key);
  const [hash, ...identifier] = ALGORITHMS[name];
  const algorithm = sequence(...identifier);
  const body = tbs(algorithm);
  const pss = { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
  const signature = signBytes(hash, body, name === 'rsa pss' ? pss : key);
  return sequence(body, algorithm, tlv(0x03, Buffer.of(0), signature));
}

export interface CertificateWish {
  readonly subject: string;
  readonly issuer: string;
  readonly keys: Keys;
  /** SubjectPublicKeyInfo in the place of that of `keys`: what no library writes. */
  readonly spki?: Uint8Array | undefined;
  readonly issuerKey: KeyObject;
  readonly serial?: string;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  readonly extensions: readonly Uint8Array[];
  readonly algorithm?: Algorithm | undefined;
}

let serials = 0x1000;
export function nextSerial(): string {
  return (serials++).toString(16);
}

export function certificate(wish: CertificateWish): Buffer {
  const { extensions } = wish;
  return signed(
    (algorithm) =>
      sequence(
        ...(extensions.length === 0 ? [] : [tlv(0xa0, tlv(0x02, Buffer.of(2)))]),
        integer(wish.serial ?? nextSerial()),
        algorithm,
        distinguishedName(wish.issuer),
        sequence(time(wish.notBefore), time(wish.notAfter)),
        distinguishedName(wish.subject),
        wish.spki ?? wish.keys.publicKey.export({ type: 'spki', format: 'der' }),
        ...(extensions.length === 0 ? [] : [tlv(0xa3, sequence(...extensions))]),
      ),
    wish.issuerKey,
    wish.algorithm,
  );
}

export interface ListWish {
  readonly issuer: string;
  readonly issuerDer?: Uint8Array;
  readonly key: KeyObject;
  readonly thisUpdate: number;
  readonly nextUpdate?: number | null;
  /** Hex, or a whole entry. */
  readonly revoked?: readonly (string | Uint8Array)[];
  readonly extensions?: readonly Uint8Array[];
  readonly algorithm?: Algorithm;
}

export function entry(serial: string, at: number, ...extensions: readonly Uint8Array[]): Buffer {
  return sequence(integer(serial), time(at), ...(extensions.length === 0 ? [] : [sequence(...extensions)]));
}

export function revocationList(wish: ListWish): Buffer {
  const { thisUpdate, nextUpdate = thisUpdate + 86_400_000, revoked = [], extensions = [] } = wish;
  const entries = revoked.map((one) => (typeof one === 'string' ? entry(one, thisUpdate) : one));
  return signed(
    (algorithm) =>
      sequence(
        tlv(0x02, Buffer.of(1)),
        algorithm,
        wish.issuerDer ?? distinguishedName(wish.issuer),
        time(thisUpdate),
        ...(nextUpdate === null ? [] : [time(nextUpdate)]),
        ...(entries.length === 0 ? [] : [sequence(Buffer.concat(entries))]),
        ...(extensions.length === 0 ? [] : [tlv(0xa0, sequence(...extensions))]),
      ),
    wish.key,
    wish.algorithm,
  );
}

export function pem(der: Uint8Array, label = 'CERTIFICATE'): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}
