/** The certificate the webhook's server shows: from files that are watched, or made in memory under a CA of its own. */
import { X509Certificate } from 'node:crypto';
import { makeLeaf, makeRoot } from '../ca-client/ca-certificates.ts';
import { newKeys, privateKeyPem } from '../ca-client/keys.ts';
import { watchedFiles } from '../ca-client/watch-files.ts';
import type { Logger } from '../telemetry/log.ts';

/** What `node:https` takes. */
export interface ServerKeys {
  readonly cert: string;
  readonly key: string;
}

export interface SelfSigned extends ServerKeys {
  /** PEM of the CA above it, for the webhook's configuration. */
  readonly caPem: string;
  /** Milliseconds since the epoch: then another one is due. */
  readonly renewAt: number;
}

const SELF_SIGNED_TTL_MS = 90 * 86_400_000;
const MAX_FILE_BYTES = 65_536;

/**
 * A CA and a certificate below it, both in memory alone. The CA's key is forgotten at once: nobody signs with it again.
 * @param hosts names the API server dials
 */
export async function selfSigned(hosts: readonly string[], now: number): Promise<SelfSigned> {
  const [caKeys, keys] = await Promise.all([newKeys(), newKeys()]);
  const ttlMs = SELF_SIGNED_TTL_MS;
  const caPem = await makeRoot(caKeys, 'oarlock-webhook', { now, ttlMs });
  const { validFromDate, validToDate } = new X509Certificate(caPem);
  const times = { notBefore: validFromDate.getTime(), notAfter: validToDate.getTime() };
  const { subtle } = globalThis.crypto;
  const spki = await subtle.exportKey('spki', keys.publicKey as CryptoKey);
  const cert = await makeLeaf(
    { pem: caPem, key: caKeys.privateKey, ...times },
    { spki, names: { hosts }, ttlMs },
    now,
  );
  return { cert, key: await privateKeyPem(keys), caPem, renewAt: now + (ttlMs * 2) / 3 };
}

export interface KeyFiles {
  /** The set as it is. @throws Error where a file is missing or unreadable */
  read(): Promise<ServerKeys>;
  stop(): void;
}

/** @param onChange gets each later set that can be read; whether it fits together is its reader's to say */
export function keyFiles(
  certFile: string,
  keyFile: string,
  log: Logger,
  onChange: (keys: ServerKeys) => void,
): KeyFiles {
  const files = watchedFiles({ paths: [certFile, keyFile], maxBytes: MAX_FILE_BYTES });
  async function read(): Promise<ServerKeys> {
    const [cert, key] = (await files.read()).map(({ path, bytes, problem }) => {
      if (bytes !== null) return bytes.toString('utf8');
      throw new Error(problem ?? `${path} is not there`);
    });
    return { cert: cert ?? '', key: key ?? '' };
  }
  const stop = files.watch(() => {
    read().then(onChange, (error: Error) =>
      log.warn(
        { event: 'own-certificate', error: error.message },
        'the certificate cannot be read; the old one stays',
      ),
    );
  });
  return { read, stop };
}
