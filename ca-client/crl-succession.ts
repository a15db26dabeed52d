/** What follows the revocation lists in force: of each CA the newest edition, and none of the future. */
import { describeName } from '../mesh/distinguished-name.ts';
import { type ListIssuer, nameOf, type RevocationList } from '../mesh/revocation-list.ts';
import { MAX_EARLY_MS } from './check.ts';

export interface Succession {
  readonly lists: readonly RevocationList[];
  /** A clause on each of the file's lists that is passed over. */
  readonly passedOver: readonly string[];
  /** When the first list of the future begins to count, in milliseconds since the epoch; infinity: there is none. */
  readonly nextStart: number;
}

/**
 * An older edition would let in again whom the newer one shuts out, and one of the future could be followed by none
 * for years. Instead of either what is in force of that CA stays. Lists are of one CA where a CA we know has signed
 * both; of CAs we do not know (intermediates of our peers), where name and key identifier are the same.
 * @param now milliseconds since the epoch
 */
export function succeed(
  before: readonly RevocationList[],
  file: readonly RevocationList[],
  authorities: readonly ListIssuer[],
  now: number,
): Succession {
  const [future, present] = [file.filter(isEarly), file.filter((list) => !isEarly(list))];
  const kept = before.filter((inForce) => {
    const editions = present.filter(sameCa(inForce));
    if (editions.length > 0) return editions.every((edition) => edition.isOlderThan(inForce));
    return future.some(sameCa(inForce));
  });
  const replaced = present.filter((list) => kept.some((one) => sameCa(one)(list) && list.isOlderThan(one)));
  return {
    lists: [...present.filter((list) => !replaced.includes(list)), ...kept],
    passedOver: [
      ...replaced.map((list) => {
        const newest = kept.filter(sameCa(list)).reduce((a, b) => (a.isOlderThan(b) ? b : a));
        return (
          `${edition(list)} is older than ${edition(newest)}, which stays in force: write the newest there; ` +
          'where its CA has begun to count anew, restart, which takes what is there'
        );
      }),
      ...future.map(
        (list) =>
          `${edition(list)} is of the future and does not count before: look at its CA's clock and at ours`,
      ),
    ],
    nextStart: Math.min(...future.map(({ facts }) => facts.thisUpdate - MAX_EARLY_MS)),
  };

  function isEarly({ facts }: RevocationList): boolean {
    return facts.thisUpdate > now + MAX_EARLY_MS;
  }

  function sameCa(one: RevocationList): (other: RevocationList) => boolean {
    const signer = signerOf(one);
    return (other) => {
      if (one.facts.issuerName !== other.facts.issuerName) return false;
      const another = signerOf(other);
      if (signer !== null && another !== null) return signer.publicKey.equals(another.publicKey);
      return signer === another && one.facts.authorityKeyId === other.facts.authorityKeyId;
    };
  }

  function signerOf(list: RevocationList): ListIssuer | null {
    const signs = (ca: ListIssuer) => nameOf(ca) === list.facts.issuerName && list.signer(ca) === 'it';
    return authorities.find(signs) ?? null;
  }
}

/** Which list, for people. */
function edition({ facts: { issuer, number, thisUpdate } }: RevocationList): string {
  const numbered = number === null ? '' : `number ${number} `;
  return `${describeName(issuer)} ${numbered}of ${new Date(thisUpdate).toISOString()}`;
}
