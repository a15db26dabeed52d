/** http-proxy and http-proxy-3 as peers: two servers with keep-alive agents, mutual TLS between. */
import { createRequire } from 'node:module';
import { nodeScript } from '../children.ts';
import type { PortPeer } from './peer.ts';

export const httpProxy = peer('http-proxy');
export const httpProxy3 = peer('http-proxy-3');

function peer(name: 'http-proxy' | 'http-proxy-3'): PortPeer {
  return {
    name,
    judges: true,
    // Node's TLS server, as the undici pair has it: shaking hands with that one is enough.
    groups: [],
    note: 'SPIFFE URIs compared once a connection, no policy, no metrics, no log, header fields passed on as they come',
    missing: () => {
      try {
        createRequire(import.meta.url).resolve(name);
        return null;
      } catch {
        return `no ${name} in node_modules (npm install)`;
      }
    },
    command: (side) =>
      nodeScript(
        'bench/peers/http-proxy-process.ts',
        [name, JSON.stringify(side)],
        [
          // http-proxy calls what Node has deprecated.
          '--no-deprecation',
          ...side.nodeFlags,
        ],
      ),
  };
}
