/** Verifies a presented chain against the CAs of one trust domain: finds a path to one of them that holds. */
import type { X509Certificate } from 'node:crypto';
import { CertificateError } from './certificates.ts';
import {
  bad,
  type Certificate,
  judgePath,
  nameLine,
  nameOf,
  openCertificate,
  type PathRules,
  type RefusedChain,
} from './path-rules.ts';
import { weakness } from './signature-algorithm.ts';

export type { RefusedChain } from './path-rules.ts';

export interface ChainQuestion extends PathRules {
  /** DER as presented: the leaf first, the others in any order; what does not belong is passed over. */
  readonly chain: readonly Uint8Array[];
  readonly anchors: TrustAnchors;
}

export type ChainVerdict = TrustedChain | RefusedChain;

export interface ChainRoot {
  readonly subject: string;
  /** SHA-256, hex in lower case without colons. */
  readonly fingerprint256: string;
}

export interface TrustedChain {
  readonly ok: true;
  /** Milliseconds since the epoch; of the whole path, the root too. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** The anchor the path ends in. */
  readonly root: ChainRoot;
  /** Certificates of the path, leaf and root counted. */
  readonly length: number;
}

/** Certificates of a presented chain, and of a path with leaf and root counted. */
const MAX_LENGTH = 10;
/** Signatures checked for one chain: enough for dozens of roots of one name, and still milliseconds of work. */
const MAX_SIGNATURES = 64;

/**
 * The CAs that may vouch for one trust domain, from its bundle. Every CA certificate of the bundle is an anchor,
 * self-signed or not: X509-SVID §6.1 says they only SHOULD be self-signed, and Go takes them so (OpenSSL does with
 * X509_V_FLAG_PARTIAL_CHAIN). What is no CA's, such as a pinned server's, vouches for nobody and is left out.
 */
export class TrustAnchors {
  readonly #bySubject = new Map<string, Certificate[]>();
  readonly #prints = new Set<string>();

  /**
   * @param pems one certificate each
   * @throws CertificateError naming the number of the one that cannot be read
   */
  constructor(pems: readonly string[]) {
    for (const [i, pem] of pems.entries()) {
      try {
        this.#add(openCertificate(pem));
      } catch (error) {
        throw new CertificateError(`root ${i + 1} of ${pems.length}: ${(error as Error).message}`);
      }
    }
  }

  #add(certificate: Certificate): void {
    const { x509, facts } = certificate;
    if (!facts.ca || this.#prints.has(x509.fingerprint256)) return;
    this.#prints.add(x509.fingerprint256);
    const key = facts.subject.toString('latin1');
    const same = this.#bySubject.get(key);
    if (same === undefined) this.#bySubject.set(key, [certificate]);
    else same.push(certificate);
  }

  /** How many there are; with none, nobody is trusted. */
  get size(): number {
    return this.#prints.size;
  }

  has(certificate: X509Certificate): boolean {
    return this.#prints.has(certificate.fingerprint256);
  }

  /** Those of this name: one may be another's renewal, and two of one name may have nothing to do with each other. */
  named(subject: Buffer): readonly Certificate[] {
    return this.#bySubject.get(subject.toString('latin1')) ?? [];
  }
}

/**
 * Looks for a path from the leaf to an anchor that holds by RFC 5280 §6.1 (without policies) and X509-SVID: each
 * signature made by the issuer's key, whose name alone proves nothing; validity; basic constraints and path length;
 * key usage and extended key usage; URI name constraints; no critical extension we do not know; no weak signature or
 * key; no certificate but the anchor on its issuer's revocation list. Whether the leaf carries an identity, and
 * whose, is the caller's affair. Names are compared byte by byte: RFC 5280 §4.1.2.6 has a CA write its own alike
 * wherever it stands, and Go and webpki rely on that. Synchronous; at most 64 signatures are checked.
 * @returns the path's validity and root, or why there is none; never throws for what was presented
 */
export function verifyChain(question: ChainQuestion): ChainVerdict {
  if (question.chain.length > MAX_LENGTH) {
    return bad(`${question.chain.length} certificates were presented; at most ${MAX_LENGTH} are read`);
  }
  let presented: readonly Certificate[];
  try {
    presented = question.chain.map((der) => openCertificate(der));
  } catch (error) {
    return bad(`a certificate of the chain cannot be read: ${(error as Error).message}`);
  }
  const leaf = presented[0];
  if (leaf === undefined) return { ok: false, reason: 'untrusted_issuer', detail: 'no certificate' };
  try {
    return new PathSearch(question, presented).from(leaf);
  } catch (error) {
    // OpenSSL reads keys that it cannot write again or use, such as a point at infinity: whatever a stranger sends, it
    // must not end the process.
    return bad(`a certificate of the chain cannot be judged: ${(error as Error).message}`);
  }
}

/**
 * One search, depth first, anchors before what was presented: of the paths that hold, the one that holds longest. A
 * CA's certificate that was renewed stands beside the one before it, and the leaf is good as long as either is.
 */
class PathSearch {
  readonly #question: ChainQuestion;
  /** Presented CAs that are no anchors themselves, each once. */
  readonly #intermediates: readonly Certificate[];
  /** Why the first path, or the first step of one, was refused: told where none holds. */
  #refusal: RefusedChain | null = null;
  #best: TrustedChain | null = null;
  #signatures = 0;

  constructor(question: ChainQuestion, presented: readonly Certificate[]) {
    this.#question = question;
    const byPrint = new Map(presented.map((certificate) => [certificate.x509.fingerprint256, certificate]));
    byPrint.delete(presented[0]?.x509.fingerprint256 ?? '');
    this.#intermediates = [...byPrint.values()].filter(({ x509 }) => !question.anchors.has(x509));
  }

  from(leaf: Certificate): ChainVerdict {
    this.#extend([leaf]);
    return this.#best ?? this.#refusal ?? untrusted(leaf, this.#question.anchors);
  }

  /** Goes on with all paths that begin so. */
  #extend(path: readonly Certificate[]): void {
    const last = path.at(-1);
    if (last === undefined || path.length >= MAX_LENGTH) return;
    for (const anchor of this.#question.anchors.named(last.facts.issuer)) {
      if (!this.#issued(anchor, last)) continue;
      const whole = [...path, anchor];
      const refusal = judgePath(whole, this.#question);
      if (refusal === null) this.#found(trusted(whole, anchor));
      else this.#refusal ??= refusal;
    }
    for (const issuer of this.#intermediates) {
      if (path.includes(issuer) || !this.#issued(issuer, last)) continue;
      this.#extend([...path, issuer]);
    }
  }

  #found(verdict: TrustedChain): void {
    if (this.#best === null || verdict.notAfter > this.#best.notAfter) this.#best = verdict;
  }

  /** By name, by key identifiers where both tell one, and by signature. */
  #issued(issuer: Certificate, subject: Certificate): boolean {
    const { subjectKeyId } = issuer.facts;
    const { authorityKeyId } = subject.facts;
    if (!issuer.facts.subject.equals(subject.facts.issuer)) return false;
    if (subjectKeyId !== null && authorityKeyId !== null && subjectKeyId !== authorityKeyId) return false;
    // judged before it is used, for a key of odd size may take long
    const weak = weakness(issuer.publicKey);
    if (weak !== null) return this.#refuse(`${nameOf(issuer)} has a key that is too weak: ${weak}`);
    this.#signatures++;
    if (this.#signatures > MAX_SIGNATURES) {
      return this.#refuse(`more than ${MAX_SIGNATURES} signatures would have to be checked`);
    }
    return subject.x509.verify(issuer.publicKey);
  }

  #refuse(detail: string): false {
    this.#refusal ??= bad(detail);
    return false;
  }
}

function trusted(path: readonly Certificate[], { x509 }: Certificate): TrustedChain {
  const fingerprint256 = x509.fingerprint256.replaceAll(':', '').toLowerCase();
  return {
    ok: true,
    notBefore: Math.max(...path.map(({ facts }) => facts.notBefore)),
    notAfter: Math.min(...path.map(({ facts }) => facts.notAfter)),
    root: { subject: nameLine(x509.subject ?? ''), fingerprint256 },
    length: path.length,
  };
}

function untrusted(leaf: Certificate, anchors: TrustAnchors): RefusedChain {
  const issuer = nameLine(leaf.x509.issuer ?? '');
  const detail = `issued by ${issuer || 'nobody'}, from which no chain of valid signatures leads to one of ${anchors.size} roots`;
  return { ok: false, reason: 'untrusted_issuer', detail };
}
