/** Takes PEM text apart into its certificates, and nothing but whole ones. */
import { CredentialsError } from './source.ts';

/** A chain and a bundle of many roots are far below; a bound keeps a wrong file or answer from filling memory. */
export const MAX_PEM_BYTES = 1_048_576;
const MAX_CERTIFICATES = 256;
const BLOCK = /-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g;
const MARK = /-----(?:BEGIN|END) /g;

/**
 * The certificates of a PEM text in order, each with a final line break. Text between them is allowed
 * (RFC 7468 §2), blocks of another kind or without an end are not: those are half-written or wrong files.
 * @param what names the text in the error: `cert-chain.pem`, `the answer`.
 * @throws CredentialsError
 */
export function splitCertificates(text: string, what: string): readonly string[] {
  if (text.length > MAX_PEM_BYTES)
    throw new CredentialsError(`${what} is longer than ${MAX_PEM_BYTES} bytes`);
  const blocks = text.match(BLOCK) ?? [];
  const marks = text.match(MARK)?.length ?? 0;
  if (blocks.length === 0) throw new CredentialsError(`${what} holds no PEM certificate`);
  if (marks !== blocks.length * 2) {
    throw new CredentialsError(`${what} holds something besides whole PEM certificates`);
  }
  if (blocks.length > MAX_CERTIFICATES) {
    throw new CredentialsError(`${what} holds more than ${MAX_CERTIFICATES} certificates`);
  }
  return blocks.map((block) => `${block}\n`);
}
