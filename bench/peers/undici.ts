/** `http.Server` and undici as a peer: the fastest pair that Node's own parts make. */
import { nodeScript } from '../children.ts';
import type { PortPeer } from './peer.ts';

export const undici: PortPeer = {
  name: 'http.Server + undici',
  judges: true,
  groups: [],
  note: 'SPIFFE URIs compared once a connection, no policy, no metrics, no log, header fields passed on as they come',
  missing: () => null,
  command: (side) => nodeScript('bench/peers/undici-process.ts', [JSON.stringify(side)], side.nodeFlags),
};
