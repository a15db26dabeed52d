/** A stranger's end of a handshake: presents any chain, to our inbound side as a client, to our outbound side as a server. */
import type { KeyObject } from 'node:crypto';
import type { Socket } from 'node:net';
import { connect, createSecureContext, TLSSocket } from 'node:tls';
import type { InboundTls } from '../../proxy/tls-inbound.ts';
import type { OutboundTls } from '../../proxy/tls-outbound.ts';
import { dearInfo } from '../mesh/odd-keys.ts';
import { basicConstraints, certificate, ecKeys, pem, rsaKeys } from '../mesh/pki.ts';
import { type Outcome, originate, socketPair, terminate } from './tls-ends.ts';

/** DER, the leaf first, with the leaf's key. */
export interface Presented {
  readonly chain: readonly Uint8Array[];
  readonly key: KeyObject;
}

export function contextOf({ chain, key }: Presented) {
  return createSecureContext({
    cert: chain.map((der) => pem(der)).join(''),
    key: key.export({ type: 'pkcs8', format: 'pem' }),
    // Whatever it may be: OpenSSL will not hold back weak keys of its own.
    ciphers: 'DEFAULT@SECLEVEL=0',
    minVersion: 'TLSv1.3',
  });
}

/** Only for signatures of the right length. */
const bombKeys = rsaKeys(3_072);

/**
 * Certificates that lead nowhere, each with a key that takes milliseconds to verify the one before by. Nobody needs a
 * key to make them up: the signatures are no one's.
 */
export function bomb(length: number): Presented {
  const [leafKeys, now] = [ecKeys(), Date.now()];
  const from = { issuerKey: bombKeys.privateKey, notBefore: now - 3_600_000, notAfter: now + 3_600_000 };
  const leaf = certificate({ ...from, subject: 'leaf', issuer: 'ca 0', keys: leafKeys, extensions: [] });
  const spki = dearInfo();
  const above = Array.from({ length }, (_, i) =>
    certificate({
      ...from,
      subject: `ca ${i}`,
      issuer: `ca ${i + 1}`,
      keys: bombKeys,
      spki,
      extensions: [basicConstraints(true)],
    }),
  );
  return { chain: [leaf, ...above], key: leafKeys.privateKey };
}

/** False where OpenSSL cannot even read it, be it as theirs or as ours: such bytes end a handshake of themselves. */
export function presentable(presented: Presented): boolean {
  try {
    contextOf(presented);
    return true;
  } catch {
    return false;
  }
}

/** Connects to our inbound side. @returns what that made of it */
export async function comeAsClient(server: InboundTls, presented: Presented): Promise<Outcome> {
  const { theirs, ours, close } = await socketPair();
  const stream = connect({
    socket: ours,
    secureContext: contextOf(presented),
    rejectUnauthorized: false,
    ALPNProtocols: ['istio'],
  });
  stream.on('error', () => {});
  const outcome = await terminate(server, theirs);
  stream.destroy();
  close();
  return outcome;
}

/** Answers our outbound side. @returns what that made of it */
export async function answerAsServer(client: OutboundTls, presented: Presented): Promise<Outcome> {
  const { theirs, ours, close } = await socketPair();
  answer(theirs, presented);
  const outcome = await originate(client, ours);
  if (outcome.ok) outcome.stream.destroy();
  close();
  return outcome;
}

function answer(socket: Socket, presented: Presented): void {
  const stream = new TLSSocket(socket, {
    isServer: true,
    secureContext: contextOf(presented),
    ALPNProtocols: ['istio'],
  });
  stream.on('error', () => {});
}
