/** Starts another proxy alone, from plaintext to plaintext, for whoever wants to send it more than the bench does. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { envoy } from './envoy.ts';
import { haproxy } from './haproxy.ts';
import { httpProxy, httpProxy3 } from './http-proxy.ts';
import { nginx } from './nginx.ts';
import type { Credentials, Wanted } from './peer.ts';
import { startSide } from './start.ts';
import { undici } from './undici.ts';

const peers = {
  'http-proxy': httpProxy,
  'http-proxy-3': httpProxy3,
  undici,
  nginx,
  haproxy,
  envoy,
} as const;

export type PeerName = keyof typeof peers;

export const peerNames = Object.keys(peers) as readonly PeerName[];

const NO_CREDENTIALS: Credentials = { cert: '', key: '', root: '', certWithName: '' };

export interface StartedPeer {
  /** On 127.0.0.1. */
  readonly port: number;
  stop(): Promise<void>;
}

/** Why the peer cannot run on this machine; null where it can. */
export function missingPeer(name: PeerName): string | null {
  return peers[name].missing();
}

/**
 * Starts the peer before a port of 127.0.0.1, HTTP/1.1 on both sides, with the bench's configuration less its TLS.
 * @returns when it listens; nothing was sent upstream by then. @throws with what the peer said, where it does not start
 */
export async function startPeer(
  name: PeerName,
  { upstreamPort }: { readonly upstreamPort: number },
): Promise<StartedPeer> {
  const dir = mkdtempSync(join(tmpdir(), 'oarlock-bench-'));
  const clear = (): void => rmSync(dir, { recursive: true, force: true });
  process.once('exit', clear);
  const identities = { web: NO_CREDENTIALS, orders: NO_CREDENTIALS, stranger: NO_CREDENTIALS };
  const wanted: Wanted = {
    protocol: 'http1',
    tunnelled: null,
    app: upstreamPort,
    dir,
    credentials: identities,
    accessLog: false,
  };
  const { port, child } = await startSide(peers[name], wanted, 'plain', upstreamPort, dir);
  return {
    port,
    stop: async () => {
      await child.stop();
      process.off('exit', clear);
      clear();
    },
  };
}
