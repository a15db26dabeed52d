/** A CA of the tests' own, written without the daemon's code: good certificates, and every odd one. */
import { randomBytes, webcrypto } from 'node:crypto';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JsonGeneralName, X509Certificate } from '@peculiar/x509';
import { loadX509 } from '../../../ca-client/x509.ts';

const x509 = await loadX509();

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';
const HOUR = 3_600_000;

export interface Leaf {
  readonly cert: string;
  readonly key: string;
  /** Root of whoever signed it. */
  readonly ca: string;
  readonly serial: string;
}

export interface LeafOptions {
  /** URI SANs; a usual SVID has exactly one. */
  readonly uris?: readonly string[];
  readonly dns?: readonly string[];
  /** Milliseconds from now. */
  readonly from?: number;
  readonly to?: number;
  /** Extended key usages; null leaves the extension out. */
  readonly usages?: readonly string[] | null;
  readonly isCa?: boolean;
}

/** `spiffe://cluster.local/ns/NS/sa/SA`. */
export function spiffe(namespace: string, account: string, trustDomain = 'cluster.local'): string {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${account}`;
}

export class TestCa {
  readonly rootPem: string;
  readonly #root: X509Certificate;
  readonly #keys: webcrypto.CryptoKeyPair;

  private constructor(root: X509Certificate, keys: webcrypto.CryptoKeyPair) {
    this.#root = root;
    this.#keys = keys;
    this.rootPem = `${root.toString('pem')}\n`;
  }

  static async create(name = 'O=test root'): Promise<TestCa> {
    x509.cryptoProvider.set(webcrypto as Crypto);
    const keys = await newKeys();
    const root = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serial(),
      name,
      notBefore: new Date(Date.now() - HOUR),
      notAfter: new Date(Date.now() + 24 * HOUR),
      keys: keys,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      ],
    });
    return new TestCa(root, keys);
  }

  /** A leaf for one identity, or for whatever the options say. */
  async leaf(uri: string | null, options: LeafOptions = {}): Promise<Leaf> {
    const keys = await newKeys();
    const uris = options.uris ?? (uri === null ? [] : [uri]);
    const names: JsonGeneralName[] = [
      ...uris.map((value) => ({ type: 'url' as const, value })),
      ...(options.dns ?? []).map((value) => ({ type: 'dns' as const, value })),
    ];
    const usages = options.usages === undefined ? [CLIENT_AUTH, SERVER_AUTH] : options.usages;
    const serialNumber = serial();
    const now = Date.now();
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber,
      subject: options.dns === undefined ? '' : `CN=${options.dns[0] ?? ''}`,
      issuer: this.#root.subject,
      notBefore: new Date(now + (options.from ?? -60_000)),
      notAfter: new Date(now + (options.to ?? HOUR)),
      publicKey: keys.publicKey as CryptoKey,
      signingKey: this.#keys.privateKey as CryptoKey,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new x509.BasicConstraintsExtension(options.isCa ?? false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        ...(usages === null ? [] : [new x509.ExtendedKeyUsageExtension([...usages])]),
        // RFC 5280 §4.1.2.6: critical where the subject is empty.
        ...(names.length === 0
          ? []
          : [new x509.SubjectAlternativeNameExtension(names, options.dns === undefined)]),
      ],
    });
    const der = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
    const key = `-----BEGIN PRIVATE KEY-----\n${Buffer.from(der).toString('base64')}\n-----END PRIVATE KEY-----\n`;
    return { cert: `${certificate.toString('pem')}\n`, key, ca: this.rootPem, serial: serialNumber };
  }

  /** A revocation list with these leaves on it, PEM. */
  async crl(revoked: readonly Leaf[]): Promise<string> {
    const now = Date.now();
    const list = await x509.X509CrlGenerator.create({
      issuer: this.#root.subject,
      thisUpdate: new Date(now - 60_000),
      nextUpdate: new Date(now + HOUR),
      entries: revoked.map((leaf) => ({ serialNumber: leaf.serial, revocationDate: new Date(now) })),
      signingKey: this.#keys.privateKey as CryptoKey,
      signingAlgorithm: ALGORITHM,
    });
    // RFC 7468 §8 has another label than the library.
    return `${list.toString('pem').replaceAll(' CRL-', ' X509 CRL-')}\n`;
  }
}

/** Writes the three files that `--cert-dir` reads, each by rename. */
export function writeCertDir(dir: string, leaf: Leaf): void {
  mkdirSync(dir, { recursive: true });
  replace(join(dir, 'root-cert.pem'), leaf.ca);
  replace(join(dir, 'key.pem'), leaf.key);
  replace(join(dir, 'cert-chain.pem'), leaf.cert);
}

/** Writes a file as editors do: a new one under another name, renamed over the old. */
export function replace(path: string, text: string): void {
  writeFileSync(`${path}.new~`, text);
  renameSync(`${path}.new~`, path);
}

function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(ALGORITHM, true, [
    'sign',
    'verify',
  ]) as Promise<webcrypto.CryptoKeyPair>;
}

function serial(): string {
  // A leading 1 keeps it positive and its length what it is.
  return `1${randomBytes(15).toString('hex').slice(1)}`;
}
