/** The certificate files a DestinationRule names for SIMPLE and MUTUAL TLS, read again when they change. */
import { readFileSync, statSync } from 'node:fs';
import type { RouteTls } from '../mesh/route.ts';

interface CachedFile {
  readonly signature: string;
  readonly content: Buffer;
}

/** Files are few (they stand in DestinationRules); past this something is wrong and the cache starts anew. */
const MAX_FILES = 256;

/** Reads by path; one `stat` a dial tells whether the content is still the same. */
export class TlsFileCache {
  readonly #files = new Map<string, CachedFile>();

  /** @throws the system's error, naming the file, where one cannot be read */
  read(tls: RouteTls): { cert: Buffer | null; key: Buffer | null; ca: Buffer | null; crl: Buffer | null } {
    return {
      cert: this.#file(tls.clientCertificate),
      key: this.#file(tls.privateKey),
      ca: this.#file(tls.caCertificates),
      crl: this.#file(tls.caCrl),
    };
  }

  #file(path: string | null): Buffer | null {
    if (path === null) return null;
    const { ino, size, mtimeMs } = statSync(path);
    const signature = `${ino} ${size} ${mtimeMs}`;
    const cached = this.#files.get(path);
    if (cached?.signature === signature) return cached.content;
    if (this.#files.size >= MAX_FILES) this.#files.clear();
    const content = readFileSync(path);
    this.#files.set(path, { signature, content });
    return content;
  }
}
