/** The TLS client: full or resumed mutual TLS handshakes with an inbound port, in a process of its own. */
import { readFileSync } from 'node:fs';
import {
  type ConnectionOptions,
  connect,
  createSecureContext,
  type SecureContext,
  type TLSSocket,
} from 'node:tls';
import { cpuMsOf } from './proc.ts';
import { answer, type HandshakeTask, taskOf } from './task.ts';

const task = taskOf<HandshakeTask>();

/** One context for all: what is measured is handshakes, not the reading of certificates. */
function contextOf(roots: readonly Buffer[]): SecureContext {
  return createSecureContext({
    cert: readFileSync(task.cert),
    key: readFileSync(task.key),
    ca: [...roots],
    minVersion: 'TLSv1.3',
    ecdhCurve: task.group,
  });
}

const options: ConnectionOptions = {
  host: '127.0.0.1',
  port: task.port,
  // Without roots: with them OpenSSL would send its own as well, which the server would have to read.
  secureContext: contextOf([]),
  rejectUnauthorized: false,
  ALPNProtocols: ['istio-http/1.1', 'istio', 'http/1.1'],
  servername: 'orders.bench.svc.cluster.local',
  checkServerIdentity: () => undefined,
};

/** The one that verifies the server's chain; that the name in it is a SPIFFE URI is known. */
const strict: ConnectionOptions = {
  ...options,
  secureContext: contextOf([readFileSync(task.root)]),
  rejectUnauthorized: true,
};

/** The client is done before the server has read its last message and judged it. */
const KEPT_MS = 100;

let handshakes = 0;
let errors = 0;
let session: Buffer | undefined;

/** OpenSSL tells P-256 by another of its names. */
const GROUP = task.group === 'P-256' ? 'prime256v1' : task.group;

/** One handshake after the other; each connection is kept a little, and must not be closed by the server meanwhile. */
function shake(): void {
  const tls = connect(session === undefined ? options : { ...options, session });
  let ending = false;
  tls.once('secureConnect', () => {
    if (tls.isSessionReused() === task.resumed) handshakes++;
    else errors++;
    shake();
    setTimeout(() => {
      ending = true;
      tls.end();
    }, KEPT_MS);
  });
  tls.on('error', () => {});
  tls.once('close', () => {
    if (!ending) errors++;
  });
  tls.resume();
}

/** Shakes hands once and sends a request: the server judges resumed peers itself, and may yet refuse. */
function proven(): Promise<Buffer | undefined> {
  return new Promise((resolve, reject) => {
    const tls: TLSSocket = connect(session === undefined ? strict : { ...strict, session });
    let ticket: Buffer | undefined;
    tls.on('session', (given) => {
      ticket = given;
    });
    tls.on('data', (chunk: Buffer) => {
      const { name } = tls.getEphemeralKeyInfo() as { readonly name?: string };
      if (chunk.toString('latin1', 0, 12) !== 'HTTP/1.1 200') reject(new Error(`refused: ${chunk}`));
      else if (name !== GROUP) reject(new Error(`the group is ${name}, not ${GROUP}`));
      else if (tls.getProtocol() !== 'TLSv1.3') reject(new Error(`this is ${tls.getProtocol()}`));
      else resolve(ticket);
      tls.destroy();
    });
    tls.on('error', reject);
    tls.once('close', () => reject(new Error('closed without an answer')));
    tls.write('GET /small HTTP/1.1\r\nHost: orders\r\n\r\n');
  });
}

const ticket = await proven();
if (task.resumed) {
  if (ticket === undefined) throw new Error('no session ticket came');
  session = ticket;
  await proven();
}
for (let i = 0; i < task.concurrency; i++) shake();

setTimeout(() => {
  handshakes = 0;
  errors = 0;
  const began = performance.now();
  const cpuBefore = cpuMsOf(task.pids);
  setTimeout(() => {
    const seconds = (performance.now() - began) / 1000;
    const cpuAfter = cpuMsOf(task.pids);
    const cpuMs = cpuBefore === null || cpuAfter === null ? null : cpuAfter - cpuBefore;
    answer({ seconds, handshakes, errors, cpuMs });
  }, task.measureMs);
}, task.warmUpMs);
