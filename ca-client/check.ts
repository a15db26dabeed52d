/** Decides whether a key, a chain and roots make usable credentials: the same checks for every source. */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import { spiffeIdentity } from '../mesh/certificates.ts';
import type { Credentials, TrustBundle } from '../mesh/credentials.ts';
import { RevocationLists } from '../mesh/crl.ts';
import { type Identity, parseIdentity } from '../mesh/identity.ts';
import { type Certificate, judgePath, openCertificate } from '../mesh/path-rules.ts';
import { CredentialsError } from './source.ts';

export interface OfferedCredentials {
  /** Leaf first, one PEM a certificate. */
  readonly chain: readonly string[];
  readonly keyPem: string;
  /** One PEM a root; the chain must lead to one of them. */
  readonly roots: readonly string[];
  /** Roots to be trusted in peers as well. */
  readonly moreRoots?: readonly string[];
  /** Bundles of other trust domains; none where left out. What is no usable root in them is left out. */
  readonly federated?: readonly TrustBundle[];
  readonly origin: string;
  /** Who the leaf must be; null adopts whoever it is. */
  readonly expected: Identity | null;
  /** Milliseconds since the epoch. */
  readonly now: number;
}

/** Longer chains are refused; OpenSSL's own default depth is 100, real meshes have two or three. */
const MAX_CHAIN = 10;

/**
 * A set that starts being valid less than this from now is accepted, for a CA's clock may be ahead of ours: whoever
 * is to use it waits until `notBefore`.
 */
export const MAX_EARLY_MS = 60_000;

interface OwnCertificate extends Certificate {
  readonly pem: string;
}

/**
 * Checks that the key is the leaf's, that the leaf carries exactly one SPIFFE identity and the expected one, that
 * each certificate is signed by the next and the last by one of the roots, that all of them are valid now or in less
 * than MAX_EARLY_MS, and that our peers will take them: usable by a client and a server, with nothing weak, all that
 * `verifyChain` asks of theirs.
 * @returns the set as the data path takes it: duplicates among the roots gone, a root at the chain's end cut off.
 * @throws CredentialsError, one sentence naming what is wrong.
 */
export function checkCredentials(offered: OfferedCredentials): Credentials {
  const roots = readRoots(offered.roots);
  const rootPrints = new Set(roots.map((root) => root.x509.fingerprint256));
  if (offered.chain.length > MAX_CHAIN)
    throw new CredentialsError(`the chain is longer than ${MAX_CHAIN} certificates`);
  const chain = offered.chain.map((pem) => readPem(pem, 'a certificate of the chain'));
  while (chain.length > 1 && rootPrints.has(chain.at(-1)?.x509.fingerprint256 ?? '')) chain.pop();
  const leaf = chain[0];
  if (leaf === undefined) throw new CredentialsError('the chain is empty');

  const identity = checkIdentity(leaf, offered.expected);
  if (!leaf.x509.checkPrivateKey(readKey(offered.keyPem))) {
    throw new CredentialsError("the private key is not the certificate's: they are of two different sets");
  }
  const trusted = readRoots([...offered.roots, ...(offered.moreRoots ?? [])]);
  const path = findPath(chain, roots, offered.now);
  for (const [i, certificate] of path.entries())
    checkTimes(certificate, placeName(i, path.length), offered.now);
  const notBefore = Math.max(...path.map(({ facts }) => facts.notBefore));
  const now = Math.max(offered.now, notBefore);
  const refusal = judgePath(path, { purpose: 'both', now, revoked: RevocationLists.none });
  if (refusal !== null) throw new CredentialsError(`our peers would refuse the chain: ${refusal.detail}`);
  return {
    identity,
    chainPem: path
      .slice(0, -1)
      .map((certificate) => certificate.pem)
      .join(''),
    keyPem: offered.keyPem,
    rootsPem: trusted.map((root) => root.pem),
    federated: checkFederated(offered.federated ?? [], identity.trustDomain),
    notBefore,
    notAfter: Math.min(...path.map(({ facts }) => facts.notAfter)),
    serial: leaf.facts.serial,
    origin: offered.origin,
    clockSkewMs: null,
  };
}

/** True for a certificate that names and signs itself: the only kind a bundle may end in. */
export function isSelfSigned(pem: string): boolean {
  const { x509, publicKey } = readPem(pem, 'a certificate');
  return x509.ca && x509.checkIssued(x509) && x509.verify(publicKey);
}

function checkIdentity(leaf: Certificate, expected: Identity | null): Identity {
  const identity = spiffeIdentity(leaf.x509.raw);
  if (identity === null) {
    const { uris, ca } = leaf.facts;
    const found = ca
      ? "is a CA's"
      : uris.length === 1
        ? `carries ${uris[0]?.slice(0, 256)}`
        : `carries ${uris.length} URIs`;
    throw new CredentialsError(
      `the certificate ${found}; it must carry exactly one spiffe:// URI and be no CA's`,
    );
  }
  if (expected !== null && identity.uri !== expected.uri) {
    throw new CredentialsError(
      `the certificate is for ${identity.uri}, but this workload is ${expected.uri}; ` +
        'check the trust domain, namespace and service account, and whose token was sent',
    );
  }
  return identity;
}

/**
 * Follows the signatures up the chain, and on among the roots, to the one that ends it. Intermediates that lie among
 * the roots (as some writers of files have it) become part of the chain: a peer that has only the root could not find
 * them. Where the root itself is not among them, the last intermediate is the anchor, as `TrustAnchors` has it.
 */
function findPath(
  chain: readonly OwnCertificate[],
  roots: readonly OwnCertificate[],
  now: number,
): readonly OwnCertificate[] {
  for (let i = 0; i + 1 < chain.length; i++) {
    const [subject, issuer] = [chain[i], chain[i + 1]];
    if (subject !== undefined && issuer !== undefined && !issued(issuer, subject)) {
      throw new CredentialsError(`${placeName(i, 0)} is not signed by the certificate after it`);
    }
  }
  const path = [...chain];
  for (let last = path.at(-1); last !== undefined && path.length <= MAX_CHAIN; last = path.at(-1)) {
    const above = roots.filter((root) => !path.includes(root));
    const issuer = issuerOf(last, above, now);
    if (issuer !== null) path.push(issuer);
    else if (path.length === chain.length) {
      throw new CredentialsError('the chain does not lead to any of the roots given with it');
    }
    if (issuer === null || issued(issuer, issuer)) return path;
  }
  throw new CredentialsError(`the chain is longer than ${MAX_CHAIN} certificates`);
}

/** Among several of one name and key, as a renewed or cross-signed root has: a root before others, one that holds now. */
function issuerOf(
  subject: OwnCertificate,
  roots: readonly OwnCertificate[],
  now: number,
): OwnCertificate | null {
  const able = roots.filter((candidate) => issued(candidate, subject));
  const holds = ({ facts }: OwnCertificate) => facts.notBefore <= now && now < facts.notAfter;
  const selfSigned = able.filter((candidate) => issued(candidate, candidate));
  return selfSigned.find(holds) ?? able.find(holds) ?? selfSigned[0] ?? able[0] ?? null;
}

function issued(issuer: Certificate, subject: Certificate): boolean {
  return issuer.x509.ca && subject.x509.checkIssued(issuer.x509) && subject.x509.verify(issuer.publicKey);
}

function placeName(index: number, pathLength: number): string {
  if (index === 0) return 'the certificate';
  return index === pathLength - 1 ? 'the root' : `intermediate ${index}`;
}

/**
 * Foreign bundles must not stand in the way of our own set, whatever their owners put into them: a bundle for our
 * own trust domain or none is left out, and so is what cannot be read or is no CA's. A bundle that is empty then
 * vouches for nobody.
 */
function checkFederated(bundles: readonly TrustBundle[], own: string): readonly TrustBundle[] {
  return bundles
    .filter(({ trustDomain }) => trustDomain !== own && parseIdentity(`spiffe://${trustDomain}/x`) !== null)
    .map(({ trustDomain, rootsPem }) => ({ trustDomain, rootsPem: rootsPem.filter(isCa) }));
}

function isCa(pem: string): boolean {
  try {
    return openCertificate(pem).facts.ca;
  } catch {
    return false;
  }
}

function checkTimes({ facts }: Certificate, what: string, now: number): void {
  if (now >= facts.notAfter) {
    throw new CredentialsError(
      `${what} expired at ${iso(facts.notAfter)} and it is ${iso(now)}: renew it, or check this machine's clock`,
    );
  }
  if (facts.notBefore - now >= MAX_EARLY_MS) {
    throw new CredentialsError(
      `${what} is not valid before ${iso(facts.notBefore)} and it is ${iso(now)}: compare both clocks`,
    );
  }
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}

/** Each root once. What is no CA's certificate, such as a pinned server's, vouches for nobody and is left out. */
function readRoots(pems: readonly string[]): readonly OwnCertificate[] {
  const byPrint = new Map<string, OwnCertificate>();
  for (const pem of pems) {
    const certificate = readPem(pem, 'a root');
    if (certificate.facts.ca) byPrint.set(certificate.x509.fingerprint256, certificate);
  }
  return [...byPrint.values()];
}

function readPem(pem: string, what: string): OwnCertificate {
  try {
    return { pem, ...openCertificate(pem) };
  } catch (error) {
    throw new CredentialsError(`${what} cannot be read: ${(error as Error).message}`);
  }
}

function readKey(pem: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch {
    // OpenSSL's words might quote the input
    throw new CredentialsError('the private key cannot be read: it must be one unencrypted PEM key');
  }
}
