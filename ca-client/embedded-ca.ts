/** The embedded CA: a root kept in a folder, and the certificates it issues. For one machine, compose and tests. */
import { createPrivateKey, randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { readCertificate } from '../mesh/certificates.ts';
import type { Identity } from '../mesh/identity.ts';
import { readRequest } from './csr.ts';
import { createOnce, PUBLIC, readIfThere, SECRET } from './file-store.ts';
import { EC_P256, newKeys, privateKeyPem, readKeys } from './keys.ts';
import { CredentialsError } from './source.ts';
import { loadX509, type X509Library } from './x509.ts';

export interface Issued {
  readonly certificatePem: string;
  readonly serial: string;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface IssuedWithKey extends Issued {
  /** PKCS#8 PEM. */
  readonly keyPem: string;
}

export interface EmbeddedCa {
  readonly trustDomain: string;
  /** Where the root certificate lies. */
  readonly rootFile: string;
  readonly rootPem: string;
  /**
   * Signs the key of a PEM request for this identity, whatever names the request asks for.
   * @throws RequestError where the request is refused.
   */
  issueForRequest(csrPem: string, identity: Identity, ttlMs: number): Promise<Issued>;
  /** Makes a key and signs it for this identity. */
  issueWithKey(identity: Identity, ttlMs: number): Promise<IssuedWithKey>;
  /** Makes a key and signs it for a server of these DNS names and IP addresses. */
  issueServer(hosts: readonly string[], ttlMs: number): Promise<IssuedWithKey>;
}

export interface EmbeddedCaOptions {
  /** Made if absent; holds `root-key.pem` (mode 0600) and `root-cert.pem`. */
  readonly dir: string;
  /** Null: the root's own, or `cluster.local` for a new one. */
  readonly trustDomain: string | null;
  /** Validity of a new root in milliseconds, default ten years. */
  readonly rootTtlMs?: number;
  readonly now?: () => number;
}

const TEN_YEARS_MS = 315_360_000_000;
/** Certificates start in the past, for clocks differ; Istio backdates by two minutes. */
const BACKDATE_MS = 60_000;
/** Nothing shorter is issued: validity is counted in whole seconds. */
const SHORTEST_TTL_MS = 1_000;

interface Root {
  readonly library: X509Library;
  readonly key: webcrypto.CryptoKey;
  readonly pem: string;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly now: () => number;
}

/**
 * Opens the CA of a folder, making its root at the first start. Safe when several processes do so at once: each
 * file is created once, and all go on with what was created.
 * @throws CredentialsError where the folder's files do not fit together or belong to another trust domain.
 */
export async function openEmbeddedCa(options: EmbeddedCaOptions): Promise<EmbeddedCa> {
  const rootFile = join(options.dir, 'root-cert.pem');
  const root = await openRoot(options, rootFile);
  const { library } = root;
  const trustDomain = checkRoot(root, options, rootFile);

  const uriName = (identity: Identity) =>
    // critical, for the subject is empty (RFC 5280 §4.1.2.6)
    new library.SubjectAlternativeNameExtension([{ type: 'url', value: identity.uri }], true);
  async function withKey(sign: (spki: ArrayBuffer) => Promise<Issued>): Promise<IssuedWithKey> {
    const keys = await newKeys();
    const issued = await sign(await webcrypto.subtle.exportKey('spki', keys.publicKey));
    return { ...issued, keyPem: await privateKeyPem(keys) };
  }
  return {
    trustDomain,
    rootFile,
    rootPem: root.pem,
    async issueForRequest(csrPem, identity, ttlMs) {
      const spki = await readRequest(csrPem);
      return issue(root, { spki, subject: '', names: uriName(identity), ttlMs });
    },
    issueWithKey: (identity, ttlMs) =>
      withKey((spki) => issue(root, { spki, subject: '', names: uriName(identity), ttlMs })),
    issueServer(hosts, ttlMs) {
      const names = new library.SubjectAlternativeNameExtension(
        hosts.map((host) => ({ type: isIP(host) === 0 ? 'dns' : 'ip', value: host })),
      );
      return withKey((spki) => issue(root, { spki, subject: 'CN=Oarlock embedded CA server', names, ttlMs }));
    },
  };
}

interface Leaf {
  readonly spki: ArrayBuffer | Uint8Array<ArrayBuffer>;
  readonly subject: string;
  readonly names: InstanceType<X509Library['SubjectAlternativeNameExtension']>;
  readonly ttlMs: number;
}

async function issue(root: Root, { spki, subject, names, ttlMs }: Leaf): Promise<Issued> {
  const { library, now } = root;
  const start = now();
  const notAfter = wholeSeconds(Math.min(start + Math.max(ttlMs, SHORTEST_TTL_MS) + 999, root.notAfter));
  if (notAfter <= start) {
    throw new CredentialsError(
      `the CA's root expired at ${new Date(root.notAfter).toISOString()}; make a new one`,
    );
  }
  const issuer = new library.X509Certificate(root.pem);
  const publicKey = new library.PublicKey(spki);
  const usages = library.KeyUsageFlags.digitalSignature | library.KeyUsageFlags.keyEncipherment;
  const certificate = await library.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject,
    issuer: issuer.subjectName,
    notBefore: new Date(wholeSeconds(Math.max(start - BACKDATE_MS, root.notBefore))),
    notAfter: new Date(notAfter),
    publicKey,
    signingKey: root.key,
    signingAlgorithm: EC_P256,
    extensions: [
      new library.KeyUsagesExtension(usages, true),
      new library.ExtendedKeyUsageExtension([
        library.ExtendedKeyUsage.serverAuth,
        library.ExtendedKeyUsage.clientAuth,
      ]),
      new library.BasicConstraintsExtension(false, undefined, true),
      names,
      await library.SubjectKeyIdentifierExtension.create(publicKey),
      await library.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  const facts = readCertificate(new Uint8Array(certificate.rawData));
  const { serial, notBefore } = facts;
  return { certificatePem: `${certificate.toString('pem')}\n`, serial, notBefore, notAfter: facts.notAfter };
}

async function openRoot(options: EmbeddedCaOptions, rootFile: string): Promise<Root> {
  const { dir, now = Date.now } = options;
  const library = await loadX509();
  await mkdir(dir, { recursive: true });
  const keyFile = join(dir, 'root-key.pem');
  // in this order: whoever makes a root makes its key first, so a root without a key is no start under way
  let pem = await readIfThere(rootFile);
  let keyPem = await readIfThere(keyFile);
  if (keyPem === null && pem !== null) {
    throw new CredentialsError(
      `${rootFile} is there but ${keyFile} is not; bring it back, or remove both for a new root`,
    );
  }
  keyPem ??= await createOnce(keyFile, await privateKeyPem(await newKeys()), SECRET);
  const keys = await readKeys(keyPem, keyFile);
  pem ??= await createOnce(rootFile, await newRoot(library, keys, options, now()), PUBLIC);
  try {
    const der = new X509Certificate(pem);
    if (!der.checkPrivateKey(createPrivateKey(keyPem))) throw new Error(`its key is not that of ${keyFile}`);
    const { notBefore, notAfter } = readCertificate(der.raw);
    return { library, key: keys.privateKey, pem, notBefore, notAfter, now };
  } catch (error) {
    throw new CredentialsError(`${rootFile} cannot be used: ${(error as Error).message}`);
  }
}

/** SPIFFE X509-SVID §2: a signing certificate's SPIFFE ID has no path; so a root tells its trust domain. */
function checkRoot({ pem }: Root, { trustDomain }: EmbeddedCaOptions, rootFile: string): string {
  const { uris, ca } = readCertificate(new X509Certificate(pem).raw);
  const own = /^spiffe:\/\/([^/]+)$/.exec(uris[0] ?? '')?.[1];
  if (own === undefined || uris.length !== 1 || !ca) {
    throw new CredentialsError(`${rootFile} is not a root of this CA: it names no trust domain`);
  }
  if (trustDomain !== null && trustDomain !== own) {
    throw new CredentialsError(`${rootFile} is the root of trust domain ${own}, not of ${trustDomain}`);
  }
  return own;
}

async function newRoot(
  library: X509Library,
  keys: webcrypto.CryptoKeyPair,
  options: EmbeddedCaOptions,
  now: number,
): Promise<string> {
  const trustDomain = options.trustDomain ?? 'cluster.local';
  const keyId = await library.SubjectKeyIdentifierExtension.create(keys.publicKey);
  const root = await library.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    // the key's mark keeps roots made again for the same trust domain apart
    name: `O=${trustDomain}, CN=Oarlock embedded CA ${keyId.keyId.slice(0, 8)}`,
    keys,
    notBefore: new Date(wholeSeconds(now - BACKDATE_MS)),
    notAfter: new Date(wholeSeconds(now + (options.rootTtlMs ?? TEN_YEARS_MS))),
    signingAlgorithm: EC_P256,
    extensions: [
      new library.BasicConstraintsExtension(true, undefined, true),
      new library.KeyUsagesExtension(library.KeyUsageFlags.keyCertSign | library.KeyUsageFlags.cRLSign, true),
      new library.SubjectAlternativeNameExtension([{ type: 'url', value: `spiffe://${trustDomain}` }]),
      keyId,
    ],
  });
  return `${root.toString('pem')}\n`;
}

/** RFC 5280 §4.1.2.2: positive and at most 20 bytes; random, so that nobody can guess what is signed next. */
function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000;
}
