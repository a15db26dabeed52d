/** Reads a SPIFFE bundle: a JWK set whose keys for X.509-SVIDs carry the roots of one trust domain. */
import { type Certificate, openCertificate } from '../mesh/path-rules.ts';
import { isObject } from '../mesh/schema.ts';
import { weakness } from '../mesh/signature-algorithm.ts';
import { parseObject } from './strict-json.ts';

export interface SpiffeBundle {
  /** One PEM a root, without duplicates, in the bundle's order. At least one. */
  readonly roots: readonly string[];
  /** `spiffe_sequence`; null where there is none. */
  readonly sequence: number | null;
  /** `spiffe_refresh_hint` in milliseconds; null where there is none. */
  readonly refreshMs: number | null;
}

const MAX_ROOTS = 100;
/** RFC 7518 §6.1. "Clients encountering an unknown key type MUST ignore the entire JWK element." */
const KEY_TYPES = new Set<unknown>(['EC', 'RSA', 'OKP']);
/** RFC 7517 §4.7: base64, not base64url. */
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/**
 * SPIFFE Trust Domain and Bundle §4, X509-SVID §6.1. One faulty root spoils the whole: half a bundle would refuse
 * peers nobody meant to refuse. A bundle without a root is refused as Istio does: it is a server's mistake more often
 * than the end of a trust domain.
 * @throws Error of one sentence
 */
export function readSpiffeBundle(text: string): SpiffeBundle {
  const bundle = parseObject(Buffer.from(text));
  if (bundle === null) throw new Error('the answer is no JSON object');
  const { keys } = bundle;
  if (!Array.isArray(keys)) throw new Error('the bundle has no list `keys`');
  const roots = keys.flatMap((key, i) => rootOf(key, i) ?? []);
  if (roots.length === 0) throw new Error('the bundle has no key for x509-svid, so no root');
  if (roots.length > MAX_ROOTS) {
    throw new Error(`the bundle has ${roots.length} roots; at most ${MAX_ROOTS} are taken`);
  }
  const hint = countOf(bundle.spiffe_refresh_hint);
  return {
    roots: [...new Set(roots)],
    sequence: countOf(bundle.spiffe_sequence),
    refreshMs: hint === null ? null : hint * 1000,
  };
}

/** Null for what is not for X.509-SVIDs: "Clients encountering unknown `use` values MUST ignore the entire JWK element." */
function rootOf(key: unknown, i: number): string | null {
  if (!isObject(key) || key.use !== 'x509-svid' || !KEY_TYPES.has(key.kty)) return null;
  const { x5c } = key;
  const [base64] = Array.isArray(x5c) ? (x5c as readonly unknown[]) : [];
  if (!Array.isArray(x5c) || x5c.length !== 1 || typeof base64 !== 'string' || !BASE64.test(base64)) {
    throw new Error(`keys[${i}].x5c is not one certificate in base64`);
  }
  let root: Certificate;
  try {
    root = openCertificate(Buffer.from(base64, 'base64'));
  } catch (error) {
    throw new Error(`keys[${i}].x5c cannot be read: ${(error as Error).message}`);
  }
  if (!root.facts.ca) throw new Error(`keys[${i}].x5c is not a CA's certificate`);
  const weak = weakness(root.publicKey);
  if (weak !== null) throw new Error(`keys[${i}].x5c has a key that is too weak: ${weak}`);
  return root.x509.toString();
}

function countOf(value: unknown): number | null {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : null;
}
