/** What the other side of TLS says by an alert (RFC 8446 §6), in words. */
import { X509Certificate } from 'node:crypto';
import { nameLine } from '../mesh/path-rules.ts';

/** OpenSSL calls one that was received `tlsv1 alert unknown ca`, `ssl/tls alert bad certificate`, and so on. */
const ALERT = /^(?:sslv3|tlsv1|tlsv13|ssl\/tls) alert (.+)$/;

/** Those that speak of the certificate that was shown (RFC 8446 §6.2), in OpenSSL's words. */
const OF_CERTIFICATE: ReadonlySet<string> = new Set([
  'bad certificate',
  'unsupported certificate',
  'certificate revoked',
  'certificate expired',
  'certificate unknown',
  'unknown ca',
  'access denied',
  'decrypt error',
  'certificate required',
]);

/** The alert that ended a connection, in OpenSSL's words; null: it ended by something else. */
export function alertOf(error: Error): string | null {
  const reason: unknown = Reflect.get(error, 'reason');
  return typeof reason === 'string' ? (ALERT.exec(reason)?.[1] ?? null) : null;
}

/**
 * A sentence of it.
 * @param alert as `alertOf` has it
 * @param shown the certificate that we showed, PEM; null: none
 */
export function sayAlert(alert: string, shown: string | Buffer | null): string {
  if (!OF_CERTIFICATE.has(alert)) return `the peer refused by an alert: ${alert}`;
  return shown === null
    ? `the peer asks for a certificate of ours, and none was shown: ${alert}`
    : `the peer refused our certificate: ${alert}; ${issuerOf(shown)}`;
}

/** Who would have to be trusted for the certificate to be taken. */
export function issuerOf(shown: string | Buffer): string {
  return `ours is issued by ${nameLine(new X509Certificate(shown).issuer ?? '') || 'nobody'}`;
}
