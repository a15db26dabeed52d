/** Proves before anything is measured that a pair does mutual TLS, with both checks on. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:tls';
import type { AllCredentials } from './peers/credentials.ts';
import type { Credentials } from './peers/peer.ts';
import type { Pair } from './peers/start.ts';
import { askPlain, askTls } from './request.ts';
import type { Row } from './rows.ts';

/** A caller that goes to the wrong server must not be served; this long it may try. */
const WRONG_SERVER_MS = 1_500;

/** @throws with the check that failed */
export async function verify(row: Row, pair: Pair, credentials: AllCredentials): Promise<void> {
  const { web, stranger } = credentials;
  const root = {
    ca: readFileSync(web.root),
    ALPNProtocols: row.http2 ? ['istio-h2', 'h2'] : ['istio-http/1.1', 'http/1.1'],
  };
  const as = ({ cert, key }: Credentials) => ({ ...root, cert: readFileSync(cert), key: readFileSync(key) });
  const expected = (what: string, status: number, isRight: boolean): void => {
    if (!isRight) throw new Error(`${row.name}: ${what} got ${status === 0 ? 'no answer' : status}`);
  };
  const allowed = await askTls(pair.ingress, as(web));
  expected('the allowed caller', allowed, allowed === 200);
  const anonymous = await askTls(pair.ingress, root);
  expected('a caller without certificate', anonymous, anonymous !== 200);
  const plain = await askPlain(pair.ingress);
  expected('a caller in plaintext', plain, plain !== 200);
  const other = await askTls(pair.ingress, as(stranger));
  expected('a caller of another identity', other, (other === 200) !== row.peer.judges);
  await refusesWrongServer(row, pair, stranger);
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
  // Resolved or not: what counts is what reached the impostor.
  await pair.timedStart(port, WRONG_SERVER_MS).catch(() => {});
  impostor.close();
  if (requests > 0) throw new Error(`${row.name}: the caller's side sends requests to any server`);
  if (handshakes === 0) throw new Error(`${row.name}: the caller's side never dialled the wrong server`);
}
