/** Our tunnels as a peer that only moves bytes: a CONNECT stream of `proxy/hbone/` for each connection; the floor of what our frame layer costs. */
import { nodeScript } from '../children.ts';
import type { PortPeer } from './peer.ts';

export const hboneBytes: PortPeer = {
  name: "Oarlock's tunnel, bytes alone",
  judges: true,
  groups: [],
  carriesBytes: true,
  note: 'no proxy of HTTP: a `net` stream joined with a CONNECT stream of our own HTTP/2, 100 in a tunnel; SPIFFE URIs compared once a tunnel; joined by the pipe of the sidecar; nothing read, judged, counted or logged',
  missing: () => null,
  command: (side) => nodeScript('bench/peers/hbone-bytes-process.ts', [JSON.stringify(side)], side.nodeFlags),
};
