/** What the tests of this folder share: odd certificates, a CA that can be told to misbehave. */
import { execFile } from 'node:child_process';
import type { webcrypto } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import { type EmbeddedCa, openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { loadGrpc } from '../../ca-client/grpc.ts';
import { type IstioCaOptions, istioCaSource } from '../../ca-client/istio-ca.ts';
import {
  CREATE_CERTIFICATE,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  type IstioCertificateRequest,
  type IstioCertificateResponse,
} from '../../ca-client/istio-ca-proto.ts';
import { EC_P256, newKeys, privateKeyPem } from '../../ca-client/keys.ts';
import type { CredentialSource } from '../../ca-client/source.ts';
import { loadX509 } from '../../ca-client/x509.ts';
import { identityOf } from '../../mesh/identity.ts';

interface Teardown {
  teardown(fn: () => unknown): void;
}

/** A folder of the test's own, removed after it. */
export function temporaryFolder(t: Teardown): string {
  const dir = mkdtempSync(join(tmpdir(), 'oarlock-test-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export function embeddedCa(t: Teardown, options: { rootTtlMs?: number } = {}): Promise<EmbeddedCa> {
  return openEmbeddedCa({ dir: temporaryFolder(t), trustDomain: null, ...options });
}

/** OpenSSL's own view; its output, or its complaint. */
export function openssl(...args: string[]): Promise<string> {
  return new Promise((resolve) => {
    execFile('openssl', args, (_error, stdout, stderr) => resolve(stdout + stderr));
  });
}

export interface Authority {
  readonly keys: webcrypto.CryptoKeyPair;
  readonly pem: string;
  readonly subject: string;
}

export interface CertificateWish {
  readonly uris?: readonly string[];
  readonly dns?: readonly string[];
  readonly ca?: boolean;
  readonly subject?: string;
  readonly issuer?: Authority;
  readonly keys?: webcrypto.CryptoKeyPair;
  /** Seconds from now. */
  readonly from?: number;
  readonly until?: number;
}

/** Any certificate, sound or not, self-signed where no issuer is given. */
export async function makeCertificate(
  wish: CertificateWish,
): Promise<Authority & { readonly keyPem: string; der: Uint8Array }> {
  const x509 = await loadX509();
  const keys = wish.keys ?? (await newKeys());
  const subject = wish.subject ?? (wish.ca ? `CN=test CA ${Math.random()}` : '');
  const names = [
    ...(wish.uris ?? []).map((value) => ({ type: 'url' as const, value })),
    ...(wish.dns ?? []).map((value) => ({ type: 'dns' as const, value })),
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    subject,
    issuer: wish.issuer?.subject ?? subject,
    notBefore: new Date(Date.now() + (wish.from ?? -60) * 1000),
    notAfter: new Date(Date.now() + (wish.until ?? 3600) * 1000),
    publicKey: keys.publicKey,
    signingKey: (wish.issuer?.keys ?? keys).privateKey,
    signingAlgorithm: EC_P256,
    extensions: [
      new x509.BasicConstraintsExtension(wish.ca ?? false, undefined, true),
      ...(names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(names, true)]),
    ],
  });
  const der = new Uint8Array(certificate.rawData);
  return { keys, subject, pem: `${certificate.toString('pem')}\n`, keyPem: await privateKeyPem(keys), der };
}

export type Misbehaviour = (
  call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
  callback: sendUnaryData<IstioCertificateResponse>,
) => void;

/** A gRPC server in CreateCertificate's place whose answer the test decides. Its TLS certificate is from `ca`. */
export async function scriptedCa(
  t: Teardown,
  ca: EmbeddedCa,
  answer: Misbehaviour,
  hosts = ['127.0.0.1'],
): Promise<string> {
  const grpc = await loadGrpc();
  const own = await ca.issueServer(hosts, 3_600_000);
  const server = new grpc.Server();
  const method = {
    path: CREATE_CERTIFICATE,
    requestStream: false as const,
    responseStream: false as const,
    requestSerialize: encodeRequest,
    requestDeserialize: decodeRequest,
    responseSerialize: encodeResponse,
    responseDeserialize: decodeResponse,
  };
  server.addService({ CreateCertificate: method }, { CreateCertificate: answer });
  const credentials = grpc.ServerCredentials.createSsl(null, [
    { private_key: Buffer.from(own.keyPem), cert_chain: Buffer.from(own.certificatePem) },
  ]);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  t.teardown(() => server.forceShutdown());
  return `127.0.0.1:${port}`;
}

/** A file with this text in a folder of the test's own. */
export function fileWith(t: Teardown, text: string): string {
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, text);
  return file;
}

export const orders = identityOf('cluster.local', 'shop', 'orders');

/** A CA, where a scripted server stands in for it, and the test they belong to. */
export interface Scene {
  readonly t: Teardown;
  readonly ca: EmbeddedCa;
  readonly address: string;
}
/** A client of that server for `orders`. */
export function clientOf({ t, ca, address }: Scene, more: Partial<IstioCaOptions> = {}): CredentialSource {
  const caRootFile = fileWith(t, ca.rootPem);
  const tokenFile = fileWith(t, 'a.b.c\n');
  return istioCaSource({ address, caRootFile, tokenFile, identity: orders, ...more });
}

/** Builds a scene whose server answers as told. */
export async function scene(t: Teardown, answer: (ca: EmbeddedCa) => Misbehaviour): Promise<Scene> {
  const ca = await embeddedCa(t);
  return { t, ca, address: await scriptedCa(t, ca, answer(ca)) };
}
