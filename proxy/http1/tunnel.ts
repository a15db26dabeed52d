/** A tunnel behind a 101 (WebSocket): bytes both ways until both ends are through, judged again and reported as its request. */
import type { Connection } from '../connections.ts';
import type { Upstream } from '../dial.ts';
import type { Exchange } from '../http/exchange.ts';
import type { HttpSide } from '../http/side.ts';
import { Pipe, type PipeObserver } from '../pipe.ts';

export interface TunnelEnds {
  readonly connection: Connection;
  readonly side: HttpSide;
  readonly exchange: Exchange;
  readonly upstream: Upstream;
  /** What the downstream sent before the 101, and the upstream behind it. */
  readonly ahead: Buffer;
  readonly rest: Buffer;
}

/** Joins the two ends; the connection's carrier is the tunnel from here on. */
export function openTunnel({ connection, side, exchange, upstream, ahead, rest }: TunnelEnds): void {
  const observer: PipeObserver = {
    moved(fromDownstream, bytes) {
      connection.active = true;
      if (fromDownstream) {
        connection.bytesReceived += bytes;
        exchange.requestBodyBytes += bytes;
      } else {
        connection.bytesSent += bytes;
        exchange.responseBodyBytes += bytes;
      }
    },
    finished(error, fromDownstream) {
      if (error !== null && exchange.reason === null && connection.refusal === null) {
        const side = fromDownstream ? 'downstream_closed' : 'upstream_closed';
        exchange.reason = upstream.broken?.reason ?? side;
        exchange.detail = upstream.broken?.message ?? error.message;
      }
      side.dropped(upstream);
      side.finished(exchange);
    },
  };
  // Counted when it was received, and once more when it moves.
  connection.bytesReceived -= ahead.length;
  const pipe = new Pipe(connection, upstream, observer, { downstream: ahead, upstream: rest });
  connection.carrier = pipe;
  const { rejudge } = connection;
  connection.rejudge = () => {
    rejudge?.();
    if (!connection.closed && connection.refusal === null && !side.stillAllowed(exchange)) pipe.abort();
  };
  connection.expireIdle(side.limits.idleTimeout, () => {
    exchange.reason = 'idle_timeout';
    pipe.abort();
  });
  // The set may be another than the one that let the request pass.
  connection.rejudge();
}
