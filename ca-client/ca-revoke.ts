/** Revokes what an embedded CA issued: by serial number, by identity, or by the certificate itself. */
import { X509Certificate } from 'node:crypto';
import { readCertificate } from '../mesh/certificates.ts';
import type { CaView } from './ca-access.ts';
import type { RevokedRecord } from './ca-audit.ts';
import { keyPrintOf } from './ca-certificates.ts';
import { type CrlFile, writeCrl } from './ca-crl.ts';
import { signedBy } from './ca-folder.ts';
import { crlSigners } from './ca-former.ts';
import { splitCertificates } from './pem.ts';
import { CredentialsError } from './source.ts';

/** Which certificates: one of the three. */
export type RevocationWish =
  | { readonly serial: string }
  | { readonly identity: string }
  /** PEM, the leaf first. */
  | { readonly certificatePem: string };

export interface Revocation {
  /** Those revoked now; empty where all were before. */
  readonly revoked: readonly RevokedRecord[];
  /** Those that had been revoked before. */
  readonly before: readonly RevokedRecord[];
  readonly crl: CrlFile;
}

type Found = Pick<RevokedRecord, 'identity' | 'serial' | 'notAfter' | 'publicKey' | 'issuer'>;

/**
 * Records the revocation and writes the CRL; the folder is locked.
 * @param reason one of REVOCATION_REASONS, or null.
 * @returns null where the CA knows no valid certificate of that kind.
 * @throws CredentialsError where a certificate was not issued by this CA, or cannot be read.
 */
export async function revoke(
  view: CaView,
  wish: RevocationWish,
  reason: string | null,
): Promise<Revocation | null> {
  const { audit, now } = view;
  const found = await find(view, wish);
  if (found.length === 0) return null;
  const before = found.flatMap(({ serial }) => audit.revoked.get(serial) ?? []);
  const time = new Date(now).toISOString();
  const revoked = found
    .filter(({ serial }) => !audit.revoked.has(serial))
    .map(({ identity, serial, notAfter, publicKey, issuer }) => {
      return { event: 'revoked', time, identity, serial, notAfter, publicKey, issuer, reason } as const;
    });
  await audit.append(revoked, now);
  return { revoked, before, crl: await writeCrl(view, null) };
}

async function find(view: CaView, wish: RevocationWish): Promise<readonly Found[]> {
  const { audit, now } = view;
  if ('certificatePem' in wish) return [await foundOf(view, wish.certificatePem)];
  const valid = [...audit.valid.values()].filter(({ notAfter }) => Date.parse(notAfter) > now);
  if ('identity' in wish) return valid.filter(({ identity }) => identity === wish.identity);
  const serial = normalSerial(wish.serial);
  return valid.filter((issued) => issued.serial === serial);
}

/** What is to be recorded of a certificate that the log may no longer know. */
async function foundOf({ dir, state, now }: CaView, pem: string): Promise<Found> {
  const [leaf = ''] = splitCertificates(pem, 'the file');
  const facts = factsOf(leaf);
  if (facts.ca)
    throw new CredentialsError("the certificate is a CA's; rotate the root or intermediate instead");
  if (facts.notAfter <= now)
    throw new CredentialsError('the certificate has expired; nobody takes it any more');
  const issuer = (await crlSigners(dir, state)).find(({ authority }) => signedBy(leaf, authority.pem));
  if (issuer === undefined) throw new CredentialsError(`the certificate was not issued by the CA of ${dir}`);
  return {
    identity: facts.uris[0] ?? null,
    serial: facts.serial,
    notAfter: new Date(facts.notAfter).toISOString(),
    publicKey: keyPrintOf(leaf),
    issuer: issuer.fingerprint,
  };
}

function factsOf(pem: string) {
  try {
    return readCertificate(new X509Certificate(pem).raw);
  } catch (error) {
    throw new CredentialsError(`the certificate cannot be read: ${(error as Error).message}`);
  }
}

/** As people copy it: `0A:1B…`, `0x0a1b…`, upper or lower case, with zeros in front. */
function normalSerial(text: string): string {
  return text
    .toLowerCase()
    .replace(/^0x/, '')
    .replaceAll(':', '')
    .replace(/^(?:00)+(?=..)/, '');
}
