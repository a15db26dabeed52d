/** The rows of the side-by-side bench: a way from the generator to the app each. */
import { envoy } from './peers/envoy.ts';
import { haproxy } from './peers/haproxy.ts';
import { hboneBytes } from './peers/hbone-bytes.ts';
import { hboneNodeHttp2 } from './peers/hbone-node-http2.ts';
import { httpProxy, httpProxy3 } from './peers/http-proxy.ts';
import { nginx } from './peers/nginx.ts';
import { oarlock } from './peers/oarlock.ts';
import type { Peer, Protocol } from './peers/peer.ts';
import { pipe } from './peers/pipe.ts';
import { undici } from './peers/undici.ts';
import { ztunnel } from './peers/ztunnel.ts';

export interface Row {
  /** As `--rows` names it. */
  readonly id: string;
  readonly name: string;
  readonly peer: Peer;
  /** Between the two sides. Rows of TCP are measured with new connections alone: of these the others tell with HTTP. */
  readonly protocol: Protocol;
  /** In streams of an HBONE tunnel. */
  readonly hbone: boolean;
  /** HTTP/2 to the app as well: where the port is declared so, a mesh speaks it all the way. */
  readonly http2App: boolean;
}

/** The row without any proxy. */
export const NONE = { id: 'none', name: 'no proxy' } as const;
/** Our row with a TLS connection for each; the ids of our proxy's other rows begin with it. */
export const OURS = 'oarlock';
export const OURS_HBONE = 'oarlock-hbone';
export const OURS_HBONE_TCP = 'oarlock-hbone-tcp';

export const rows: readonly Row[] = [
  row(OURS, oarlock),
  row(OURS_HBONE, oarlock, { hbone: true }),
  row('oarlock-h2', oarlock, { protocol: 'http2', http2App: true }),
  row('oarlock-tcp', oarlock, { protocol: 'tcp' }),
  row(OURS_HBONE_TCP, oarlock, { protocol: 'tcp', hbone: true }),
  row('pipe', pipe),
  row('hbone-bytes', hboneBytes, { hbone: true }),
  row('hbone-node-http2', hboneNodeHttp2, { hbone: true }),
  row('http-proxy', httpProxy),
  row('http-proxy-3', httpProxy3),
  row('undici', undici),
  row('nginx', nginx),
  row('haproxy', haproxy),
  row('haproxy-h2', haproxy, { protocol: 'http2' }),
  row('haproxy-tcp', haproxy, { protocol: 'tcp' }),
  row('envoy', envoy),
  row('envoy-h2', envoy, { protocol: 'http2' }),
  row('envoy-tcp', envoy, { protocol: 'tcp' }),
  row('ztunnel', ztunnel, { hbone: true }),
];

/** A row of our code: our proxy, or our tunnel alone. */
export function isOurs({ id, peer }: Row): boolean {
  return id.startsWith(OURS) || peer === hboneBytes;
}

function row(
  id: string,
  peer: Peer,
  { protocol = 'http1', hbone = false, http2App = false }: Partial<Row> = {},
): Row {
  const name = [
    peer.name,
    ...(protocol === 'tcp' ? ['TCP'] : []),
    ...(protocol === 'http2' ? ['HTTP/2 between'] : []),
    ...(hbone && !peer.carriesBytes ? ['HBONE between'] : []),
  ].join(', ');
  return { id, name, peer, protocol, hbone, http2App };
}
