/** Reads one revocation list from its DER, and refuses those that say more than we honour (RFC 5280 §5). */
import { type Extension, extensionsOf, readAuthorityKeyId } from './certificate-extensions.ts';
import {
  BIT_STRING,
  Cursor,
  DerError,
  ENUMERATED,
  GENERALIZED_TIME,
  INTEGER,
  SEQUENCE,
  UTC_TIME,
} from './der.ts';
import { comparableName } from './distinguished-name.ts';
import { isStrongSignature, readSignatureAlgorithm } from './signature-algorithm.ts';

/** What is read of one list. Nothing here says that its CA signed it. */
export interface ListFacts {
  /** The whole list. */
  readonly der: Buffer;
  /** Distinguished name, DER: a view of the bytes that were read; and as `comparableName` has it. */
  readonly issuer: Buffer;
  readonly issuerName: string;
  /** Milliseconds since the epoch; nextUpdate is null where the list does not tell. */
  readonly thisUpdate: number;
  readonly nextUpdate: number | null;
  /** Serial numbers as `CertificateFacts.serial`. */
  readonly serials: ReadonlySet<string>;
  /** Hex; null where absent. */
  readonly authorityKeyId: string | null;
  /** Of its edition (RFC 5280 §5.2.3); null where absent. */
  readonly number: bigint | null;
  readonly signatureAlgorithm: string;
  /** What is signed, and the signature. */
  readonly tbs: Buffer;
  readonly signature: Buffer;
}

/** Of all lists of a file together: beyond, a mesh should have shorter-lived certificates instead. */
export const MAX_ENTRIES = 1_000_000;

const AUTHORITY_KEY_ID = '2.5.29.35';
const CRL_NUMBER = '2.5.29.20';
/** RFC 5280 §5.2.3: readers must take as many, and writers must not use more. */
const MAX_NUMBER_BYTES = 20;
const DELTA_INDICATOR = '2.5.29.27';
const ISSUING_DISTRIBUTION_POINT = '2.5.29.28';
const REASON_CODE = '2.5.29.21';
const CERTIFICATE_ISSUER = '2.5.29.29';
const REMOVE_FROM_CRL = 8;

/**
 * @param maxEntries how many entries it may have
 * @throws DerError, its message saying what is wrong or not supported
 */
export function readList(der: Uint8Array, maxEntries: number): ListFacts {
  const file = new Cursor(der);
  const whole = file.element(SEQUENCE);
  file.finish();
  const list = new Cursor(whole).enter(SEQUENCE);
  const tbs = list.element(SEQUENCE);
  const outerAlgorithm = list.element(SEQUENCE);
  const signature = readSignature(list);
  list.finish();

  const content = new Cursor(tbs).enter(SEQUENCE);
  const version = content.peek() === 0x02 ? content.smallNumber() + 1 : 1;
  if (version > 2) throw new DerError(`version ${version} of the format`);
  const algorithm = content.element(SEQUENCE);
  if (!algorithm.equals(outerAlgorithm)) throw new DerError('two different signature algorithms');
  const signatureAlgorithm = readSignatureAlgorithm(new Cursor(algorithm));
  if (!isStrongSignature(signatureAlgorithm)) {
    throw new DerError(`signed by ${signatureAlgorithm}, which is too weak or not known`);
  }
  const issuer = content.element(SEQUENCE);
  const issuerName = comparableName(issuer);
  const thisUpdate = content.time();
  const hasNext = content.peek() === UTC_TIME || content.peek() === GENERALIZED_TIME;
  const nextUpdate = hasNext ? content.time() : null;
  const entries = content.peek() === SEQUENCE ? content.enter(SEQUENCE) : null;
  const serials = entries === null ? new Set<string>() : readEntries(entries, maxEntries);
  const extensions = content.peek() === 0xa0 ? readListExtensions(content.enter(0xa0)) : NO_EXTENSIONS;
  content.finish();
  return {
    der: whole,
    issuer,
    issuerName,
    thisUpdate,
    nextUpdate,
    serials,
    ...extensions,
    signatureAlgorithm,
    tbs,
    signature,
  };
}

function readSignature(list: Cursor): Buffer {
  const bits = list.enter(BIT_STRING);
  if (bits.byte() !== 0) throw new DerError('signature of no whole bytes');
  return bits.rest();
}

function readEntries(entries: Cursor, maxEntries: number): Set<string> {
  const serials = new Set<string>();
  while (entries.length > 0) {
    if (serials.size >= maxEntries) throw new DerError(`more than ${MAX_ENTRIES} entries`);
    const entry = entries.enter(SEQUENCE);
    serials.add(entry.serial());
    skipDate(entry);
    if (entry.length > 0) for (const extension of extensionsOf(entry)) checkEntryExtension(extension);
    entry.finish();
  }
  return serials;
}

/** When it was revoked: of no use to us, and there may be a million of them. */
function skipDate(entry: Cursor): void {
  const tag = entry.peek();
  if (tag !== UTC_TIME && tag !== GENERALIZED_TIME) throw new DerError('an entry without a date');
  entry.enter(tag);
}

/** RFC 5280 §5.3: "If a CRL contains a critical CRL entry extension that the application cannot process, then the application MUST NOT use that CRL". */
function checkEntryExtension({ oid, critical, value }: Extension): void {
  if (oid === CERTIFICATE_ISSUER) {
    throw new DerError("an indirect list, with entries of other CAs: give each CA's own list");
  }
  if (oid === REASON_CODE) {
    const code = value.enter(ENUMERATED);
    if (code.length === 1 && code.byte() === REMOVE_FROM_CRL) throw new DerError(DELTA);
  } else if (critical)
    throw new DerError(`an entry with the critical extension ${oid}, which we do not know`);
}

const DELTA = 'a delta list, which tells changes only: give the complete one';

type ListExtensions = Pick<ListFacts, 'authorityKeyId' | 'number'>;
const NO_EXTENSIONS: ListExtensions = { authorityKeyId: null, number: null };

function readListExtensions(wrapped: Cursor): ListExtensions {
  let { authorityKeyId, number } = NO_EXTENSIONS;
  for (const { oid, critical, value } of extensionsOf(wrapped)) {
    if (oid === DELTA_INDICATOR) throw new DerError(DELTA);
    if (oid === ISSUING_DISTRIBUTION_POINT) {
      throw new DerError(
        'a list for a part of the certificates (issuingDistributionPoint): give the complete one',
      );
    }
    if (oid === AUTHORITY_KEY_ID) authorityKeyId = readAuthorityKeyId(value);
    else if (oid === CRL_NUMBER) number = readNumber(value);
    else if (critical) throw new DerError(`the critical extension ${oid}, which we do not know`);
  }
  return { authorityKeyId, number };
}

function readNumber(value: Cursor): bigint {
  const digits = value.enter(INTEGER);
  value.finish();
  if (digits.length === 0 || digits.length > MAX_NUMBER_BYTES || digits.peek() >= 0x80) {
    throw new DerError(`a number (cRLNumber) that is negative or longer than ${MAX_NUMBER_BYTES} bytes`);
  }
  return BigInt(`0x${digits.hex()}`);
}
