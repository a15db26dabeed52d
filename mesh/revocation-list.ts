/** One revocation list: whose it is by name, key and signature, and which of two of one CA is the newer edition. */
import { createHash, type KeyObject } from 'node:crypto';
import { keyUsage } from './certificate-extensions.ts';
import type { CertificateFacts } from './certificates.ts';
import type { ListFacts } from './crl-reader.ts';
import { DerError } from './der.ts';
import { comparableName } from './distinguished-name.ts';
import { verifySignature } from './signature-algorithm.ts';

/** The CA whose list is asked for. */
export interface ListIssuer {
  readonly facts: CertificateFacts;
  readonly publicKey: KeyObject;
}

/** As `ListFacts.issuerName` has it; null: it cannot be held against one. */
export function nameOf({ facts: { subject } }: ListIssuer): string | null {
  try {
    return comparableName(subject);
  } catch (error) {
    if (error instanceof DerError) return null;
    throw error;
  }
}

/** RFC 5280 §6.3.3 (f): a key usage that is there must have cRLSign. */
export function maySignLists({ facts: { keyUsage: usage } }: ListIssuer): boolean {
  return usage === null || (usage & keyUsage.cRLSign) !== 0;
}

/** Keys remembered for a list: of one name and key identifier there is one CA, and seldom its renewal. */
const MAX_KEYS = 16;

export class RevocationList {
  readonly facts: ListFacts;
  /** Whether it bears a key's signature, by the SHA-256 of the key: a list may be megabytes long. */
  readonly #signedBy = new Map<string, boolean>();

  constructor(facts: ListFacts) {
    this.facts = facts;
  }

  /**
   * Whether a CA of the list's issuer name has signed it.
   * @returns `forged` where it claims the CA's key identifier without its signature
   */
  signer({ facts: { subjectKeyId }, publicKey }: ListIssuer): 'it' | 'another' | 'forged' {
    const { authorityKeyId } = this.facts;
    const claimed = authorityKeyId !== null && authorityKeyId === subjectKeyId;
    if (authorityKeyId !== null && subjectKeyId !== null && !claimed) return 'another';
    if (this.#bearsSignatureOf(publicKey)) return 'it';
    return claimed ? 'forged' : 'another';
  }

  #bearsSignatureOf(key: KeyObject): boolean {
    const { signatureAlgorithm, tbs, signature } = this.facts;
    const print = createHash('sha256')
      .update(key.export({ type: 'spki', format: 'der' }))
      .digest('base64');
    const before = this.#signedBy.get(print);
    if (before !== undefined) return before;
    const verdict = verifySignature(signatureAlgorithm, tbs, key, signature);
    if (this.#signedBy.size >= MAX_KEYS) this.#signedBy.clear();
    this.#signedBy.set(print, verdict);
    return verdict;
  }

  /**
   * Of two lists of one CA: by number, which only grows (RFC 5280 §5.2.3), whatever its clock did meanwhile; where one
   * has none or both the same, by thisUpdate.
   */
  isOlderThan({ facts: other }: RevocationList): boolean {
    const { number, thisUpdate } = this.facts;
    if (number !== null && other.number !== null && number !== other.number) return number < other.number;
    return thisUpdate < other.thisUpdate;
  }
}

/** Lists of one name, the newest edition first: by number where all have one, for else there is no order by it. */
export function newestFirst(lists: readonly RevocationList[]): readonly RevocationList[] {
  const numbered = lists.every(({ facts }) => facts.number !== null);
  return lists.toSorted(({ facts: a }, { facts: b }) => {
    const [left, right] = numbered ? [a.number ?? 0n, b.number ?? 0n] : [0n, 0n];
    if (left !== right) return left < right ? 1 : -1;
    return b.thisUpdate - a.thisUpdate;
  });
}
