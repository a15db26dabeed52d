/** Revocation lists (RFC 5280 §5): which certificates their CAs have taken back. */
import type { KeyObject } from 'node:crypto';
import type { CertificateFacts } from './certificates.ts';

/** The CA whose list is asked for. */
export interface ListIssuer {
  readonly facts: CertificateFacts;
  readonly publicKey: KeyObject;
}

/** What the lists say of one certificate: `unlisted` where its CA has no list here. */
export type RevocationVerdict = 'good' | 'unlisted' | { readonly refused: string };

/** The lists of one file, unchanging. */
export class RevocationLists {
  static readonly none = new RevocationLists();

  /** @throws CrlError */
  static read(_text: Uint8Array | string): RevocationLists {
    return RevocationLists.none;
  }

  /**
   * Asks the list of this issuer, by name and key, for a serial number.
   * @param serial hex as `CertificateFacts.serial`
   */
  check(_serial: string, _issuer: ListIssuer): RevocationVerdict {
    return 'unlisted';
  }
}
