/** What a certificate says of itself, for people: read from any bytes a peer may have sent. */
import { X509Certificate } from 'node:crypto';
import type { PresentedCertificate } from '../mesh/handshake.ts';
import { printable } from './printable.ts';

/** Longer chains, names and texts help nobody to find the fault, and are a stranger's to choose. */
const MAX_CERTIFICATES = 10;
const MAX_NAMES = 20;
const MAX_TEXT = 300;
/** 64 bytes in hex: RFC 5280 §4.1.2.2 has 20. */
const MAX_SERIAL = 128;

/**
 * One certificate a DER, in the same order: the first ten. Never throws: one that cannot be read has `unreadable`
 * and why as its subject, and its other fields empty.
 */
export function present(chain: readonly Uint8Array[]): readonly PresentedCertificate[] {
  return chain.slice(0, MAX_CERTIFICATES).map((der) => {
    try {
      return presentOne(new X509Certificate(der));
    } catch (error) {
      return unreadable(der.length, error);
    }
  });
}

/** @throws RangeError where its dates are none */
export function presentOne(certificate: X509Certificate): PresentedCertificate {
  return {
    subject: oneLine(certificate.subject),
    issuer: oneLine(certificate.issuer),
    names: namesOf(certificate.subjectAltName),
    serial: printable(certificate.serialNumber.toLowerCase(), MAX_SERIAL),
    notBefore: certificate.validFromDate.toISOString(),
    notAfter: certificate.validToDate.toISOString(),
    fingerprint256: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
  };
}

function unreadable(bytes: number, error: unknown): PresentedCertificate {
  const why = error instanceof Error ? error.message : String(error);
  return {
    subject: printable(`unreadable: ${bytes} bytes, ${why}`, MAX_TEXT),
    issuer: '',
    names: [],
    serial: '',
    notBefore: '',
    notAfter: '',
    fingerprint256: '',
  };
}

/** Node gives a name a line for each of its parts. */
function oneLine(name: string | undefined): string {
  return printable((name ?? '').replaceAll('\n', ', '), MAX_TEXT);
}

/** One name of Node's list: a kind, and a value that is quoted as JSON where it could be mistaken. */
const NAME = /([^:,]+:(?:"(?:[^"\\]|\\.)*"|[^,]*))(?:, |$)/g;

function namesOf(list: string | undefined): readonly string[] {
  const names: string[] = [];
  for (const [, name = ''] of (list ?? '').matchAll(NAME)) {
    if (names.length === MAX_NAMES) {
      names.push('…');
      break;
    }
    names.push(printable(name.replace(/^IP Address:/, 'IP:'), MAX_TEXT));
  }
  return names;
}
