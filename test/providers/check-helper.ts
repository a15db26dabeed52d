/** Providers, requests and ways to a provider for the tests of external authorization. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { type Duplex, duplexPair } from 'node:stream';
import type { CheckAnswer, CheckRequest, ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import { parseIdentity } from '../../mesh/identity.ts';
import type { Connect } from '../../providers/ext-authz.ts';

export const NEVER = new AbortController().signal;

/** A provider with Istio's defaults but a time-out that a test can wait for. */
export function provider(more: Partial<ExtAuthzProvider> = {}): ExtAuthzProvider {
  return {
    name: 'authz',
    protocol: 'http',
    service: 'security/authz.example',
    port: 80,
    timeout: 10_000,
    failOpen: false,
    statusOnError: 403,
    requestBody: null,
    pathPrefix: '',
    includeRequestHeadersInCheck: [],
    includeAdditionalHeadersInCheck: new Map(),
    headersToUpstreamOnAllow: [],
    headersToDownstreamOnAllow: [],
    headersToDownstreamOnDeny: [],
    fault: null,
    ...more,
  };
}

export type HttpPart = NonNullable<CheckRequest['request']>;

/** `GET /` over mTLS from `spiffe://cluster.local/ns/shop/sa/web`. */
export function check(more: Partial<HttpPart> = {}, whole: Partial<CheckRequest> = {}): CheckRequest {
  return {
    connection: {
      peer: parseIdentity('spiffe://cluster.local/ns/shop/sa/web'),
      sourceIp: '10.0.0.1',
      remoteIp: '10.0.0.1',
      destinationIp: '10.0.0.2',
      destinationPort: 8080,
      sni: 'outbound_.80_._.Orders.shop',
    },
    ownIdentity: 'spiffe://cluster.local/ns/shop/sa/orders',
    sourcePort: 40_000,
    request: {
      method: 'GET',
      host: 'orders.shop',
      path: '/',
      scheme: 'https',
      protocol: 'HTTP/1.1',
      fields: [],
      body: null,
      bodyTruncated: false,
      bodySize: -1,
      ...more,
    },
    ...whole,
  };
}

/** `name: value` a line to fields. */
export function fieldsOf(...lines: readonly string[]): HttpPart['fields'] {
  return lines.map((line) => {
    const colon = line.indexOf(':', 1);
    return { name: line.slice(0, colon).toLowerCase(), value: line.slice(colon + 1).trim() };
  });
}

/** Reaches whatever service is asked for at a port of this machine, and counts. */
export function reach(
  port: () => number,
): Connect & { readonly asked: string[]; readonly sockets: Set<Socket> } {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const open = async (service: string, servicePort: number): Promise<Duplex> => {
    asked.push(`${service}:${servicePort}`);
    const socket = connect(port(), '127.0.0.1');
    await once(socket, 'connect');
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    return socket;
  };
  return Object.assign(open, { asked, sockets });
}

/** The same through streams that are no sockets, as a stream in a tunnel is none. */
export function reachThroughStreams(port: number): Connect & { readonly streams: Duplex[]; stall(): void } {
  const streams: Duplex[] = [];
  const ends: Duplex[] = [];
  const open = async (): Promise<Duplex> => {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    const [near, far] = duplexPair();
    far.pipe(socket).pipe(far);
    near.on('close', () => socket.destroy());
    socket.on('close', () => near.destroy());
    streams.push(near);
    ends.push(far);
    return near;
  };
  /** What is sent from now on arrives nowhere, and nobody is told. */
  const stall = () => {
    for (const far of ends) far.unpipe();
  };
  return Object.assign(open, { streams, stall });
}

/** An answer in few words: what is compared in tables. */
export function words(answer: CheckAnswer): string {
  if (answer.kind === 'failed') return `failed: ${answer.reason}`;
  if (answer.kind === 'denied') {
    const fields = answer.fields.map(({ name, value, append }) => `${append ? '+' : ''}${name}=${value}`);
    const why = answer.why === undefined ? [] : [`for ${answer.why}`];
    return ['denied', answer.status, ...fields, JSON.stringify(answer.body.toString()), ...why].join(' ');
  }
  const set = answer.set.map(({ name, value, append }) => `${append ? '+' : ''}${name}=${value}`);
  const remove = answer.remove.map((name) => `-${name}`);
  const onAnswer = answer.answerFields.map(
    ({ name, value, append, only }) =>
      `answer:${append ? '+' : ''}${name}=${value}${only === null ? '' : ` if ${only}`}`,
  );
  const path = answer.path === null ? [] : [`path=${answer.path}`];
  return ['allowed', ...set, ...remove, ...path, ...onAnswer].join(' ');
}
