/** The rows of the side-by-side bench: a way from the generator to the app each. */
import { envoy } from './peers/envoy.ts';
import { haproxy } from './peers/haproxy.ts';
import { httpProxy, httpProxy3 } from './peers/http-proxy.ts';
import { nginx } from './peers/nginx.ts';
import { oarlock } from './peers/oarlock.ts';
import type { Peer } from './peers/peer.ts';
import { pipe } from './peers/pipe.ts';
import { undici } from './peers/undici.ts';

export interface Row {
  /** As `--rows` names it. */
  readonly id: string;
  readonly name: string;
  readonly peer: Peer;
  /** HTTP/2 between the two sides. */
  readonly http2: boolean;
  /** HTTP/2 to the app as well: where the port is declared so, a mesh speaks it all the way. */
  readonly http2App: boolean;
}

/** The row without any proxy. */
export const NONE = { id: 'none', name: 'no proxy' } as const;
/** The row whose figures the aims are about. */
export const OURS = 'oarlock';

export const rows: readonly Row[] = [
  row(OURS, oarlock),
  row('oarlock-h2', oarlock, { http2: true, http2App: true }),
  row('pipe', pipe),
  row('http-proxy', httpProxy),
  row('http-proxy-3', httpProxy3),
  row('undici', undici),
  row('nginx', nginx),
  row('haproxy', haproxy),
  row('haproxy-h2', haproxy, { http2: true }),
  row('envoy', envoy),
  row('envoy-h2', envoy, { http2: true }),
];

function row(id: string, peer: Peer, { http2 = false, http2App = false } = {}): Row {
  const name = http2 ? `${peer.name}, HTTP/2 between` : peer.name;
  return { id, name, peer, http2, http2App };
}
