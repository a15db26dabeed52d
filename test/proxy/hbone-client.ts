/** Peers of an HBONE port that are none of ours: node:http2's client, and frames by hand. */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type ClientSessionOptions,
  connect,
  type OutgoingHttpHeaders,
} from 'node:http2';
import type { Socket } from 'node:net';
import type { Test } from 'tap';
import { Peer } from '../e2e/harness/clients.ts';
import { type Leaf, spiffe } from '../e2e/harness/test-ca.ts';
import { openTls, type TlsPeer } from '../e2e/harness/tls-client.ts';
import { within } from '../e2e/harness/wait.ts';
import type { HboneSidecar } from './hbone-sidecar.ts';
import { FrameClient } from './http2-frames.ts';

/** A CONNECT of a tunnel, seen as a connection. */
export class StreamPeer extends Peer {
  readonly stream: ClientHttp2Stream;
  readonly #status: Promise<number>;
  readonly #closed: Promise<number>;

  constructor(stream: ClientHttp2Stream) {
    super(stream as unknown as Socket);
    this.stream = stream;
    this.#status = new Promise((resolve) => {
      stream.on('response', (headers) => resolve(Number(headers[':status'])));
      stream.on('close', () => resolve(0));
    });
    this.#closed = new Promise((resolve) => stream.on('close', () => resolve(stream.rstCode ?? 0)));
  }

  /** Of its answer; 0: it ended without one. */
  get status(): Promise<number> {
    return within('an answer to CONNECT', this.#status);
  }

  /** The code of the RST_STREAM it ended with; 0: none. */
  get reset(): Promise<number> {
    return within('the end of a stream', this.#closed);
  }

  /** One request and the whole of its answer, which has a Content-Length. */
  async exchange(request: string): Promise<string> {
    const from = this.received.length;
    this.write(request);
    await this.until('an answer', () => answerLength(this.received.subarray(from)) !== null);
    return this.received.subarray(from).toString('latin1');
  }

  /** RST_STREAM. With `close` Node would end the stream's side first. */
  override abort(): void {
    this.stream.destroy(new Error('aborted by the test'));
  }
}

function answerLength(bytes: Buffer): number | null {
  const text = bytes.toString('latin1');
  const head = text.indexOf('\r\n\r\n');
  if (head < 0) return null;
  const length = Number(/^content-length: *(\d+)/im.exec(text.slice(0, head))?.[1] ?? 0);
  return text.length >= head + 4 + length ? length : null;
}

/** A tunnel. */
export class HboneClient {
  readonly session: ClientHttp2Session;
  readonly tls: TlsPeer['tls'];
  /** Of each GOAWAY that came: code and last stream. */
  readonly goaways: (readonly [code: number, lastStream: number])[] = [];
  readonly closed: Promise<void>;

  constructor(tls: TlsPeer['tls'], options: ClientSessionOptions) {
    this.tls = tls;
    this.session = connect('https://tunnel', { createConnection: () => tls, ...options });
    this.session.on('error', () => {});
    this.session.on('goaway', (code, lastStream) => void this.goaways.push([code, lastStream]));
    this.closed = new Promise((resolve) => this.session.once('close', resolve));
  }

  /** Asks for a connection to that address and port; `127.0.0.1` unless told. */
  connect(authority: string | number, more: OutgoingHttpHeaders = {}): StreamPeer {
    const text = typeof authority === 'number' ? `127.0.0.1:${authority}` : authority;
    const stream = this.session.request({ ':method': 'CONNECT', ':authority': text, ...more });
    return new StreamPeer(stream);
  }

  /** The same, once it was answered 200. */
  async open(authority: string | number): Promise<StreamPeer> {
    const peer = this.connect(authority);
    const status = await peer.status;
    if (status !== 200) throw new Error(`CONNECT was answered ${status}`);
    return peer;
  }
}

/** Opens a tunnel as that account of the mesh. */
export async function hboneClient(
  t: Test,
  { ca, port }: HboneSidecar,
  account = 'web',
  options: ClientSessionOptions = {},
): Promise<HboneClient> {
  return hboneClientWith(t, port, await ca.leaf(spiffe('shop', account)), options);
}

export async function hboneClientWith(
  t: Test,
  port: number,
  leaf: Leaf,
  options: ClientSessionOptions = {},
  alpn: readonly string[] = ['h2'],
): Promise<HboneClient> {
  const { tls } = await openTls(t, port, { leaf, ALPNProtocols: [...alpn] });
  // What came is for the session alone.
  tls.removeAllListeners('data');
  const client = new HboneClient(tls, options);
  t.teardown(() => client.session.destroy());
  return client;
}

/** A tunnel spoken frame by frame. */
export async function hboneFrames(
  t: Test,
  { ca, port }: HboneSidecar,
  account = 'web',
): Promise<FrameClient> {
  const leaf = await ca.leaf(spiffe('shop', account));
  return new FrameClient(await openTls(t, port, { leaf, ALPNProtocols: ['h2'] }));
}

/** The head of a CONNECT. */
export function connectTo(authority: string | number): readonly (readonly [string, string])[] {
  const text = typeof authority === 'number' ? `127.0.0.1:${authority}` : authority;
  return [
    [':method', 'CONNECT'],
    [':authority', text],
  ];
}
