/** Carries a connection as HTTP: hands it to HTTP/1 or to HTTP/2, as its first bytes say. */
import type { Carrier, Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import { httpVersion } from './detect.ts';
import { FirstBytes } from './first-bytes.ts';
import type { HttpSideBase } from './http/side-base.ts';
import { HttpForwarder } from './http1/forward.ts';
import { serveHttp2 } from './http2/serve.ts';
import { refuseConnection } from './tcp.ts';

/**
 * Serves all requests of a connection, from its first byte to its last.
 * @param makeSide called once for HTTP/1, once a stream for HTTP/2
 * @param version null where the first bytes are still to tell (Envoy's codec AUTO)
 */
export function serveHttp(
  path: DataPath,
  connection: Connection,
  makeSide: () => HttpSideBase,
  version: 'http1' | 'http2' | null,
): void {
  if (connection.closed) return;
  if (version === 'http2') serveHttp2(path, connection, makeSide);
  else if (version === 'http1') serveHttp1(connection, makeSide);
  else new VersionLook(path, connection, makeSide).start();
}

function serveHttp1(connection: Connection, makeSide: () => HttpSideBase): HttpForwarder {
  const side = makeSide();
  const forwarder = new HttpForwarder(connection, side);
  side.carrier = forwarder;
  connection.carrier = forwarder;
  return forwarder;
}

/** Waits for the first bytes. Until they come this is an idle HTTP connection like any other. */
class VersionLook implements Carrier {
  readonly #path: DataPath;
  readonly #connection: Connection;
  readonly #makeSide: () => HttpSideBase;
  readonly #looking: FirstBytes;
  #begun = false;

  constructor(path: DataPath, connection: Connection, makeSide: () => HttpSideBase) {
    this.#path = path;
    this.#connection = connection;
    this.#makeSide = makeSide;
    this.#looking = new FirstBytes(
      connection.stream,
      (bytes) => this.#enough(bytes),
      (bytes) => this.#ended(bytes),
    );
  }

  start(): void {
    const connection = this.#connection;
    connection.carrier = this;
    connection.expireIdle(this.#path.limits.idleTimeout, () => this.drain());
    this.#looking.start();
  }

  drain(): void {
    this.#looking.giveUp();
    serveHttp1(this.#connection, this.#makeSide).drain();
  }

  abort(): void {
    this.#looking.giveUp();
    this.#connection.abort();
  }

  #enough(bytes: Buffer): boolean {
    const version = httpVersion(bytes);
    if (version === 'more') {
      if (!this.#begun) this.#connection.expire(this.#path.limits.requestHeadTimeout, () => this.#late());
      this.#begun = true;
      return false;
    }
    queueMicrotask(() => {
      // Somebody may have ended it meanwhile.
      if (this.#connection.carrier === this) serveHttp(this.#path, this.#connection, this.#makeSide, version);
    });
    return true;
  }

  #late(): void {
    const { length } = this.#looking.giveUp();
    this.#refuse('request_timeout', `${length} bytes of an HTTP/2 preface`);
  }

  #ended(bytes: Buffer): void {
    if (bytes.length > 0) this.#refuse('downstream_closed', `closed after ${bytes.length} bytes`);
    else if (this.#connection.carrier === this) serveHttp1(this.#connection, this.#makeSide);
  }

  #refuse(reason: 'request_timeout' | 'downstream_closed', detail: string): void {
    // Nothing carries it yet: whoever refuses it reports it, too.
    this.#connection.carrier = null;
    refuseConnection(this.#path, this.#connection, reason, { detail });
  }
}
