/** Public keys that no honest certificate bears: what a stranger may write where OpenSSL reads a key. */
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { generator } from './damage.ts';
import { ecKeys, oid, sequence, tlv } from './pki.ts';

const NULL = Buffer.of(5, 0);
const RSA = '1.2.840.113549.1.1.1';
const RSA_PSS = '1.2.840.113549.1.1.10';
const DSA = '1.2.840.10040.4.1';
const EC = '1.2.840.10045.2.1';
const P256 = oid('1.2.840.10045.3.1.7');
const random = generator(7);

const int = (hex: string): Buffer => tlv(0x02, Buffer.from(hex, 'hex'));
/** A number in hex of that many bytes, its highest bit set behind the zero byte that makes it positive. */
function number(bytes: number, last = 0x01): string {
  const digits = Array.from({ length: bytes }, () => random(256));
  digits[0] = 0xc1;
  digits[bytes - 1] = last;
  return `00${Buffer.from(digits).toString('hex')}`;
}

function info(algorithm: string, parameters: readonly Uint8Array[], key: Uint8Array): Buffer {
  return sequence(sequence(oid(algorithm), ...parameters), tlv(0x03, Buffer.of(0), key));
}

/** SubjectPublicKeyInfo (RFC 3279 §2.3.1) of a modulus and an exponent in hex. */
export function rsaInfo(modulus: string, exponent: string): Buffer {
  return info(RSA, [NULL], sequence(int(modulus), int(exponent)));
}

/** One whose signatures are as dear to check as OpenSSL has it: up to 3072 bits the exponent may be as long as the modulus. */
export function dearInfo(): Buffer {
  return rsaInfo(number(384), number(383));
}

const ofKind = (make: () => { publicKey: KeyObject }) => (): Buffer =>
  make().publicKey.export({ type: 'spki', format: 'der' });
const point = (): Buffer => Buffer.from(`04${number(64).slice(2)}`, 'hex');

/** None of them may vouch for anybody. By what is odd about them. */
export const oddKeys: Readonly<Record<string, () => Uint8Array>> = {
  'EC: the point at infinity': () => info(EC, [P256], Buffer.of(0)),
  'EC: an empty point': () => info(EC, [P256], Buffer.alloc(0)),
  'EC: a point off the curve': () => info(EC, [P256], point()),
  'EC: half a point': () => info(EC, [P256], point().subarray(0, 33)),
  'EC: no parameters': () => info(EC, [], point()),
  'EC: NULL for parameters': () => info(EC, [NULL], point()),
  'EC: a curve of no known name': () => info(EC, [oid('1.2.3.4.5')], point()),
  'EC: P-256 spelled out': ofKind(() => ecKeys('P-256', 'explicit')),
  'EC: secp256k1': ofKind(() => ecKeys('secp256k1')),
  'EC: secp256k1 spelled out': ofKind(() => ecKeys('secp256k1', 'explicit')),
  'EC: sect571k1': ofKind(() => ecKeys('sect571k1')),
  'EC: sect571k1 spelled out': ofKind(() => ecKeys('sect571k1', 'explicit')),
  'EC: brainpoolP256r1': ofKind(() => ecKeys('brainpoolP256r1')),
  'EC: SM2': ofKind(() => ecKeys('SM2')),
  'RSA: nothing': () => rsaInfo('', ''),
  'RSA: zero': () => rsaInfo('00', '00'),
  'RSA: negative': () => rsaInfo(`80${'ff'.repeat(255)}`, '80'),
  'RSA: an exponent of 0': () => rsaInfo(number(256), '00'),
  'RSA: an exponent of 1': () => rsaInfo(number(256), '01'),
  'RSA: a negative exponent': () => rsaInfo(number(256), 'ff'),
  'RSA: a huge exponent': () => rsaInfo(number(256), number(3_000)),
  'RSA: an exponent as long as the modulus': dearInfo,
  'RSA: an even modulus': () => rsaInfo(number(256, 0x02), '010001'),
  'RSA: 200,000 bits': () => rsaInfo(number(25_000), '010001'),
  'RSA: 16,384 bits': () => rsaInfo(number(2_048), '010001'),
  'RSA: no numbers': () => info(RSA, [NULL], Buffer.from(number(50), 'hex')),
  'RSA: no bits': () => sequence(sequence(oid(RSA), NULL), tlv(0x03, Buffer.of(0))),
  'RSA: an empty bit string': () => sequence(sequence(oid(RSA), NULL), tlv(0x03)),
  'RSA-PSS: parameters of no known hash': () =>
    info(RSA_PSS, [sequence(tlv(0xa0, sequence(oid('1.2.3.4'))))], sequence(int('00c1'), int('03'))),
  'RSA-PSS: NULL for parameters': () => info(RSA_PSS, [NULL], sequence(int('00c1'), int('03'))),
  'RSA-PSS: another hash within': ofKind(() =>
    generateKeyPairSync('rsa-pss', {
      modulusLength: 2_048,
      hashAlgorithm: 'sha256',
      mgf1HashAlgorithm: 'sha512',
    }),
  ),
  'DSA: no parameters': () => info(DSA, [], int('05')),
  'DSA: NULL for parameters': () => info(DSA, [NULL], int('05')),
  'DSA: zeros': () => info(DSA, [sequence(int('00'), int('00'), int('00'))], int('00')),
  'DSA: 9,984 bits': () =>
    info(DSA, [sequence(int(number(1_248)), int(number(32)), int(number(1_247)))], int(number(1_247))),
  DSA: ofKind(() => generateKeyPairSync('dsa', { modulusLength: 1_024, divisorLength: 160 })),
  X25519: ofKind(() => generateKeyPairSync('x25519')),
  X448: ofKind(() => generateKeyPairSync('x448')),
  Ed448: ofKind(() => generateKeyPairSync('ed448')),
  'Ed25519: five bytes': () => info('1.3.101.112', [], Buffer.from('0102030405', 'hex')),
  'ML-DSA': ofKind(() => generateKeyPairSync('ml-dsa-44')),
  'ML-KEM': ofKind(() => generateKeyPairSync('ml-kem-768')),
  'SLH-DSA': ofKind(() => generateKeyPairSync('slh-dsa-sha2-128f')),
  'Diffie-Hellman': () =>
    info('1.2.840.113549.1.3.1', [sequence(int(number(256)), int('02'))], int(number(255))),
  'Diffie-Hellman of X9.42': () =>
    info('1.2.840.10046.2.1', [sequence(int('0b'), int('02'), int('05'))], int('03')),
  GOST: () => info('1.2.643.7.1.1.1.1', [sequence(oid('1.2.643.2.2.35.1'))], Buffer.from(number(66), 'hex')),
  'an algorithm that nobody knows': () => info('1.2.3.4.5.6', [], Buffer.from(number(20), 'hex')),
  'no algorithm': () => sequence(sequence(), tlv(0x03, Buffer.of(0, 1, 2, 3))),
  'nothing at all': () => sequence(),
};
