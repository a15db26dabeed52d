/** Node's own HTTP/2 as a peer that only moves bytes: a CONNECT stream for each connection, as HBONE has them; the floor of what `node:http2` costs there. */
import { nodeScript } from '../children.ts';
import type { PortPeer } from './peer.ts';

export const hboneNodeHttp2: PortPeer = {
  name: 'node:http2 tunnel, bytes alone',
  judges: true,
  groups: [],
  carriesBytes: true,
  note: 'no proxy of HTTP: a `net` stream joined with a CONNECT stream of `node:http2`, 100 in a tunnel; SPIFFE URIs compared once a tunnel; nothing read, judged, counted or logged',
  missing: () => null,
  command: (side) =>
    nodeScript('bench/peers/hbone-node-http2-process.ts', [JSON.stringify(side)], side.nodeFlags),
};
