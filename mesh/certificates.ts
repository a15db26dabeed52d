/** Reads from a certificate's DER what a handshake needs: its URI names, validity, serial, and whether it is a CA's. */
import { type Identity, parseIdentity } from './identity.ts';

/** What is read of one certificate. Nothing here says that anyone trusts it. */
export interface CertificateFacts {
  /** Every URI of the subject alternative name, in order, as written. */
  readonly uris: readonly string[];
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hex in lower case, without leading zero bytes. */
  readonly serial: string;
  /** Basic constraints say CA:TRUE. */
  readonly ca: boolean;
}

/** The one error of this file: the bytes are not a certificate we are willing to read. */
export class CertificateError extends Error {
  override name = 'CertificateError';
}

/** Node takes no longer chains than 100 KiB either; one certificate of ours is under 1 KiB. */
const MAX_BYTES = 65_536;
const MAX_SERIAL_BYTES = 64;

const INTEGER = 0x02;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const OID = 0x06;
const UTC_TIME = 0x17;
const GENERALIZED_TIME = 0x18;
const SEQUENCE = 0x30;
const URI_NAME = 0x86;
/** GeneralName's choices [0] to [8], RFC 5280 §4.2.1.6; the constructed ones are those whose type is. */
const NAME_TAGS = new Set([0xa0, 0x81, 0x82, 0xa3, 0xa4, 0xa5, URI_NAME, 0x87, 0x88]);
/** rfc822Name, dNSName, URI: IA5Strings. */
const TEXT_TAGS = new Set([0x81, 0x82, URI_NAME]);

const SUBJECT_ALT_NAME = '551d11'; // 2.5.29.17
const BASIC_CONSTRAINTS = '551d13'; // 2.5.29.19

/**
 * Reads a certificate (RFC 5280 §4.1) directly from its DER, never from Node's SAN string, whose quoting an
 * attacker can play with. Strict: definite and minimal lengths, no bytes left over, no extension twice, no NUL
 * or non-ASCII byte in a name. Signatures are the caller's affair. Synchronous, no copies but the result's.
 * @throws CertificateError, and nothing else, whatever the bytes.
 */
export function readCertificate(der: Uint8Array): CertificateFacts {
  if (der.length > MAX_BYTES) throw new CertificateError(`longer than ${MAX_BYTES} bytes`);
  const file = new Cursor(der, 0, der.length);
  const certificate = file.enter(SEQUENCE);
  file.finish();
  const tbs = certificate.enter(SEQUENCE);
  certificate.enter(SEQUENCE); // signatureAlgorithm
  certificate.enter(BIT_STRING);
  certificate.finish();

  let version = 1;
  if (tbs.peek() === 0xa0) {
    const explicit = tbs.enter(0xa0);
    const number = explicit.enter(INTEGER);
    explicit.finish();
    if (number.length !== 1) throw new CertificateError('version is no small number');
    version = number.byte() + 1;
  }
  const serial = serialOf(tbs.enter(INTEGER));
  tbs.enter(SEQUENCE); // signature
  tbs.enter(SEQUENCE); // issuer
  const validity = tbs.enter(SEQUENCE);
  const notBefore = readTime(validity);
  const notAfter = readTime(validity);
  validity.finish();
  tbs.enter(SEQUENCE); // subject
  tbs.enter(SEQUENCE); // subjectPublicKeyInfo
  if (tbs.peek() === 0x81) tbs.enter(0x81); // issuerUniqueID
  if (tbs.peek() === 0x82) tbs.enter(0x82); // subjectUniqueID
  const extensions = tbs.peek() === 0xa3 ? tbs.enter(0xa3) : null;
  tbs.finish();
  if (extensions !== null && version !== 3) throw new CertificateError('extensions need version 3');

  const { uris, ca } = readExtensions(extensions);
  return { uris, notBefore, notAfter, serial, ca };
}

/**
 * The identity a workload's certificate carries. SPIFFE X509-SVID §2 and §4.1: exactly one URI name, a valid
 * SPIFFE ID with a path, on a certificate that is not a CA's. Null for anything else, unreadable bytes included.
 */
export function spiffeIdentity(der: Uint8Array): Identity | null {
  try {
    const { uris, ca } = readCertificate(der);
    const uri = uris[0];
    return uri === undefined || uris.length !== 1 || ca ? null : parseIdentity(uri);
  } catch (error) {
    if (error instanceof CertificateError) return null;
    throw error;
  }
}

/** A position in DER bytes with an end it cannot pass. */
class Cursor {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  #at: number;

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  /** Bytes not yet read. */
  get length(): number {
    return this.#end - this.#at;
  }

  /** The next tag without reading it; -1 at the end. */
  peek(): number {
    return this.#at < this.#end ? (this.#bytes[this.#at] ?? -1) : -1;
  }

  byte(): number {
    if (this.#at >= this.#end) throw new CertificateError('ends too early');
    return this.#bytes[this.#at++] ?? 0;
  }

  /** Reads an element of exactly this tag, answers its content and moves behind it (X.690 §8.1, §10.1). */
  enter(tag: number): Cursor {
    const found = this.byte();
    if (found !== tag) throw new CertificateError(`tag ${hexByte(found)} where ${hexByte(tag)} belongs`);
    return this.#content();
  }

  /** Reads an element whatever its tag. Tags of several bytes do not occur in what we read. */
  any(): { readonly tag: number; readonly content: Cursor } {
    const tag = this.byte();
    if ((tag & 0x1f) === 0x1f) throw new CertificateError('tag of several bytes');
    return { tag, content: this.#content() };
  }

  #content(): Cursor {
    let length = this.byte();
    if (length === 0x80) throw new CertificateError('indefinite length');
    if (length > 0x80) {
      const count = length & 0x7f;
      if (count > 3) throw new CertificateError('length of more than three bytes');
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + this.byte();
      if (length < 0x80 || length < 256 ** (count - 1)) throw new CertificateError('length not minimal');
    }
    const start = this.#at;
    if (length > this.#end - start) throw new CertificateError('length beyond its parent');
    this.#at = start + length;
    return new Cursor(this.#bytes, start, start + length);
  }

  /** Nothing may be left. */
  finish(): void {
    if (this.#at !== this.#end) throw new CertificateError('bytes left over');
  }

  hex(): string {
    let text = '';
    while (this.#at < this.#end) text += hexByte(this.byte());
    return text;
  }

  /** Visible ASCII only: what a URI, DNS name or time can be written in, so no NUL can cut it short. */
  ascii(): string {
    let text = '';
    while (this.#at < this.#end) {
      const code = this.byte();
      if (code < 0x21 || code > 0x7e) throw new CertificateError(`byte ${hexByte(code)} in a name or time`);
      text += String.fromCharCode(code);
    }
    return text;
  }
}

function hexByte(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}

function serialOf(number: Cursor): string {
  if (number.length === 0 || number.length > MAX_SERIAL_BYTES)
    throw new CertificateError('serial of odd length');
  return number.hex().replace(/^(?:00)+(?=..)/, '');
}

const TIME = /^(\d{2}|\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z$/;

/** RFC 5280 §4.1.2.5: UTCTime with two digits for the year, split at 50, or GeneralizedTime; both to seconds, in Z. */
function readTime(parent: Cursor): number {
  const { tag, content } = parent.any();
  if (tag !== UTC_TIME && tag !== GENERALIZED_TIME) throw new CertificateError('neither kind of time');
  if (content.length !== (tag === UTC_TIME ? 13 : 15)) throw new CertificateError('time of odd length');
  const digits = TIME.exec(content.ascii());
  if (digits === null) throw new CertificateError('time not in seconds and Z');
  const [, yearText, month, day, hour, minute, second] = digits;
  let year = Number(yearText);
  if (tag === UTC_TIME) year += year >= 50 ? 1900 : 2000;
  // Date.UTC takes years under 100 for 19xx, and rolls 31 February over into March
  const date = new Date(
    Date.UTC(2000, Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second)),
  );
  date.setUTCFullYear(year, Number(month) - 1, Number(day));
  const rolled =
    date.getUTCMonth() !== Number(month) - 1 ||
    date.getUTCDate() !== Number(day) ||
    date.getUTCHours() !== Number(hour) ||
    date.getUTCMinutes() !== Number(minute) ||
    date.getUTCSeconds() !== Number(second);
  if (rolled) throw new CertificateError('no such time');
  return date.getTime();
}

function readExtensions(wrapped: Cursor | null): { uris: readonly string[]; ca: boolean } {
  let uris: readonly string[] = [];
  let ca = false;
  if (wrapped === null) return { uris, ca };
  const list = wrapped.enter(SEQUENCE);
  wrapped.finish();
  const seen = new Set<string>();
  while (list.length > 0) {
    const extension = list.enter(SEQUENCE);
    const oid = extension.enter(OID).hex();
    // RFC 5280 §4.2: "A certificate MUST NOT include more than one instance of a particular extension."
    if (seen.has(oid)) throw new CertificateError('an extension twice');
    seen.add(oid);
    if (extension.peek() === 0x01) extension.enter(0x01); // critical
    const value = extension.enter(OCTET_STRING);
    extension.finish();
    if (oid === SUBJECT_ALT_NAME) uris = readUris(value);
    else if (oid === BASIC_CONSTRAINTS) ca = readCaFlag(value);
  }
  return { uris, ca };
}

function readUris(value: Cursor): readonly string[] {
  const names = value.enter(SEQUENCE);
  value.finish();
  const uris: string[] = [];
  // RFC 5280 §4.2.1.6: "If the subjectAltName extension is present, the sequence MUST contain at least one entry."
  if (names.length === 0) throw new CertificateError('no name in the subject alternative name');
  while (names.length > 0) {
    const { tag, content } = names.any();
    if (!NAME_TAGS.has(tag)) throw new CertificateError(`no kind of name: ${hexByte(tag)}`);
    const text = TEXT_TAGS.has(tag) ? content.ascii() : '';
    if (tag === URI_NAME) uris.push(text);
  }
  return uris;
}

function readCaFlag(value: Cursor): boolean {
  const constraints = value.enter(SEQUENCE);
  value.finish();
  if (constraints.peek() !== 0x01) return false;
  const flag = constraints.enter(0x01);
  if (flag.length !== 1) throw new CertificateError('basic constraints with an odd flag');
  return flag.byte() !== 0;
}
