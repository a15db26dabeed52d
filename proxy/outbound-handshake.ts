/** A TLS handshake of ours until the server has spoken: by TLS 1.3 we are through with it before the server judges our certificate. */
import { performance } from 'node:perf_hooks';
import type { TLSSocket } from 'node:tls';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { RouteTls } from '../mesh/route.ts';
import { alertOf, issuerOf, sayAlert } from './alerts.ts';
import type { CertificateLife } from './links.ts';
import type { HandshakeCounts } from './mesh-tls.ts';
import type { HandshakeFacts } from './seen-handshake.ts';
import { describeTlsError, presentedChain, reasonOfTlsError, type VerifiedPeer } from './verify-peer.ts';

/** What is asked of a server. */
export type AskedTls = Pick<RouteTls, 'sni' | 'expectedIdentities'>;

export interface OriginateDone {
  /**
   * @param peer null outside the mesh (SIMPLE, MUTUAL)
   * @param external outside the mesh: how long the server's certificate holds; null where nobody looked at it
   */
  originated(stream: TLSSocket, peer: VerifiedPeer | null, external: CertificateLife | null): void;
  refused(reason: ReasonCode, detail: string, facts: HandshakeFacts): void;
  /**
   * Behind the handshake, before a byte of what goes through it: what a server does that does not take us.
   * @param proven it said so by an alert; false: it only hung up
   */
  refusedUs(detail: string, facts: HandshakeFacts, proven: boolean): void;
}

/** What a connection ends with that nobody has refused. */
const CUT: ReadonlySet<string | undefined> = new Set(['ECONNRESET', 'EPIPE']);

/** A server hears of our certificate half a round trip after we are through, and hangs up at once. */
const VERDICT_MS = 1_000;

/** One of them: the record its listeners work on, for as long as the connection lives. */
export abstract class OutboundHandshake {
  readonly tls: AskedTls;
  readonly alpn: readonly string[];
  readonly counts: HandshakeCounts;
  readonly done: OriginateDone;
  /** The certificate we show where we are asked for one, PEM. */
  readonly #shown: string | Buffer | null;
  settled = false;
  /** We took the server, at this `performance.now()`. */
  #tookAt: number | null = null;
  /** Tickets came (RFC 8446 §4.6.1): whoever ends in good order behind them has let us in. */
  #ticketed = false;
  /** A server that only hangs up may be one that judged our certificate. */
  #judgedLast = false;

  constructor(
    asked: { tls: AskedTls; alpn: readonly string[]; shown: string | Buffer | null },
    counts: HandshakeCounts,
    done: OriginateDone,
  ) {
    this.tls = asked.tls;
    this.alpn = asked.alpn;
    this.#shown = asked.shown;
    this.counts = counts;
    this.done = done;
  }

  listen(stream: TLSSocket): void {
    stream.on('session', (session) => {
      this.#ticketed = true;
      this.ticket(session);
    });
    stream.once('secureConnect', () => this.#secured(stream));
    stream.on('error', (error) => this.#broke(error, stream));
    stream.once('end', () => {
      if (this.#ticketed) this.#judgedLast = false;
      else this.#hungUp(stream);
    });
  }

  /** TLS is through: judges the server and calls back, not from inside OpenSSL. @returns whether it passed */
  protected abstract secured(stream: TLSSocket): boolean;

  /** TLS is not through, nor will be; calls back. */
  protected abstract failed(error: NodeJS.ErrnoException, detail: string, stream: TLSSocket): void;

  /** Something went wrong, at whatever time. */
  protected broke(): void {}

  protected ticket(_session: Buffer): void {}

  /** What the server presented, where it was kept: its stream may have forgotten. */
  protected get chain(): readonly Buffer[] {
    return [];
  }

  protected facts(openssl: string | null, chain: readonly Buffer[]): HandshakeFacts {
    return { openssl, sni: this.tls.sni, alpn: this.alpn, chain };
  }

  /** Of a server that we refuse. */
  protected factsOf(stream: TLSSocket): HandshakeFacts {
    const leaf = stream.getPeerX509Certificate();
    const refusedByOpenssl = leaf !== undefined && !stream.authorized;
    const openssl = refusedByOpenssl ? String(stream.authorizationError) : null;
    return this.facts(openssl, leaf === undefined ? [] : presentedChain(leaf));
  }

  #secured(stream: TLSSocket): void {
    if (this.settled) return;
    this.settled = true;
    if (!this.secured(stream)) return;
    this.#tookAt = performance.now();
    this.#judgedLast =
      this.#shown !== null && stream.getProtocol() === 'TLSv1.3' && !stream.isSessionReused();
  }

  #broke(error: NodeJS.ErrnoException, stream: TLSSocket): void {
    this.broke();
    const alert = alertOf(error);
    const openssl = describeTlsError(error);
    const detail = alert === null ? openssl : sayAlert(alert, this.#shown);
    if (!this.settled) {
      this.settled = true;
      this.counts.failed++;
      this.failed(error, detail, stream);
      return;
    }
    // Whoever hears of it after us shows no line of OpenSSL's source to people.
    if (error.code?.startsWith('ERR_SSL_')) error.message = detail;
    if (CUT.has(error.code)) this.#hungUp(stream);
    else if (alert !== null && this.#tookAt !== null && stream.bytesRead === 0) {
      this.#judgedLast = false;
      this.counts.failed++;
      this.done.refusedUs(detail, this.facts(openssl, this.chain), true);
    }
  }

  /** Nobody but the server knows why: an app may close at once, too, and a sidecar whose app is gone. */
  #hungUp(stream: TLSSocket): void {
    const silent = stream.bytesRead === 0 && !stream.writableEnded;
    if (!this.#judgedLast || !silent || this.#shown === null || this.#tookAt === null) return;
    this.#judgedLast = false;
    if (performance.now() - this.#tookAt > VERDICT_MS) return;
    const detail = `the peer hung up behind the handshake without a word: it may be that it refuses our certificate, ${issuerOf(this.#shown)}`;
    this.done.refusedUs(detail, this.facts(null, this.chain), false);
  }
}

/**
 * Why a handshake of ours failed. One that was cut, with no word of TLS, was no connection: the kernel makes it for a
 * server that stops just then, and resets it. As in Envoy (RemoteConnectionFailure), another endpoint may have it.
 */
export function reasonOfFailure({ code }: NodeJS.ErrnoException): ReasonCode {
  return CUT.has(code) ? 'connect_failed' : reasonOfTlsError(code ?? '');
}
