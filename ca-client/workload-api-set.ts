/** Makes of what a Workload API pushed the one set to be checked: which SVID is ours, and whose roots count for whom. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { TrustBundle } from '../mesh/credentials.ts';
import { type Identity, parseIdentity } from '../mesh/identity.ts';
import { CredentialsError } from './source.ts';
import type { X509BundlesResponse, X509Svid, X509SvidResponse } from './workload-api-proto.ts';

/** How one of several SVIDs is chosen: by hint, else by ID, else by who we are, else the preferred or the first. */
export interface SvidChoice {
  /** Who we are; null adopts the chosen SVID's identity. */
  readonly identity: Identity | null;
  readonly hint: string | null;
  /** A SPIFFE ID, or its path with the leading `/`. */
  readonly spiffeId: string | null;
  /** Taken before the first where nothing else chooses. */
  readonly preferred: Identity | null;
}

/** As checkCredentials takes it, but for origin and time. */
export interface PushedSet {
  readonly chain: readonly string[];
  readonly keyPem: string;
  readonly roots: readonly string[];
  readonly federated: readonly TrustBundle[];
  readonly expected: Identity;
}

/** DER by trust domain. */
export type Bundles = ReadonlyMap<string, Uint8Array>;

/** No bundle and no chain has more certificates, and no message bundles of more trust domains. */
const MAX_CERTIFICATES = 256;
const MAX_TRUST_DOMAINS = 1_000;
/** SPIRE sends none. */
const CRLS_IGNORED =
  'it sends revocation lists, which are not taken from a Workload API: they revoke nobody; give them with --crl';
/** So many SVIDs are named in an error. */
const NAMED = 10;
const TRUST_DOMAIN_ID = /^spiffe:\/\/([a-z0-9._-]{1,255})$/;

/**
 * Chooses, and turns DER into PEM.
 * @param bundles what FetchX509Bundles pushed, where that is newer than `response`: then its bundles are the ones that
 * count, all of them, for each message is complete (SPIFFE Workload API §4.3, §4.4). Null: those in `response` count.
 * @param complain told of each foreign bundle that cannot be read. It is left out, so that a foreign trust domain's
 * mistake does not keep us from our own certificate: nobody of that trust domain is trusted then.
 * @throws CredentialsError where a mandatory field is empty or wrong, or no SVID fits.
 */
export function pushedSet(
  response: X509SvidResponse,
  bundles: Bundles | null,
  choice: SvidChoice,
  complain: (problem: string) => void,
): PushedSet {
  const svid = chooseSvid(response.svids, choice);
  const expected = identityOfSvid(svid);
  const { trustDomain } = expected;
  const complete = bundles?.has(trustDomain) ?? false;
  // §5.2.2: it "MUST contain at least the trust bundle for the trust domain in which the server resides"
  if (bundles !== null && !complete) complain(`its X509BundlesResponse has no bundle of ${trustDomain}`);
  if (response.crls.length > 0) complain(CRLS_IGNORED);
  const counting = complete && bundles !== null ? bundles : bundlesWith(response, complain);
  const foreign = new Map(counting);
  foreign.delete(trustDomain);
  return {
    chain: certificatesOf(svid.chain, 'its x509_svid'),
    keyPem: keyOf(svid),
    roots: certificatesOf(counting.get(trustDomain) ?? svid.bundle, 'its bundle'),
    federated: federatedOf(foreign, complain),
    expected,
  };
}

/** The bundles of a FetchX509Bundles message by trust domain; `complain` is told of those that are nobody's. */
export function bundlesOf({ bundles }: X509BundlesResponse, complain: (problem: string) => void): Bundles {
  return byTrustDomain(bundles, complain);
}

/**
 * SPIFFE Workload API §5.2.1 (of SVIDs with the same hint the first counts) and §8 (the first is the default).
 * @throws CredentialsError where none fits; it lists what was offered.
 */
function chooseSvid(svids: readonly X509Svid[], choice: SvidChoice): X509Svid {
  const { identity, hint, spiffeId } = choice;
  for (const svid of svids) checkMandatory(svid);
  if (svids.length === 0) throw new CredentialsError('its X509SVIDResponse has no SVID');
  const { wanted, found } = findSvid(svids, choice);
  if (found === undefined) {
    const rest = svids.length > NAMED ? ` and ${svids.length - NAMED} more` : '';
    const offered = svids.slice(0, NAMED).map(describe).join(', ');
    throw new CredentialsError(
      `it offers no SVID ${wanted}, but ${offered}${rest}; check the registration entries and what we ask for`,
    );
  }
  if (identity !== null && found.spiffeId !== identity.uri && (hint !== null || spiffeId !== null)) {
    throw new CredentialsError(
      `its SVID ${wanted} is ${found.spiffeId}, but this workload is ${identity.uri}; check the registration entries`,
    );
  }
  return found;
}

function findSvid(
  svids: readonly X509Svid[],
  { identity, hint, spiffeId, preferred }: SvidChoice,
): { readonly wanted: string; readonly found: X509Svid | undefined } {
  if (hint !== null) {
    const found = svids.find((svid) => svid.hint === hint);
    return { wanted: `with the hint ${JSON.stringify(hint)}`, found };
  }
  if (spiffeId !== null) {
    const byPath = spiffeId.startsWith('/');
    const found = svids.find((svid) => (byPath ? pathOf(svid.spiffeId) : svid.spiffeId) === spiffeId);
    return { wanted: `for ${byPath ? 'the path ' : ''}${spiffeId}`, found };
  }
  if (identity !== null) {
    return { wanted: `for ${identity.uri}`, found: svids.find((svid) => svid.spiffeId === identity.uri) };
  }
  return { wanted: 'at all', found: svids.find((svid) => svid.spiffeId === preferred?.uri) ?? svids[0] };
}

function describe({ spiffeId, hint }: X509Svid): string {
  return hint === '' ? spiffeId : `${spiffeId} (hint ${JSON.stringify(hint.slice(0, 256))})`;
}

function pathOf(spiffeId: string): string {
  return spiffeId.slice(spiffeId.indexOf('/', 'spiffe://'.length));
}

/** §4.5: "Clients receiving a message in which a mandatory field has a default value SHOULD report an error and discard the message." */
function checkMandatory(svid: X509Svid): void {
  const { uri } = identityOfSvid(svid);
  for (const [name, bytes] of [
    ['x509_svid', svid.chain],
    ['x509_svid_key', svid.key],
    ['bundle', svid.bundle],
  ] as const) {
    if (bytes.length === 0) throw new CredentialsError(`its SVID for ${uri} has an empty ${name}`);
  }
}

function identityOfSvid({ spiffeId }: X509Svid): Identity {
  const identity = parseIdentity(spiffeId);
  if (identity !== null) return identity;
  throw new CredentialsError(
    `it offers an SVID for ${JSON.stringify(spiffeId.slice(0, 256))}, which is no SPIFFE ID`,
  );
}

/** All bundles that came with the SVIDs; an SVID's own counts before what a map says of its trust domain. */
function bundlesWith(
  { svids, federatedBundles }: X509SvidResponse,
  complain: (problem: string) => void,
): Bundles {
  const bundles = new Map(byTrustDomain(federatedBundles, complain));
  for (const svid of svids) bundles.set(identityOfSvid(svid).trustDomain, svid.bundle);
  return bundles;
}

function byTrustDomain(
  bundles: ReadonlyMap<string, Uint8Array>,
  complain: (problem: string) => void,
): Bundles {
  const found = new Map<string, Uint8Array>();
  for (const [id, der] of bundles) {
    if (found.size === MAX_TRUST_DOMAINS) {
      complain(`bundles of more than ${MAX_TRUST_DOMAINS} trust domains: the rest is left out`);
      break;
    }
    const [, trustDomain] = TRUST_DOMAIN_ID.exec(id) ?? [];
    if (trustDomain === undefined) {
      complain(`a bundle for ${JSON.stringify(id.slice(0, 256))}, which is no trust domain's SPIFFE ID`);
    } else {
      found.set(trustDomain, der);
    }
  }
  return found;
}

/** In order of name: a map on the wire has none, and the same bundles in another order are no new set. */
function federatedOf(bundles: Bundles, complain: (problem: string) => void): readonly TrustBundle[] {
  const federated: TrustBundle[] = [];
  for (const [trustDomain, der] of [...bundles].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    let rootsPem: readonly string[] = [];
    try {
      rootsPem = certificatesOf(der, `the bundle of ${trustDomain}`);
    } catch (error) {
      complain(`${(error as Error).message}; nobody of that trust domain is trusted`);
    }
    // One that is empty stays named: left out, it might be an alias of ours, and our own roots stand for it.
    federated.push({ trustDomain, rootsPem });
  }
  return federated;
}

/** Certificates that follow each other in DER, as PEM. */
function certificatesOf(der: Uint8Array, what: string): readonly string[] {
  const pems: string[] = [];
  for (let at = 0; at < der.length; ) {
    const end = endOfSequence(der, at);
    if (end === null || end > der.length) {
      throw new CredentialsError(`${what} is not made of whole DER certificates`);
    }
    if (pems.length === MAX_CERTIFICATES) {
      throw new CredentialsError(`${what} has more than ${MAX_CERTIFICATES} certificates`);
    }
    pems.push(certificatePem(der.subarray(at, end), what));
    at = end;
  }
  return pems;
}

/** X.690 §8.1.3. A certificate is longer than 127 bytes and shorter than 64 KiB; null for anything else. */
function endOfSequence(der: Uint8Array, at: number): number | null {
  const [tag, form, high = 0, low = 0] = der.subarray(at, at + 4);
  if (tag !== 0x30) return null;
  if (form === 0x81) return at + 3 + high;
  return form === 0x82 ? at + 4 + high * 256 + low : null;
}

function certificatePem(der: Uint8Array, what: string): string {
  try {
    return new X509Certificate(der).toString();
  } catch (error) {
    throw new CredentialsError(`${what} has a certificate that cannot be read: ${(error as Error).message}`);
  }
}

function keyOf({ key, spiffeId }: X509Svid): string {
  try {
    const input = { key: Buffer.from(key), format: 'der', type: 'pkcs8' } as const;
    return createPrivateKey(input).export({ format: 'pem', type: 'pkcs8' }).toString();
  } catch {
    // OpenSSL's words might quote the input
    throw new CredentialsError(`its SVID for ${spiffeId} has a key that is no unencrypted PKCS#8`);
  }
}
