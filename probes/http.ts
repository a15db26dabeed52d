/** Asks a server over HTTP as the kubelet does: one connection a request, redirects on the same host followed, the body bounded. */
import { request as http1Request, type IncomingMessage } from 'node:http';
import type { ClientHttp2Session, IncomingHttpHeaders } from 'node:http2';
import type { Duplex, Readable } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { hostPort } from '../mesh/text.ts';
import { dial, reasonOf, secure, type Target } from './dial.ts';

/** What is asked, of whom, and how. */
export interface HttpAsk extends Target {
  readonly tls: boolean;
  /** With its query, as it goes into the request line. */
  readonly path: string;
  readonly method: string;
  /** `Host`, or null: the target's. */
  readonly authority: string | null;
  /** Names and values in turn, as Node's `rawHeaders`; without `Host` and those that are about the connection. */
  readonly headers: readonly string[];
  /** Whether and against what the certificate is verified. */
  readonly verify: boolean;
  readonly ca: string | null;
  /** Follow redirects on the same host. */
  readonly follow: boolean;
}

export interface HttpAnswer {
  readonly status: number;
  /** The first of it; the rest was not waited for. */
  readonly body: Buffer;
  readonly truncated: boolean;
  /** Where it sends us, if it is another host: not followed. */
  readonly elsewhere: string | null;
}

/** The kubelet's and pilot-agent's `maxRespBodyLength`. */
const MAX_BODY = 10 * 1024;
/** Go's client gives up at the tenth. */
const MAX_REDIRECTS = 10;
/** Those Go's client follows (RFC 9110 §15.4). */
const FOLLOWED: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * Asks, and follows redirects to the same host name, whatever their port and scheme, as the kubelet's redirect checker
 * does; one to another host is the answer.
 * @throws Error that says what failed: the connection, TLS, the answer's form, too many redirects, or the signal's reason
 */
export async function askHttp(ask: HttpAsk, signal: AbortSignal): Promise<HttpAnswer> {
  let now = ask;
  for (let asked = 1; ; asked++) {
    const answer = await once(now, signal);
    const { location } = answer;
    if (!now.follow || location === null || !FOLLOWED.has(answer.status))
      return { ...answer, elsewhere: null };
    const base = new URL(`${now.tls ? 'https' : 'http'}://${hostPort(now.host, now.port)}${now.path}`);
    const next = URL.parse(location, base.href);
    if (next === null) throw new Error(`redirected to ${JSON.stringify(location)}, which is no URL`);
    if (next.hostname !== base.hostname) return { ...answer, elsewhere: next.href };
    if (next.protocol !== 'http:' && next.protocol !== 'https:') {
      throw new Error(`redirected to ${next.protocol}, which is not HTTP`);
    }
    if (asked >= MAX_REDIRECTS) throw new Error(`stopped after ${MAX_REDIRECTS} redirects`);
    const tls = next.protocol === 'https:';
    now = {
      ...now,
      tls,
      port: next.port === '' ? (tls ? 443 : 80) : Number(next.port),
      path: next.pathname + next.search,
      // Go's client: what `Host` was given holds for relative redirects alone.
      authority: URL.canParse(location) ? null : now.authority,
    };
  }
}

interface Once {
  readonly status: number;
  readonly location: string | null;
  readonly body: Buffer;
  readonly truncated: boolean;
}

async function once(ask: HttpAsk, signal: AbortSignal): Promise<Once> {
  const socket = await dial(ask, signal);
  try {
    if (!ask.tls) return await overHttp1(socket, ask);
    const tls = await secure(socket, ask, signal);
    return tls.alpnProtocol === 'h2' ? await overHttp2(tls, ask) : await overHttp1(tls, ask);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw error;
  } finally {
    socket.destroy();
  }
}

function authorityOf({ authority, host, port, tls }: HttpAsk): string {
  return (
    authority ??
    (port === (tls ? 443 : 80) ? hostPort(host, port).replace(/:\d+$/, '') : hostPort(host, port))
  );
}

function overHttp1(connection: Duplex, ask: HttpAsk): Promise<Once> {
  const { method, path, headers } = ask;
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void =>
      reject(new Error(`no HTTP answer: ${reasonOf(error)}`, { cause: error }));
    const length = bodyless(method) ? [] : ['Content-Length', '0'];
    const request = http1Request({
      // No agent: Node sends `Connection: close` then.
      createConnection: () => connection,
      method,
      path,
      headers: ['Host', authorityOf(ask), ...headers, ...length],
    });
    let answered = false;
    request.on('error', failed);
    // Also when it turns to another protocol that nobody asked for.
    request.once('close', () => {
      if (!answered) failed(new Error('the connection was closed'));
    });
    request.once('response', (response: IncomingMessage) => {
      answered = true;
      const { statusCode, headers } = response;
      readBody(response)
        .then((body) => told(statusCode ?? 0, headers.location, body))
        .then(resolve, failed);
    });
    request.end();
  });
}

async function overHttp2(tls: TLSSocket, ask: HttpAsk): Promise<Once> {
  const { connect } = await import('node:http2');
  const { method, path } = ask;
  const authority = authorityOf(ask);
  const session: ClientHttp2Session = connect(`https://${authority}`, { createConnection: () => tls });
  return new Promise<Once>((resolve, reject) => {
    const failed = (error: Error): void =>
      reject(new Error(`no HTTP/2 answer: ${reasonOf(error)}`, { cause: error }));
    session.on('error', failed);
    const stream = session.request(
      { ...gathered(ask.headers), ':method': method, ':path': path, ':authority': authority },
      { endStream: true },
    );
    stream.on('error', failed);
    let answered = false;
    stream.once('response', (headers: IncomingHttpHeaders & { ':status'?: number }) => {
      answered = true;
      readBody(stream)
        .then((body) => told(headers[':status'] ?? 0, headers.location, body))
        .then(resolve, failed);
    });
    // Reset without an error, before any answer; what is reset within one fails its body.
    stream.once('close', () => {
      if (!answered) failed(new Error('the stream was closed'));
    });
  }).finally(() => session.destroy());
}

/** Header fields as node:http2 takes them: repeated ones as lists. */
function gathered(raw: readonly string[]): Record<string, string | string[]> {
  const fields: Record<string, string | string[]> = Object.create(null);
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = (raw[at] as string).toLowerCase();
    const value = raw[at + 1] as string;
    const before = fields[name];
    fields[name] = before === undefined ? value : [before, value].flat();
  }
  return fields;
}

/** Methods whose requests have no body by their nature (RFC 9110 §8.6). */
function bodyless(method: string): boolean {
  return ['GET', 'HEAD', 'OPTIONS', 'DELETE', 'TRACE'].includes(method);
}

function told(status: number, location: string | undefined, body: Body): Once {
  if (status < 200 || status > 599) throw new Error(`status ${status}`);
  return { status, location: location ?? null, ...body };
}

interface Body {
  readonly body: Buffer;
  readonly truncated: boolean;
}

/** The first 10 KiB; who sends more is not listened to any longer. */
async function readBody(stream: Readable): Promise<Body> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_BODY) break;
  }
  return { body: Buffer.concat(chunks).subarray(0, MAX_BODY), truncated: size > MAX_BODY };
}
