/** What follows the revocation lists in force: of each CA the newest edition, none of the future, and of CAs we know none gone. */
import { describeName } from '../mesh/distinguished-name.ts';
import { type ListIssuer, maySignLists, nameOf, type RevocationList } from '../mesh/revocation-list.ts';
import { MAX_EARLY_MS } from './check.ts';

export interface Succession {
  readonly lists: readonly RevocationList[];
  /** A clause on each of the file's lists that is passed over. */
  readonly passedOver: readonly string[];
  /** CAs we know of which the file has no list any more. */
  readonly vanished: readonly ListIssuer[];
  /** When the first list of the future begins to count, in milliseconds since the epoch; infinity: there is none. */
  readonly nextStart: number;
}

/**
 * An older edition would let in again whom the newer one shuts out, and one of the future could be followed by none
 * for years. Instead of either what is in force of that CA stays. So does the list of a CA we know that the file has
 * none of any more, beside all that the file has: a file of anybody else's shuts out nobody we should shut out, and a
 * CA that gives up an old key must not keep the lists of its new one from us. Lists are of one CA where a CA we know
 * has signed both; of CAs we do not know (intermediates of our peers), where name and key identifier are the same.
 * @param now milliseconds since the epoch
 */
export function succeed(
  before: readonly RevocationList[],
  file: readonly RevocationList[],
  authorities: readonly ListIssuer[],
  now: number,
): Succession {
  const caOf = new Map([...before, ...file].map((list) => [list, caOfList(list, authorities)]));
  const has = (lists: readonly RevocationList[], ca: ListIssuer) =>
    lists.some((list) => caOf.get(list) === known(ca));
  // A root that was renewed with its key is one.
  const vanished = new Map(authorities.map((ca) => [known(ca), ca]));
  for (const [key, ca] of vanished) {
    if (!maySignLists(ca) || !has(before, ca) || has(file, ca)) vanished.delete(key);
  }
  const areOfOneCa = (one: RevocationList, other: RevocationList) => caOf.get(one) === caOf.get(other);
  const isEarly = ({ facts }: RevocationList) => facts.thisUpdate > now + MAX_EARLY_MS;
  const [future, present] = [file.filter(isEarly), file.filter((list) => !isEarly(list))];
  const kept = before.filter((inForce) => {
    const editions = present.filter((list) => areOfOneCa(list, inForce));
    if (editions.length > 0) return editions.every((list) => list.isOlderThan(inForce));
    return future.some((list) => areOfOneCa(list, inForce)) || vanished.has(caOf.get(inForce) ?? '');
  });
  const isReplaced = (list: RevocationList) =>
    kept.some((one) => areOfOneCa(list, one) && list.isOlderThan(one));
  return {
    lists: [...present.filter((list) => !isReplaced(list)), ...kept],
    passedOver: [
      ...present.filter(isReplaced).map((list) => {
        const newest = kept
          .filter((one) => areOfOneCa(list, one))
          .reduce((a, b) => (a.isOlderThan(b) ? b : a));
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
    vanished: [...vanished.values()],
    nextStart: Math.min(...future.map(({ facts }) => facts.thisUpdate - MAX_EARLY_MS)),
  };
}

/** The same for lists of one CA: its name, and its key where one we know has signed the list, else what the list says. */
function caOfList(list: RevocationList, authorities: readonly ListIssuer[]): string {
  const { issuerName, authorityKeyId } = list.facts;
  const signer = authorities.find((ca) => nameOf(ca) === issuerName && list.signer(ca) === 'it');
  return signer === undefined ? `${issuerName} said ${authorityKeyId}` : known(signer);
}

function known(ca: ListIssuer): string {
  return `${nameOf(ca)} known ${ca.publicKey.export({ type: 'spki', format: 'der' }).toString('hex')}`;
}

/** Which list, for people. */
function edition({ facts: { issuer, number, thisUpdate } }: RevocationList): string {
  const numbered = number === null ? '' : `number ${number} `;
  return `${describeName(issuer)} ${numbered}of ${new Date(thisUpdate).toISOString()}`;
}
