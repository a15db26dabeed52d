/** Proves before anything is measured that a pair does mutual TLS, with both checks on. */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, createServer } from 'node:tls';
import type { AllCredentials, Credentials, Pair } from './peers/peer.ts';
import { connectionsTo } from './proc.ts';
import { askPlain, askTls, askTunnel } from './request.ts';
import type { Row } from './rows.ts';

/** A caller that goes to the wrong server must not be served; this long it may try, and longer where it started too slowly to dial at all. */
const WRONG_SERVER_MS = [1_500, 15_000] as const;
/** So many connections of the app at once, and at most so many tunnels for them (one, or one each for what came while the first shook hands). */
const APP_CONNECTIONS = 16;
const MOST_TUNNELS = 2;
const KEPT_REQUEST = 'GET /small HTTP/1.1\r\nHost: orders.bench.svc.cluster.local\r\n\r\n';

const ALPN = {
  http1: ['istio-http/1.1', 'http/1.1'],
  http2: ['istio-h2', 'h2'],
  tcp: ['istio'],
} as const;

/** @throws with the check that failed */
export async function verify(row: Row, pair: Pair, credentials: AllCredentials): Promise<void> {
  await (pair.verify?.() ?? checksIdentities(row, pair, credentials));
  if (row.hbone) await usesTunnel(row, pair);
}

async function checksIdentities(row: Row, pair: Pair, credentials: AllCredentials): Promise<void> {
  const { web, stranger } = credentials;
  const root = { ca: readFileSync(web.root) };
  const ask = (tls: ConnectionOptions): Promise<number> =>
    pair.tunnelled === null
      ? askTls(pair.ingress, { ...tls, ALPNProtocols: [...ALPN[row.protocol]] })
      : askTunnel(pair.ingress, `127.0.0.1:${pair.tunnelled}`, tls);
  const as = ({ cert, key }: Credentials) => ({ ...root, cert: readFileSync(cert), key: readFileSync(key) });
  const expected = (what: string, status: number, isRight: boolean): void => {
    if (!isRight) throw new Error(`${row.name}: ${what} got ${status === 0 ? 'no answer' : status}`);
  };
  const allowed = await ask(as(web));
  expected('the allowed caller', allowed, allowed === 200);
  const anonymous = await ask(root);
  expected('a caller without certificate', anonymous, anonymous !== 200);
  const plain = await askPlain(pair.ingress);
  expected('a caller in plaintext', plain, plain !== 200);
  const other = await ask(as(stranger));
  expected('a caller of another identity', other, (other === 200) !== row.peer.judges);
  await refusesWrongServer(row, pair, stranger);
}

/** Many connections of the app lie in one tunnel, and none beside it. */
export async function usesTunnel(row: Row, pair: Pair): Promise<void> {
  const kept = await Promise.all(
    Array.from({ length: APP_CONNECTIONS }, () => connectionAnswered(row, pair)),
  );
  const tunnels = connectionsTo(pair.ingress, pair.callerPid);
  const beside = pair.tunnelled === null ? 0 : connectionsTo(pair.tunnelled, pair.callerPid);
  for (const socket of kept) socket.destroy();
  if (tunnels === null || beside === null) return;
  if (tunnels === 0 || tunnels > MOST_TUNNELS || beside > 0) {
    const found = `${tunnels} to the tunnels' port and ${beside} beside it`;
    throw new Error(`${row.name}: ${APP_CONNECTIONS} connections of the app made ${found}: no HBONE`);
  }
}

/** @returns a connection that was answered once, and is open */
function connectionAnswered(row: Row, { host, egress: port }: Pair): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host });
    const refuse = (): void => reject(new Error(`${row.name}: a connection of the app was not answered`));
    socket.on('error', refuse).once('close', refuse);
    socket.once('data', (chunk: Buffer) =>
      chunk.toString('latin1', 0, 12) === 'HTTP/1.1 200' ? resolve(socket) : refuse(),
    );
    socket.write(KEPT_REQUEST);
  });
}

/** The caller's side is pointed at a server of the same CA and another identity. */
async function refusesWrongServer(row: Row, pair: Pair, { cert, key, root }: Credentials): Promise<void> {
  const answer = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n';
  let handshakes = 0;
  let requests = 0;
  const impostor = createServer(
    {
      cert: readFileSync(cert),
      key: readFileSync(key),
      ca: readFileSync(root),
      requestCert: true,
      ALPNProtocols: ['istio-h2', 'h2', 'istio-http/1.1', 'http/1.1'],
    },
    (socket) => {
      handshakes++;
      socket.on('error', () => {});
      socket.once('data', () => {
        requests++;
        socket.end(answer);
      });
    },
  );
  impostor.on('connection', () => {
    handshakes++;
  });
  impostor.on('tlsClientError', () => {});
  await new Promise<void>((resolve) => impostor.listen(0, '127.0.0.1', resolve));
  const { port } = impostor.address() as { readonly port: number };
  let served = false;
  for (const withinMs of WRONG_SERVER_MS) {
    if (handshakes > 0) break;
    served = await pair.timedStart(port, withinMs).then(
      () => true,
      () => false,
    );
  }
  impostor.close();
  // The port beside the tunnel's, where there is one, would lead to the right server.
  if (served)
    throw new Error(`${row.name}: the caller's side is served though its way leads to another server`);
  if (requests > 0) throw new Error(`${row.name}: the caller's side sends requests to any server`);
  if (handshakes === 0) throw new Error(`${row.name}: the caller's side never dialled the wrong server`);
}
