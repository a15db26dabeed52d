/** The certificates in files, as `oarlock certs` shows them without a sidecar. Keys are read to check them, never shown. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileSource } from '../ca-client/files.ts';
import { UsageError } from '../config/usage-error.ts';
import { type CertificateView, certificatesOf } from '../telemetry/certs-view.ts';

export interface FilesView {
  /** Those with a certificate in them. */
  readonly files: readonly { readonly file: string; readonly certificates: readonly CertificateView[] }[];
  /** Why they could not be used; null: they could. */
  readonly problem: string | null;
}

const CERTIFICATE_FILE = /\.(?:pem|crt|cer)$/;

/** @throws UsageError where the file cannot be read, or has no certificate. @param now milliseconds since the epoch */
export function viewFile(file: string, now: number): FilesView {
  const certificates = certificatesIn(file);
  if (certificates.length === 0) throw new UsageError(`${file}: no certificate in PEM`);
  return { files: [{ file, certificates }], problem: timeProblem(certificates, now) };
}

/** The folder as `run --cert-dir` would judge it. @throws UsageError where it cannot be read */
export async function viewFolder(dir: string, now: number): Promise<FilesView> {
  const files = namesIn(dir)
    .map((file) => ({ file, certificates: certificatesIfAny(join(dir, file)) }))
    .filter(({ certificates }) => certificates.length > 0);
  let problem: string | null = null;
  try {
    const { notBefore } = await fileSource({ dir, now: () => now }).obtain(new AbortController().signal);
    if (notBefore > now) problem = `valid from ${new Date(notBefore).toISOString()} on: run waits for that`;
  } catch (error) {
    problem = (error as Error).message;
  }
  return { files, problem };
}

function namesIn(dir: string): readonly string[] {
  try {
    return readdirSync(dir)
      .filter((name) => CERTIFICATE_FILE.test(name))
      .sort();
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Of a file that `run` may never look at. Where it does, it says what is wrong with it. */
function certificatesIfAny(file: string): readonly CertificateView[] {
  try {
    return certificatesIn(file);
  } catch {
    return [];
  }
}

function certificatesIn(file: string): readonly CertificateView[] {
  try {
    // To open a pipe may block for ever.
    if (!statSync(file).isFile()) throw new Error('it is no regular file');
    return certificatesOf(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UsageError(`${file}: ${(error as Error).message}`);
  }
}

function timeProblem(certificates: readonly CertificateView[], now: number): string | null {
  const expired = certificates.find(({ notAfter }) => Date.parse(notAfter) <= now);
  if (expired !== undefined) return `serial ${expired.serial} expired at ${expired.notAfter}`;
  const early = certificates.find(({ notBefore }) => Date.parse(notBefore) > now);
  return early === undefined ? null : `serial ${early.serial} is valid from ${early.notBefore} on`;
}
