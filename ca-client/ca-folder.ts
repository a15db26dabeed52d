/** Reads an embedded CA's folder: the roots it gives out, and the key that signs. */
import { createPrivateKey, type webcrypto, X509Certificate } from 'node:crypto';
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readCertificate } from '../mesh/certificates.ts';
import { type Authority, fingerprintOf, keyPrintOf, makeRoot, trustDomainOf } from './ca-certificates.ts';
import { createOnce, PUBLIC, readIfThere, SECRET } from './file-store.ts';
import { newKeys, privateKeyPem, readKeys } from './keys.ts';
import { splitCertificates } from './pem.ts';
import { CredentialsError } from './source.ts';

/**
 * The files of a folder. Each step that changes more than one is made final by replacing one of them; whoever is
 * cut off in between leaves a folder that reads as before or as after.
 */
export const CA_FILES = {
  /** The bundle that goes out with every certificate: the root, while roots are exchanged the old and the new one. */
  roots: 'root-cert.pem',
  /** The key of the root that signs. Absent where an intermediate signs. */
  rootKey: 'root-key.pem',
  /** A root's key between `add` and `issue`. */
  nextRootKey: 'next-root-key.pem',
  /** The former root's key between `issue` and `retire`: it still signs that root's CRL. */
  oldRootKey: 'old-root-key.pem',
  /** The intermediate that signs, under Istio's name for it. */
  intermediate: 'ca-cert.pem',
  intermediateKey: 'ca-key.pem',
  /** A new intermediate's key, until its certificate is in place. */
  nextIntermediateKey: 'next-ca-key.pem',
  /**
   * Folder of former intermediates, each with its key in one file, while what they issued is valid, and of retired
   * roots' last CRLs, while somebody trusts them.
   */
  former: 'former',
  crl: 'crl.pem',
} as const;

export interface CaRoot {
  readonly pem: string;
  readonly fingerprint: string;
  readonly notBefore: number;
  readonly notAfter: number;
}

/** What a folder says at one moment. */
export interface CaState {
  readonly trustDomain: string;
  /** Oldest first; a new one stands last. */
  readonly roots: readonly CaRoot[];
  readonly signer: Authority;
  /** The signer's certificate. */
  readonly signerPrint: string;
  /** The root above the signer, or the signer itself; one of `roots`. */
  readonly signingRoot: CaRoot;
  /** Between leaf and root, PEM; empty where the root itself signs. */
  readonly intermediates: readonly string[];
  readonly bundlePem: string;
  /** SHA-256 of the public keys of all these CAs: nobody else may have one of them certified. */
  readonly caKeys: ReadonlySet<string>;
}

export interface NewRoot {
  /** Null: `cluster.local`. */
  readonly trustDomain: string | null;
  readonly ttlMs: number;
  readonly now: number;
}

/** Makes the folder where it is not there. */
export async function makeFolder(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
}

/** Key and root for a folder that has neither; one that has them keeps them. Under the folder's lock. */
export async function createRoot(dir: string, { trustDomain, ttlMs, now }: NewRoot): Promise<void> {
  const bundleFile = join(dir, CA_FILES.roots);
  if ((await readIfThere(bundleFile)) !== null) return;
  // the key first: a key without a root is a start cut off, a root without a key is a loss
  const keyFile = join(dir, CA_FILES.rootKey);
  const keyPem = await createOnce(keyFile, await privateKeyPem(await newKeys()), SECRET);
  const keys = await readKeys(keyPem, keyFile);
  const pem = await makeRoot(keys, trustDomain ?? 'cluster.local', { now, ttlMs });
  await createOnce(bundleFile, pem, PUBLIC);
}

/** Changes whenever a file that `readCaFolder` reads does: inode and times of each. */
export async function stampOf(dir: string): Promise<string> {
  const names = [CA_FILES.roots, CA_FILES.rootKey, CA_FILES.intermediate, CA_FILES.intermediateKey];
  const stamps = await Promise.all(
    names.map(async (name) => {
      const found = await stat(join(dir, name), { bigint: true }).catch(() => null);
      return found === null ? '-' : `${found.ino} ${found.size} ${found.mtimeNs} ${found.ctimeNs}`;
    }),
  );
  return stamps.join('\n');
}

/**
 * Reads the folder. Under its lock.
 * @returns null where it has no root yet.
 * @throws CredentialsError where the files do not fit together, naming which.
 */
export async function readCaFolder(dir: string): Promise<CaState | null> {
  const bundleFile = join(dir, CA_FILES.roots);
  const bundlePem = await readIfThere(bundleFile);
  if (bundlePem === null) return null;
  const intermediateFile = join(dir, CA_FILES.intermediate);
  const intermediatePem = await readIfThere(intermediateFile);
  const found =
    intermediatePem === null
      ? await readRootSigner(dir, bundlePem)
      : await readIntermediateSigner(dir, bundlePem, intermediatePem);
  const all = [...found.intermediates, ...found.roots.map(({ pem }) => pem)];
  return { ...found, trustDomain: oneTrustDomain(all, dir), bundlePem, caKeys: new Set(all.map(keyPrintOf)) };
}

type SignerState = Omit<CaState, 'trustDomain' | 'bundlePem' | 'caKeys'>;

async function readRootSigner(dir: string, bundlePem: string): Promise<SignerState> {
  const keyFile = join(dir, CA_FILES.rootKey);
  const bundleFile = join(dir, CA_FILES.roots);
  const keyPem = await readIfThere(keyFile);
  if (keyPem === null) {
    throw new CredentialsError(
      `${bundleFile} is there but ${keyFile} is not; bring it back, or remove both for a new root`,
    );
  }
  const { privateKey } = await readKeys(keyPem, keyFile);
  const roots = readRoots(bundlePem, bundleFile);
  const root = roots.find(({ pem }) => keyFits(pem, keyPem));
  if (root === undefined) {
    throw new CredentialsError(`${bundleFile} cannot be used: its key is not that of ${keyFile}`);
  }
  const signer = { pem: root.pem, key: privateKey, notBefore: root.notBefore, notAfter: root.notAfter };
  return { roots, signer, signerPrint: root.fingerprint, signingRoot: root, intermediates: [] };
}

async function readIntermediateSigner(
  dir: string,
  bundlePem: string,
  chainPem: string,
): Promise<SignerState> {
  const chainFile = join(dir, CA_FILES.intermediate);
  const bundleFile = join(dir, CA_FILES.roots);
  const roots = readRoots(bundlePem, bundleFile);
  const intermediates = splitCertificates(chainPem, chainFile);
  const [pem = '', last = ''] = [intermediates[0], intermediates.at(-1)];
  const signingRoot = roots.find((root) => signedBy(last, root.pem));
  if (signingRoot === undefined) {
    throw new CredentialsError(`${chainFile} cannot be used: it was issued by no root of ${bundleFile}`);
  }
  const times = [...intermediates.map(timesOf), signingRoot];
  const signer: Authority = {
    pem,
    key: await intermediateKey(dir, pem),
    notBefore: Math.max(...times.map(({ notBefore }) => notBefore)),
    notAfter: Math.min(...times.map(({ notAfter }) => notAfter)),
  };
  return { roots, signer, signerPrint: fingerprintOf(pem), signingRoot, intermediates };
}

/** Its certificate is replaced between the two files: the key is in the one whose key fits. */
async function intermediateKey(dir: string, pem: string): Promise<webcrypto.CryptoKey> {
  for (const name of [CA_FILES.intermediateKey, CA_FILES.nextIntermediateKey]) {
    const file = join(dir, name);
    const keyPem = await readIfThere(file);
    if (keyPem === null) continue;
    const { privateKey } = await readKeys(keyPem, file);
    if (keyFits(pem, keyPem)) return privateKey;
  }
  throw new CredentialsError(
    `${join(dir, CA_FILES.intermediate)} cannot be used: its key is not in ${CA_FILES.intermediateKey}; ` +
      'issue a new one with oarlock ca intermediate',
  );
}

/** @throws CredentialsError naming the file. */
export function readRoots(bundlePem: string, file: string): readonly CaRoot[] {
  try {
    return splitCertificates(bundlePem, file).map((pem) => ({
      pem,
      fingerprint: fingerprintOf(pem),
      ...timesOf(pem),
    }));
  } catch (error) {
    throw new CredentialsError(`${file} cannot be used: ${(error as Error).message}`);
  }
}

/** True where the private key in PEM is the certificate's. */
export function keyFits(pem: string, keyPem: string): boolean {
  return new X509Certificate(pem).checkPrivateKey(createPrivateKey(keyPem));
}

/** True where `issuer` signed `pem`. */
export function signedBy(pem: string, issuer: string): boolean {
  const [subject, above] = [new X509Certificate(pem), new X509Certificate(issuer)];
  return subject.checkIssued(above) && subject.verify(above.publicKey);
}

function timesOf(pem: string): { readonly notBefore: number; readonly notAfter: number } {
  const { notBefore, notAfter } = readCertificate(new X509Certificate(pem).raw);
  return { notBefore, notAfter };
}

function oneTrustDomain(pems: readonly string[], dir: string): string {
  const file = join(dir, CA_FILES.roots);
  const [first = null, ...others] = pems.map(trustDomainOf);
  if (first === null || others.includes(null)) {
    throw new CredentialsError(`${file} is not a root of this CA: it names no trust domain`);
  }
  if (others.some((other) => other !== first)) {
    throw new CredentialsError(`${file} holds roots of more than one trust domain; a CA serves one`);
  }
  return first;
}
