/** Revocation lists (RFC 5280 §5): which certificates their CAs have taken back. */
import { type ListFacts, MAX_ENTRIES, readList } from './crl-reader.ts';
import { DerError } from './der.ts';
import { describeName } from './distinguished-name.ts';
import { type ListIssuer, maySignLists, nameOf, newestFirst, RevocationList } from './revocation-list.ts';

/** What the lists say of one certificate: `unlisted` where its CA has no list here. */
export type RevocationVerdict = 'good' | 'unlisted' | RevokedVerdict;

export interface RevokedVerdict {
  readonly reason: 'revoked' | 'bad_certificate';
  /** A clause about the certificate. */
  readonly detail: string;
}

/** One list, for people. Whether its CA signed it is only known when a certificate of that CA comes along. */
export interface ListSummary {
  readonly issuer: string;
  /** Milliseconds since the epoch; nextUpdate is null where the list does not tell. */
  readonly thisUpdate: number;
  readonly nextUpdate: number | null;
  readonly entries: number;
}

/** The lists cannot be read, or say more than we honour; the message names the list and what is wrong. */
export class CrlError extends Error {
  override name = 'CrlError';
}

export const MAX_CRL_BYTES = 8_388_608;
const MAX_LISTS = 256;

/**
 * The lists of one file, unchanging. A CA without a list here revokes nothing: its certificates pass, as ztunnel has
 * it (`allow_unknown_revocation_status`). Istio's Envoys refuse all chains with such a CA once any CA of the chain has
 * a list; a list of each CA satisfies both. A list whose nextUpdate has passed still counts, for what it revoked is
 * not good again; `stale` tells of it. (ztunnel does so too, while OpenSSL and Envoy then refuse everybody.)
 */
export class RevocationLists {
  static readonly none = new RevocationLists([]);
  /**
   * By issuer's name, newest edition first. Names are compared as RFC 5280 §7.1 has it, not byte by byte as in a chain:
   * here a name that is missed would let the revoked in, and it is the key that decides.
   */
  readonly #byIssuer: ReadonlyMap<string, readonly RevocationList[]>;
  /** As they stand in the file. */
  readonly lists: readonly RevocationList[];
  readonly summaries: readonly ListSummary[];

  private constructor(lists: readonly ListFacts[]) {
    this.lists = lists.map((facts) => new RevocationList(facts));
    const byIssuer = Map.groupBy(this.lists, ({ facts }) => facts.issuerName);
    this.#byIssuer = new Map([...byIssuer].map(([name, same]) => [name, newestFirst(same)]));
    this.summaries = lists.map(({ issuer, thisUpdate, nextUpdate, serials }) => ({
      issuer: describeName(issuer),
      thisUpdate,
      nextUpdate,
      entries: serials.size,
    }));
  }

  /**
   * Reads a file of one DER list, or of PEM lists (`X509 CRL`) with any text between them. Whole or not at all: a
   * list that is damaged, weakly signed, a delta, indirect, or has a critical extension we do not know refuses all.
   * An empty file is refused too, for it may be half-written; a CA that revoked nothing has a list without entries.
   * @throws CrlError, and nothing else, whatever the bytes
   */
  static read(file: Uint8Array | string): RevocationLists {
    const bytes =
      typeof file === 'string' ? Buffer.from(file) : Buffer.from(file.buffer, file.byteOffset, file.length);
    if (bytes.length > MAX_CRL_BYTES) throw new CrlError(`longer than ${MAX_CRL_BYTES} bytes`);
    const found = bytes.includes('-----BEGIN ') ? pemBlocks(bytes.toString('latin1')) : [bytes];
    const lists: ListFacts[] = [];
    let left = MAX_ENTRIES;
    for (const [i, der] of found.entries()) {
      const facts = readOne(der, left, `list ${i + 1} of ${found.length}`);
      left -= facts.serials.size;
      lists.push(facts);
    }
    return new RevocationLists(lists);
  }

  /** Those whose next edition should have been here by now. */
  stale(now: number): readonly ListSummary[] {
    return this.summaries.filter(({ nextUpdate }) => nextUpdate !== null && nextUpdate <= now);
  }

  /**
   * Asks this issuer's newest list for a serial number. A list is the issuer's by name and key: of two CAs of one
   * name each has its own. One that claims the issuer's key identifier without its signature is damaged or forged,
   * and one signed by a CA that may not (RFC 5280 §6.3.3 (f)) is none: no certificate of that CA passes then.
   * @param serial as `CertificateFacts.serial`
   */
  check(serial: string, issuer: ListIssuer): RevocationVerdict {
    if (this.#byIssuer.size === 0) return 'unlisted';
    const name = nameOf(issuer);
    if (name === null) return unusable("its issuer's name cannot be held against revocation lists");
    for (const list of this.#byIssuer.get(name) ?? []) {
      const signer = list.signer(issuer);
      if (signer === 'another') continue;
      if (signer === 'forged') {
        return unusable("its issuer's revocation list does not bear its issuer's signature");
      }
      if (!maySignLists(issuer)) {
        return unusable('its issuer has a revocation list but lacks cRLSign in its key usage');
      }
      return list.facts.serials.has(serial) ? revoked(serial, list.facts) : 'good';
    }
    return 'unlisted';
  }
}

function revoked(serial: string, { thisUpdate }: ListFacts): RevokedVerdict {
  const edition = new Date(thisUpdate).toISOString();
  return {
    reason: 'revoked',
    detail: `its serial ${serial} is on its issuer's revocation list of ${edition}`,
  };
}

function unusable(detail: string): RevokedVerdict {
  return { reason: 'bad_certificate', detail };
}

function readOne(der: Uint8Array, maxEntries: number, what: string): ListFacts {
  try {
    return readList(der, maxEntries);
  } catch (error) {
    if (error instanceof DerError) throw new CrlError(`${what}: ${error.message}`);
    throw error;
  }
}

const BLOCK = /-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----/g;
const MARK = /-----(?:BEGIN|END) /g;

function pemBlocks(text: string): readonly Buffer[] {
  const blocks = [...text.matchAll(BLOCK)].map(([, base64 = '']) => Buffer.from(base64, 'base64'));
  if ((text.match(MARK)?.length ?? 0) !== blocks.length * 2) {
    throw new CrlError('holds something besides whole PEM blocks of X509 CRL');
  }
  if (blocks.length > MAX_LISTS) throw new CrlError(`more than ${MAX_LISTS} lists`);
  return blocks;
}
