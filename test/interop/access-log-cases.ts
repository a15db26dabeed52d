/** Requests to an app that serves, resets and talks nonsense, and the fields of the access log that a proxy's manners decide. */
import type { Socket } from 'node:net';

export interface LoggedCase {
  readonly name: string;
  readonly request: string;
  /** The client leaves once its request was sent. */
  readonly leaves?: true;
  /** Goes where no app listens. */
  readonly refused?: true;
  /** What is ours to say otherwise, and why. */
  readonly differs?: Readonly<Record<string, string>>;
}

const get = (path: string, more = ''): string =>
  `GET ${path} HTTP/1.1\r\nhost: orders:9080\r\nuser-agent: test/1\r\nx-forwarded-for: 10.1.1.1\r\nconnection: close\r\n${more}\r\n`;

const OWN_TEXT = { bytes_sent: 'the text of the answer is our own' };
/** Envoy's HTTP/1 parser takes the end of the connection for a fault of framing; documented is UC for it. */
const CUT = {
  response_flags: 'UC: the connection ended',
  response_code_details: 'connection_termination for the same reason',
};

export const cases: readonly LoggedCase[] = [
  { name: 'answered', request: get('/ok?id=1') },
  {
    name: 'answered in chunks',
    request: get('/chunks'),
    differs: { bytes_sent: 'chunk lines are counted with the body' },
  },
  { name: 'the app’s own 500', request: get('/500') },
  {
    name: 'a request with a body',
    request: 'POST /ok HTTP/1.1\r\nhost: orders:9080\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello',
  },
  { name: 'denied by a DENY policy', request: get('/denied/by-name') },
  { name: 'denied for want of an ALLOW policy', request: get('/nowhere') },
  { name: 'the app refuses connections', request: get('/ok'), refused: true, differs: OWN_TEXT },
  { name: 'the app resets before its answer', request: get('/reset'), differs: OWN_TEXT },
  { name: 'the app closes before its answer', request: get('/close'), differs: OWN_TEXT },
  { name: 'the app resets amid its answer', request: get('/half'), differs: CUT },
  { name: 'the app closes amid its answer', request: get('/short'), differs: CUT },
  { name: 'the app talks nonsense', request: get('/nonsense'), differs: OWN_TEXT },
  { name: 'the app’s chunks are none', request: get('/bad-chunk') },
  { name: 'the client leaves before the answer', request: get('/silent'), leaves: true },
  {
    name: 'a malformed field',
    request: 'GET /ok HTTP/1.1\r\nhost: a\r\nbad name: x\r\n\r\n',
    differs: OWN_TEXT,
  },
  {
    name: 'no Host',
    request: 'GET /ok HTTP/1.1\r\n\r\n',
    differs: {
      ...OWN_TEXT,
      response_flags: 'DPE, as for any other malformed head',
      method: 'nothing is kept of a malformed head',
      path: 'nothing is kept of a malformed head',
    },
  },
  {
    name: 'a head too large',
    request: get('/ok', `x-large: ${'a'.repeat(70_000)}\r\n`),
    differs: OWN_TEXT,
  },
  { name: 'a head too slow', request: 'GET /ok HTTP/1.1\r\nhost: a\r\n', differs: OWN_TEXT },
];

/** The app: acts as the path says. */
export function act(socket: Socket): void {
  socket.once('data', (chunk: Buffer) => {
    const path = chunk.toString('latin1').split(' ')[1] ?? '';
    if (path.startsWith('/ok')) socket.end('HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n');
    else if (path === '/500') socket.end('HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\noh\n');
    else if (path === '/chunks') socket.end(`${CHUNKED}3\r\nok\n\r\n0\r\n\r\n`);
    else if (path === '/reset') socket.resetAndDestroy();
    else if (path === '/close') socket.end();
    else if (path === '/half') socket.write(HALF, () => setTimeout(() => socket.resetAndDestroy(), 50));
    else if (path === '/short') socket.write(HALF, () => setTimeout(() => socket.end(), 50));
    else if (path === '/nonsense') socket.end('nonsense\r\n\r\n');
    else if (path === '/bad-chunk') socket.end(`${CHUNKED}xyz\r\nok\n\r\n0\r\n\r\n`);
  });
}

const CHUNKED = 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n';
const HALF = 'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf';

/** Fields whose values the facts decide, not the clock or the kernel. */
export const COMPARED = [
  ...['method', 'path', 'protocol', 'authority', 'user_agent', 'x_forwarded_for'],
  ...['response_code', 'response_flags', 'response_code_details', 'connection_termination_details'],
  ...['upstream_transport_failure_reason', 'upstream_host', 'upstream_cluster', 'route_name'],
  ...['requested_server_name', 'bytes_received', 'bytes_sent'],
];
/** Fields that must be there in both or in neither. */
export const PRESENT = ['request_id', 'upstream_service_time', 'upstream_local_address', 'start_time'];
