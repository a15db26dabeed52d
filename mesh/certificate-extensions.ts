/** Reads the extensions of a certificate that decide what it may be used for (RFC 5280 §4.2). */
import { BIT_STRING, BOOLEAN, type Cursor, DerError, hexByte, OCTET_STRING, SEQUENCE } from './der.ts';

/** Bits of the key usage, RFC 5280 §4.2.1.3: bit n of the standard is 2ⁿ here. */
export const keyUsage = { digitalSignature: 1 << 0, keyCertSign: 1 << 5, cRLSign: 1 << 6 } as const;

/** Purposes of the extended key usage, RFC 5280 §4.2.1.12. */
export const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';
export const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';

/** Kinds of GeneralName as their tags say, RFC 5280 §4.2.1.6; the constructed ones are those whose type is. */
export const RFC822_NAME = 0x81;
const DNS_NAME = 0x82;
export const DIRECTORY_NAME = 0xa4;
export const URI_NAME = 0x86;
const NAME_TAGS = new Set([0xa0, RFC822_NAME, DNS_NAME, 0xa3, DIRECTORY_NAME, 0xa5, URI_NAME, 0x87, 0x88]);
/** rfc822Name, dNSName, URI: IA5Strings. */
const TEXT_TAGS = new Set([RFC822_NAME, DNS_NAME, URI_NAME]);

/** RFC 5280 §4.2.1.10, of a CA: where the names of the certificates below it must lie. */
export interface NameConstraints {
  /** Hosts URIs may have, one of them; null: any. */
  readonly permittedUris: readonly string[] | null;
  /** Hosts URIs may not have. */
  readonly excludedUris: readonly string[];
  /** Tags of the other kinds of name it says something of. */
  readonly otherKinds: readonly number[];
}

export interface Extensions {
  /** Every URI of the subject alternative name, in order, as written. */
  readonly uris: readonly string[];
  /** Tags of the kinds of name the subject alternative name holds. */
  readonly nameKinds: readonly number[];
  /** Basic constraints say CA:TRUE. */
  readonly ca: boolean;
  /** How many CAs may stand between this one and a leaf; null: any number. */
  readonly pathLength: number | null;
  /** Bits as in `keyUsage`; null where the extension is absent: any. */
  readonly keyUsage: number | null;
  /** Object identifiers in dots; null where the extension is absent: any purpose. */
  readonly extendedKeyUsage: readonly string[] | null;
  readonly nameConstraints: NameConstraints | null;
  /** Hex; null where absent. */
  readonly subjectKeyId: string | null;
  readonly authorityKeyId: string | null;
  /** Object identifier of a critical extension that is not judged here; null: there is none. */
  readonly unknownCritical: string | null;
}

type Writable = { -readonly [Name in keyof Extensions]: Extensions[Name] };

const readers: Readonly<Record<string, (value: Cursor, into: Writable) => void>> = {
  '2.5.29.14': (value, into) => {
    into.subjectKeyId = value.enter(OCTET_STRING).hex();
  },
  '2.5.29.15': (value, into) => {
    into.keyUsage = readKeyUsage(value);
  },
  '2.5.29.17': readNames,
  '2.5.29.19': readBasicConstraints,
  '2.5.29.30': (value, into) => {
    into.nameConstraints = readNameConstraints(value);
  },
  // certificate policies: no policy is asked for, so whichever it names will do (RFC 5280 §6.1.5 (g))
  '2.5.29.32': (value) => {
    value.enter(SEQUENCE);
  },
  '2.5.29.35': (value, into) => {
    into.authorityKeyId = readAuthorityKeyId(value);
  },
  '2.5.29.37': (value, into) => {
    into.extendedKeyUsage = readPurposes(value);
  },
};

/**
 * Reads the list of extensions of a certificate.
 * @param wrapped content of `[3]`, or null where the certificate has none
 * @throws DerError
 */
export function readExtensions(wrapped: Cursor | null): Extensions {
  const into: Writable = {
    uris: [],
    nameKinds: [],
    ca: false,
    pathLength: null,
    keyUsage: null,
    extendedKeyUsage: null,
    nameConstraints: null,
    subjectKeyId: null,
    authorityKeyId: null,
    unknownCritical: null,
  };
  if (wrapped === null) return into;
  for (const { oid, critical, value } of extensionsOf(wrapped)) {
    const read = readers[oid];
    if (read !== undefined) {
      read(value, into);
      value.finish();
    } else if (critical) into.unknownCritical ??= oid;
  }
  return into;
}

export interface Extension {
  readonly oid: string;
  readonly critical: boolean;
  readonly value: Cursor;
}

/** Extensions of a certificate, of a revocation list or of one of its entries; each may occur but once. */
export function* extensionsOf(wrapped: Cursor): Generator<Extension, void> {
  const list = wrapped.enter(SEQUENCE);
  wrapped.finish();
  const seen = new Set<string>();
  while (list.length > 0) {
    const extension = list.enter(SEQUENCE);
    const oid = extension.oid();
    // RFC 5280 §4.2: "A certificate MUST NOT include more than one instance of a particular extension."
    if (seen.has(oid)) throw new DerError('an extension twice');
    seen.add(oid);
    const critical = extension.peek() === BOOLEAN && extension.boolean();
    const value = extension.enter(OCTET_STRING);
    extension.finish();
    yield { oid, critical, value };
  }
}

function readNames(value: Cursor, into: Writable): void {
  const names = value.enter(SEQUENCE);
  const uris: string[] = [];
  const kinds = new Set<number>();
  // RFC 5280 §4.2.1.6: "If the subjectAltName extension is present, the sequence MUST contain at least one entry."
  if (names.length === 0) throw new DerError('no name in the subject alternative name');
  while (names.length > 0) {
    const { tag, text } = readName(names);
    kinds.add(tag);
    if (tag === URI_NAME) uris.push(text);
  }
  into.uris = uris;
  into.nameKinds = [...kinds];
}

function readName(parent: Cursor): { readonly tag: number; readonly text: string } {
  const { tag, content } = parent.any();
  if (!NAME_TAGS.has(tag)) throw new DerError(`no kind of name: ${hexByte(tag)}`);
  return { tag, text: TEXT_TAGS.has(tag) ? content.ascii() : '' };
}

function readBasicConstraints(value: Cursor, into: Writable): void {
  const constraints = value.enter(SEQUENCE);
  if (constraints.peek() === BOOLEAN) {
    const flag = constraints.enter(BOOLEAN);
    if (flag.length !== 1) throw new DerError('basic constraints with an odd flag');
    into.ca = flag.byte() !== 0;
  }
  if (constraints.length > 0) into.pathLength = constraints.smallNumber();
  constraints.finish();
}

function readKeyUsage(value: Cursor): number {
  const bits = value.enter(BIT_STRING);
  const unused = bits.byte();
  if (unused > 7 || bits.length > 2 || (bits.length === 0 && unused > 0)) throw new DerError('odd key usage');
  let usage = 0;
  for (let at = 0; bits.length > 0; at += 8) {
    const byte = bits.byte();
    for (let bit = 0; bit < 8; bit++) if ((byte & (0x80 >> bit)) !== 0) usage |= 1 << (at + bit);
  }
  return usage;
}

function readPurposes(value: Cursor): readonly string[] {
  const list = value.enter(SEQUENCE);
  if (list.length === 0) throw new DerError('extended key usage without a purpose');
  const purposes: string[] = [];
  while (list.length > 0) purposes.push(list.oid());
  return purposes;
}

/** RFC 5280 §4.2.1.1: the key identifier is [0]; issuer [1] and serial number [2] are not used by us. */
export function readAuthorityKeyId(value: Cursor): string | null {
  const identifier = value.enter(SEQUENCE);
  return identifier.peek() === 0x80 ? identifier.enter(0x80).hex() : null;
}

function readNameConstraints(value: Cursor): NameConstraints {
  const constraints = value.enter(SEQUENCE);
  const otherKinds = new Set<number>();
  let permittedUris: string[] | null = null;
  let excludedUris: string[] = [];
  // RFC 5280 §4.2.1.10: permittedSubtrees [0], excludedSubtrees [1], not both absent
  if (constraints.length === 0) throw new DerError('name constraints that constrain nothing');
  if (constraints.peek() === 0xa0) {
    const uris = readSubtrees(constraints.enter(0xa0), otherKinds);
    if (uris.length > 0) permittedUris = uris;
  }
  if (constraints.peek() === 0xa1) excludedUris = readSubtrees(constraints.enter(0xa1), otherKinds);
  constraints.finish();
  return { permittedUris, excludedUris, otherKinds: [...otherKinds] };
}

function readSubtrees(list: Cursor, otherKinds: Set<number>): string[] {
  const uris: string[] = [];
  if (list.length === 0) throw new DerError('name constraints without a name');
  while (list.length > 0) {
    const subtree = list.enter(SEQUENCE);
    const { tag, text } = readName(subtree);
    // "minimum MUST be zero, and maximum MUST be absent", and DER leaves out a zero that is the default
    subtree.finish();
    if (tag === URI_NAME) uris.push(text);
    else otherKinds.add(tag);
  }
  return uris;
}
