/** Keeps a TLS server from ending the process of its client with a certificate that Node cannot take apart. */
import { type PeerCertificate, TLSSocket } from 'node:tls';

/**
 * After each full handshake whose chain was verified, Node's TLS clients call `getPeerCertificate(true)` on
 * themselves to have the server's name checked. Node 26 reads a null pointer there where a key is on an elliptic curve
 * without a NIST name, such as secp256k1. The certificates it reads are those the server presented that bear the
 * issuer's name, whoever signed them: any server whose own certificate is good could end any process that connects to
 * it, be it our data path or a client of grpc-js or undici, for all of them go through `tls.connect`.
 *
 * So the method is replaced, for this thread, by one that stands on `getPeerX509Certificate`, which takes nothing
 * apart. It answers what the check of names needs and no more: the bytes and the alternative names. The subject is
 * empty: a common name is no name of a server (RFC 9525 §2).
 */
export function guardPeerCertificates(): void {
  Object.assign(TLSSocket.prototype, { getPeerCertificate: peerCertificate });
}

function peerCertificate(this: TLSSocket): Partial<PeerCertificate> {
  const certificate = this.getPeerX509Certificate();
  if (certificate === undefined) return {};
  const { raw, subjectAltName: subjectaltname } = certificate;
  const nobody = {} as PeerCertificate['subject'];
  return {
    raw,
    subject: nobody,
    issuer: nobody,
    ...(subjectaltname === undefined ? {} : { subjectaltname }),
  };
}
