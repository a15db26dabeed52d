/** Carries a connection as plain TCP, and ends one that is refused; both sides use it. */
import type { Duplex } from 'node:stream';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Connection } from './connections.ts';
import type { DataPath, RefusalFacts } from './data-path.ts';
import type { Upstream } from './dial.ts';
import { Pipe, type PipeObserver } from './pipe.ts';
import { reportConnection } from './report.ts';

/** Refuses a connection: counter, log line, access log, reset, or the answer to its CONNECT. */
export function refuseConnection(
  path: DataPath,
  connection: Connection,
  reason: ReasonCode,
  facts: RefusalFacts = {},
): void {
  if (connection.closed || connection.refusal !== null) return;
  connection.refusal = { reason, detail: facts.detail ?? '', policy: facts.policy ?? null };
  connection.rejudge = null;
  const { carrier } = connection;
  connection.carrier = null;
  path.refused(connection, reason, facts);
  if (carrier !== null) {
    carrier.abort();
    return;
  }
  reportConnection(path, connection, null, reason, facts);
  if (connection.connect === null) connection.abort();
  else connection.connect.refuse(CONNECT_DENIED.has(reason) ? 401 : 503);
}

/** What is answered 401 where ztunnel answers so; all else is a matter of what is there and not of who asks. */
const CONNECT_DENIED: ReadonlySet<ReasonCode> = new Set([
  'policy_denied',
  'ext_authz_denied',
  'ext_authz_failed',
  'untrusted_trust_domain',
]);

/**
 * Lets a stream be read into its own buffer and no further (64 KiB): while an upstream is reached for, a downstream
 * that resets its connection must be noticed, which nothing tells of one that is not read.
 */
export function holdBack(stream: Duplex): void {
  stream.on('readable', ignore);
}

/** Ends `holdBack`. */
export function letFlow(stream: Duplex): void {
  stream.off('readable', ignore);
}

/**
 * Joins a downstream to its upstream until both ends are through, and reports it.
 * @param said what the upstream said before it ended, already taken from its stream; null: it has not ended
 */
export function pipeConnection(
  path: DataPath,
  connection: Connection,
  upstream: Upstream,
  said: Buffer | null = null,
): void {
  if (connection.closed || connection.refusal !== null) {
    upstream.abort();
    return;
  }
  const { series } = connection;
  connection.connect?.accept();
  path.addLoad(upstream.address, 1);
  if (series !== null) series.tcpOpened++;
  const observer: PipeObserver = {
    moved(fromDownstream, bytes) {
      connection.active = true;
      if (fromDownstream) {
        connection.bytesReceived += bytes;
        if (series !== null) series.tcpReceivedBytes += bytes;
      } else {
        connection.bytesSent += bytes;
        if (series !== null) series.tcpSentBytes += bytes;
      }
    },
    finished(error, fromDownstream) {
      path.addLoad(upstream.address, -1);
      if (series !== null) series.tcpClosed++;
      const { broken } = upstream;
      const detail = broken?.message ?? error?.message ?? '';
      const { refusal } = connection;
      if (refusal !== null) {
        reportConnection(path, connection, upstream, refusal.reason, refusal);
        return;
      }
      const side = fromDownstream ? 'downstream_closed' : 'upstream_closed';
      const reason = error === null ? null : (broken?.reason ?? side);
      if (reason !== null) path.refused(connection, reason, { detail: `${upstream.address}: ${detail}` });
      reportConnection(path, connection, upstream, reason, { detail });
    },
  };
  connection.carrier = new Pipe(connection, upstream, observer, {
    downstream: connection.early,
    upstream: said,
  });
}

function ignore(): void {}
