/** Whom we trust: for each trust domain the roots that may vouch for it and for no other, and what has been revoked. */
import { type ChainVerdict, TrustAnchors, verifyChain } from '../mesh/chain.ts';
import type { Credentials, TrustBundle } from '../mesh/credentials.ts';
import type { RevocationLists } from '../mesh/crl.ts';
import { type Certificate, openCertificate } from '../mesh/path-rules.ts';
import type { MeshSettings } from '../mesh/snapshot.ts';

/** What comes to trust beside credentials and mesh config, and changes when it likes. */
export interface TrustAdditions {
  /** Roots fetched by `spiffeBundleUrl`, PEM; a URL that is missing has not answered yet and vouches for nobody. */
  readonly fetched: ReadonlyMap<string, readonly string[]>;
  readonly revoked: RevocationLists;
}

/** What trust is put together from. */
export interface TrustSources extends TrustAdditions {
  readonly credentials: Pick<Credentials, 'identity' | 'rootsPem' | 'federated'>;
  /** Null before the first snapshot: then only our own identity's trust domain is known. */
  readonly mesh: Pick<MeshSettings, 'trustDomain' | 'trustDomainAliases' | 'caCertificates'> | null;
}

/** What a peer's certificate will be used for: it is the TLS client of our inbound side, the server of our outbound one. */
export type PeerRole = 'client' | 'server';

export class Trust {
  /** One bundle a trust domain. */
  readonly bundles: readonly TrustBundle[];
  /** All roots of all bundles, each once: what OpenSSL is given. That it builds a chain is not enough: see `verify`. */
  readonly rootsPem: readonly string[];
  /** Tells what was verified by this trust; it does not keep it, nor its lists, alive. */
  readonly epoch = Symbol('trust');
  readonly #anchors = new Map<string, TrustAnchors>();
  readonly #revoked: RevocationLists;

  constructor(sources: TrustSources) {
    const [own, ...others] = bundlesOf(sources);
    if (own === undefined) throw new Error('a bundle of our own is always there');
    // A root of our own that cannot be read is an error; somebody else's is left out, and costs that trust domain alone.
    const room = new NameRoom();
    this.bundles = [own, ...others.map((bundle) => usable(bundle, new Set(own.rootsPem), room))];
    this.rootsPem = [...new Set(this.bundles.flatMap(({ rootsPem }) => rootsPem))];
    this.#revoked = sources.revoked;
    const made = new Map<readonly string[], TrustAnchors>();
    for (const { trustDomain, rootsPem } of this.bundles) {
      // Aliases share their list with the trust domain they stand for.
      const anchors = made.get(rootsPem) ?? new TrustAnchors(rootsPem);
      made.set(rootsPem, anchors);
      this.#anchors.set(trustDomain, anchors);
    }
  }

  /** True where the other says the same of everybody. */
  equals(other: Trust): boolean {
    return this.#revoked === other.#revoked && JSON.stringify(this.bundles) === JSON.stringify(other.bundles);
  }

  /** True for our trust domain, its aliases, and those that a bundle was given for. */
  knows(trustDomain: string): boolean {
    return this.#anchors.has(trustDomain);
  }

  /**
   * Verifies a presented chain by the bundle of the leaf's own trust domain (RFC 5280 §6, X509-SVID §5).
   * @param chain DER, leaf first
   * @param trustDomain of the leaf's SPIFFE ID
   * @param now milliseconds since the epoch
   * @returns null where no bundle is for that trust domain
   */
  verify(
    chain: readonly Uint8Array[],
    trustDomain: string,
    role: PeerRole,
    now: number,
  ): ChainVerdict | null {
    const anchors = this.#anchors.get(trustDomain);
    if (anchors === undefined) return null;
    return verifyChain({ chain, anchors, purpose: role, now, revoked: this.#revoked });
  }
}

/**
 * OpenSSL names every root it was given in each request for a certificate (RFC 8446 §4.2.4), in 64 KiB at most: beyond
 * that no handshake succeeds, whoever comes. So others' roots have so much room and no more.
 */
class NameRoom {
  #left = 32_768;

  takes({ facts }: Certificate): boolean {
    const size = facts.subject.length;
    if (size > MAX_NAME_BYTES || size > this.#left) return false;
    this.#left -= size + 2;
    return true;
  }
}

const MAX_NAME_BYTES = 1_024;

function usable(
  { trustDomain, rootsPem }: TrustBundle,
  own: ReadonlySet<string>,
  room: NameRoom,
): TrustBundle {
  const good = rootsPem.filter((pem) => {
    if (own.has(pem)) return true;
    try {
      const root = openCertificate(pem);
      return root.facts.ca && room.takes(root);
    } catch {
      return false;
    }
  });
  return { trustDomain, rootsPem: good };
}

/**
 * Our roots and those of `caCertificates` without trust domains stand for our trust domain, the mesh's, and each alias
 * that has no bundle of its own (MeshConfig `caCertificates.trustDomains`); a bundle that names a trust domain stands for
 * it alone. Ours comes first.
 */
function bundlesOf({ credentials, mesh, fetched }: TrustSources): readonly TrustBundle[] {
  const { trustDomain: ours } = credentials.identity;
  const trustDomain = mesh?.trustDomain ?? ours;
  const aliases = mesh?.trustDomainAliases ?? [];
  const named = new Map<string, string[]>([[ours, [...credentials.rootsPem]]]);
  // Files and agents say who we are. Where that is none of the mesh's, our CA does not vouch for the mesh.
  const inMesh = ours === trustDomain || aliases.includes(ours);
  const shared = inMesh ? [...credentials.rootsPem] : [];
  for (const { trustDomain: other, rootsPem } of credentials.federated) add(named, other, rootsPem);
  for (const { pem, spiffeBundleUrl, trustDomains } of mesh?.caCertificates ?? []) {
    const roots = [
      ...(pem === null ? [] : splitPem(pem)),
      ...(spiffeBundleUrl === null ? [] : (fetched.get(spiffeBundleUrl) ?? [])),
    ];
    if (trustDomains.length === 0) shared.push(...roots);
    for (const other of trustDomains) add(named, other, roots);
  }
  if (inMesh) add(named, ours, shared);
  const bundles = new Map<string, readonly string[]>([[ours, distinct(named.get(ours) ?? [])]]);
  const common = distinct(shared);
  for (const one of [trustDomain, ...aliases]) {
    const own = named.get(one);
    if (one !== ours) bundles.set(one, own === undefined ? common : distinct(own));
  }
  for (const [other, roots] of named)
    if (!bundles.has(other) && roots.length > 0) bundles.set(other, distinct(roots));
  return [...bundles].map(([name, rootsPem]) => ({ trustDomain: name, rootsPem }));
}

function distinct(roots: readonly string[]): readonly string[] {
  return [...new Set(roots)];
}

function add(named: Map<string, string[]>, trustDomain: string, roots: readonly string[]): void {
  const known = named.get(trustDomain);
  if (known === undefined) named.set(trustDomain, [...roots]);
  else known.push(...roots);
}

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g;

/** Config has validated it. */
function splitPem(pem: string): readonly string[] {
  return pem.match(PEM) ?? [];
}
