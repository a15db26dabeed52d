/** The TLS that a DestinationRule asks for with servers that are not of the mesh: SIMPLE and MUTUAL. */
import type { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import {
  checkServerIdentity,
  connect,
  type PeerCertificate,
  type SecureContextOptions,
  type TLSSocket,
} from 'node:tls';
import { readCertificate } from '../mesh/certificates.ts';
import { nameLine } from '../mesh/path-rules.ts';
import type { RouteTls } from '../mesh/route.ts';
import type { CertificateLife } from './links.ts';
import { count, type HandshakeCounts } from './mesh-tls.ts';
import { type OriginateDone, OutboundHandshake, reasonOfFailure } from './outbound-handshake.ts';
import { noCertificate, type UpstreamProtocol } from './tls-outbound.ts';
import { describeTlsError, type RefusedVerdict, reasonOfTlsError } from './verify-peer.ts';

/** HTTP/2 is offered alone (pilot's `ALPNH2Only`), since nothing else could be spoken then. */
const EXTERNAL_ALPN = { http1: ['http/1.1'], http2: ['h2'], tcp: [] } as const;

/** Files of a DestinationRule's SIMPLE or MUTUAL TLS, read when dialled; the caller caches. */
export interface TlsFiles {
  readonly cert: Buffer | null;
  readonly key: Buffer | null;
  readonly ca: Buffer | null;
  /** Certificates of that CA that are revoked. */
  readonly crl: Buffer | null;
}

export interface ExternalTarget {
  readonly tls: RouteTls;
  readonly protocol: UpstreamProtocol;
  readonly files: TlsFiles;
}

class ExternalHandshake extends OutboundHandshake {
  readonly #route: RouteTls;

  constructor({ tls, protocol, files }: ExternalTarget, counts: HandshakeCounts, done: OriginateDone) {
    super({ tls, alpn: EXTERNAL_ALPN[protocol], shown: files.cert }, counts, done);
    this.#route = tls;
  }

  protected secured(stream: TLSSocket): boolean {
    const skipped = this.#route.insecureSkipVerify;
    const refused = skipped ? null : refusal(stream, this.#route);
    const life = skipped || refused !== null ? null : leafLife(stream);
    count(this.counts, stream, refused === null);
    // Not from inside OpenSSL: see InboundTls.
    setImmediate(() => {
      if (refused === null) this.done.originated(stream, null, life);
      else this.done.refused(refused.reason, refused.detail, this.factsOf(stream));
    });
    return refused === null;
  }

  protected failed(error: NodeJS.ErrnoException, detail: string): void {
    this.done.refused(reasonOfFailure(error), detail, this.facts(describeTlsError(error), []));
  }
}

/**
 * Speaks SIMPLE or MUTUAL on a connected socket, as a DestinationRule asks. The server must bear one of the
 * names that the route expects (`subjectAltNames`, else the host).
 * @throws where OpenSSL cannot use the files: no handshake begins
 */
export function originateExternal(
  socket: Socket,
  target: ExternalTarget,
  counts: HandshakeCounts,
  done: OriginateDone,
): void {
  const { tls, files } = target;
  const handshake = new ExternalHandshake(target, counts, done);
  const options: SecureContextOptions = {
    ...(files.cert === null ? {} : { cert: files.cert }),
    ...(files.key === null ? {} : { key: files.key }),
    ...(files.ca === null ? {} : { ca: files.ca }),
    ...(files.crl === null ? {} : { crl: files.crl }),
    minVersion: 'TLSv1.2',
  };
  const stream = connect({
    socket,
    ...options,
    ...(tls.sni === null ? {} : { servername: tls.sni }),
    ...(handshake.alpn.length === 0 ? {} : { ALPNProtocols: [...handshake.alpn] }),
    // Names and OpenSSL's verdict are judged in `refusal`, which can say whom it refuses.
    checkServerIdentity: () => undefined,
    rejectUnauthorized: false,
  });
  stream.getPeerCertificate = noCertificate;
  handshake.listen(stream);
}

/** OpenSSL's verdict on the chain, then the names. */
function refusal(stream: TLSSocket, tls: RouteTls): RefusedVerdict | null {
  const leaf = stream.getPeerX509Certificate();
  if (leaf === undefined) return { ok: false, reason: 'no_peer_certificate', detail: '' };
  try {
    if (stream.authorized) return misnamed(leaf, tls.expectedIdentities);
    const code = String(stream.authorizationError);
    return { ok: false, reason: reasonOfTlsError(code), detail: `${code} (presented ${said(leaf)})` };
  } catch (error) {
    // Called from inside the handshake, on bytes of a stranger's choice.
    const detail = `the certificate cannot be judged: ${(error as Error).message}`;
    return { ok: false, reason: 'bad_certificate', detail };
  }
}

/**
 * The leaf's alone: which of the presented CAs OpenSSL's path went by nobody tells, and one that it passed over may have
 * expired long ago.
 */
function leafLife(stream: TLSSocket): CertificateLife | null {
  const leaf = stream.getPeerX509Certificate();
  if (leaf === undefined) return null;
  const { subject, subjectAltName, validFromDate, validToDate } = leaf;
  const name = nameLine(subjectAltName ?? subject ?? '') || 'the server';
  return { name, notBefore: validFromDate.getTime(), notAfter: validToDate.getTime() };
}

/** Who a certificate says it is, who says so, and for how long: claims, all of them. */
function said({ subject, subjectAltName, issuer, validFromDate, validToDate }: X509Certificate): string {
  const name = nameLine(subjectAltName ?? subject ?? '') || 'no names';
  const times = `${validFromDate.toISOString()} to ${validToDate.toISOString()}`;
  return `${name}, issued by ${nameLine(issuer ?? '') || 'nobody'}, valid ${times}`;
}

/** @param expected empty: any, as in Istio; the registry warned */
function misnamed(leaf: X509Certificate, expected: readonly string[]): RefusedVerdict | null {
  if (expected.length === 0) return null;
  let fault = '';
  try {
    const certificate = leaf.toLegacyObject();
    if (expected.some((name) => bearsName(certificate, name))) return null;
  } catch (error) {
    fault = `, which cannot be read: ${(error as Error).message}`;
  }
  const detail = `expected ${expected.join(' or ')}, got ${leaf.subjectAltName ?? 'no names'}${fault}`;
  return { ok: false, reason: 'identity_mismatch', detail };
}

/** A URI must stand in the certificate as it is; a DNS name or address by RFC 6125, wildcards included. */
function bearsName(certificate: PeerCertificate, name: string): boolean {
  if (name.includes('://')) return readCertificate(certificate.raw).uris.includes(name);
  return checkServerIdentity(name, certificate) === undefined;
}
