/** Node as a peer that only moves bytes: plaintext in, TLS out and back, a connection for each connection; the floor of what Node's sockets cost. */
import { nodeScript } from '../children.ts';
import type { PortPeer } from './peer.ts';

export const pipe: PortPeer = {
  name: 'Node, bytes alone',
  judges: true,
  carriesBytes: true,
  groups: ['X25519MLKEM768', 'X25519', 'P-256'],
  note: 'no proxy of HTTP: `net` and `tls` streams joined, SPIFFE URIs compared once a connection; nothing read, judged, counted or logged',
  missing: () => null,
  command: (side) => nodeScript('bench/peers/pipe-process.ts', [JSON.stringify(side)], side.nodeFlags),
};
