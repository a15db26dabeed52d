/** What `GET /certs` shows, as plain data: our own certificate, whom we trust, our peers' certificates. Never a key. */
import { X509Certificate } from 'node:crypto';
import type { Credentials, TrustBundle } from '../mesh/credentials.ts';

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

export interface CertificateView {
  readonly subject: string;
  readonly issuer: string;
  /** As Node words it: `URI:spiffe://…`. */
  readonly subjectAltName: string | null;
  /** Hex. */
  readonly serial: string;
  /** ISO 8601. */
  readonly notBefore: string;
  readonly notAfter: string;
  /** SHA-256, colons between the bytes. */
  readonly fingerprint256: string;
}

/** Where the credentials stand: `none` waits for a first set, the others speak of the chain's validity. */
export type CredentialsState = 'none' | 'not_yet_valid' | 'valid' | 'expired';

/** Our own set. */
export interface OwnView {
  readonly state: CredentialsState;
  readonly identity: string | null;
  readonly origin: string | null;
  readonly secondsLeft: number | null;
  /** Leaf first. */
  readonly chain: readonly CertificateView[];
  readonly roots: readonly CertificateView[];
}

/** The roots that may vouch for one trust domain. */
export interface TrustView {
  readonly trustDomain: string;
  readonly roots: readonly CertificateView[];
}

/** What is wrong with our credentials or their renewal, though nothing may have failed yet. */
export interface AlarmView {
  /** `renewal_failing`, `set_refused`, `clock_skew`, `expiring`. */
  readonly kind: string;
  readonly message: string;
  /** ISO 8601. */
  readonly since: string;
}

/** How renewal stands. Times are ISO 8601. */
export interface RotationView {
  readonly source: string;
  /** In a word: `waiting`, `held`, `valid`, `renewing`, `failing`, `expired`. */
  readonly phase: string;
  readonly waitingFor: string | null;
  /** Sets put in force so far. */
  readonly rotations: number;
  readonly lastSuccess: string | null;
  /** Failed attempts since then, and the last one's words. */
  readonly failures: number;
  readonly lastError: string | null;
  /** Null while an attempt runs. */
  readonly nextAttempt: string | null;
  /** How far our clock is ahead of the issuer's; negative: behind. Null: it never told. */
  readonly clockSkewSeconds: number | null;
  readonly alarms: readonly AlarmView[];
}

/** The revocation lists in force. */
export interface CrlView {
  readonly file: string;
  readonly lists: readonly {
    readonly issuer: string;
    /** Certificates on it. */
    readonly entries: number;
    /** ISO 8601; null: it names none. */
    readonly nextUpdate: string | null;
    /** `nextUpdate` is over: it still counts, and somebody should look. */
    readonly stale: boolean;
  }[];
  /** What is wrong with the file now there, or with the lists in force; null: nothing. */
  readonly error: string | null;
}

/** A SPIFFE bundle that mesh config names by URL. Times are ISO 8601. */
export interface FetchedView {
  readonly url: string;
  /** Roots in force. */
  readonly roots: number;
  /** The bundle's own count of its changes; null: it has none. */
  readonly sequence: number | null;
  readonly fetchedAt: string | null;
  readonly nextFetch: string | null;
  /** Failed fetches since the last good one, and the last one's words. */
  readonly failures: number;
  readonly lastError: string | null;
}

/** A certificate that live connections rest on. */
export interface PeerView {
  readonly identity: string;
  readonly serial: string;
  readonly issuer: string;
  /** The root that vouched for it: its subject. */
  readonly root: string;
  /** ISO 8601. */
  readonly notAfter: string;
  readonly secondsLeft: number;
  readonly direction: 'inbound' | 'outbound';
  readonly connections: number;
}

export interface CertsView extends OwnView {
  /** Ours first. */
  readonly trust: readonly TrustView[];
  readonly fetched: readonly FetchedView[];
  readonly crl: CrlView | null;
  readonly rotation: RotationView | null;
  /** Who expires first comes first. */
  readonly peers: readonly PeerView[];
}

/** A peer's certificate as the data path knows it; `notAfter` in milliseconds since the epoch. */
export interface PeerCertificate extends Omit<PeerView, 'notAfter' | 'secondsLeft'> {
  readonly notAfter: number;
}

/** The keeper's state, as far as it is shown; times are milliseconds since the epoch. */
export interface RotationState
  extends Omit<RotationView, 'lastSuccess' | 'nextAttempt' | 'clockSkewSeconds' | 'alarms'> {
  readonly lastSuccess: number | null;
  readonly nextAttempt: number | null;
  readonly clockSkewMs: number | null;
  readonly alarms: readonly (Omit<AlarmView, 'since'> & { readonly since: number })[];
}

/** What `/certs` is made from. */
export interface CertsSources {
  readonly credentials: Credentials | null;
  /** Every trust domain's, ours first. */
  readonly bundles: readonly TrustBundle[];
  /** With times in milliseconds since the epoch. */
  readonly fetched: readonly (Omit<FetchedView, 'fetchedAt' | 'nextFetch'> & {
    readonly fetchedAt: number | null;
    readonly nextFetch: number | null;
  })[];
  readonly crl: CrlView | null;
  readonly rotation: RotationState | null;
  /** Of all threads; the same certificate may come several times. */
  readonly peers: readonly PeerCertificate[];
}

/** `GET /certs`. @param now milliseconds since the epoch */
export function certsView(sources: CertsSources, now: number): CertsView {
  const { credentials, bundles, fetched, crl, rotation, peers } = sources;
  return {
    ...ownView(credentials, now),
    trust: bundles.map(({ trustDomain, rootsPem }) => ({
      trustDomain,
      roots: rootsPem.flatMap(certificatesOf),
    })),
    fetched: fetched.map((one) => ({
      ...one,
      fetchedAt: isoOrNull(one.fetchedAt),
      nextFetch: isoOrNull(one.nextFetch),
    })),
    crl,
    rotation: rotation === null ? null : rotationView(rotation),
    peers: peerViews(peers, now),
  };
}

/** One set of credentials. @param now milliseconds since the epoch */
export function ownView(credentials: Credentials | null, now: number): OwnView {
  if (credentials === null) {
    return { state: 'none', identity: null, origin: null, secondsLeft: null, chain: [], roots: [] };
  }
  const { notBefore, notAfter } = credentials;
  return {
    state: now < notBefore ? 'not_yet_valid' : now >= notAfter ? 'expired' : 'valid',
    identity: credentials.identity.uri,
    origin: credentials.origin,
    secondsLeft: Math.floor((notAfter - now) / 1000),
    chain: certificatesOf(credentials.chainPem),
    roots: credentials.rootsPem.flatMap(certificatesOf),
  };
}

/** Each certificate of a PEM text, in its order. @throws where OpenSSL cannot read one */
export function certificatesOf(pem: string): CertificateView[] {
  return (pem.match(PEM_CERTIFICATE) ?? []).map((text) => {
    const certificate = new X509Certificate(text);
    return {
      subject: oneLine(certificate.subject),
      issuer: oneLine(certificate.issuer),
      subjectAltName: certificate.subjectAltName ?? null,
      serial: certificate.serialNumber.toLowerCase(),
      notBefore: certificate.validFromDate.toISOString(),
      notAfter: certificate.validToDate.toISOString(),
      fingerprint256: certificate.fingerprint256,
    };
  });
}

function oneLine(name: string | undefined): string {
  return (name ?? '').replaceAll('\n', ', ');
}

function rotationView(state: RotationState): RotationView {
  const { source, phase, waitingFor, rotations, lastSuccess, failures, lastError, nextAttempt } = state;
  return {
    source,
    phase,
    waitingFor,
    rotations,
    lastSuccess: isoOrNull(lastSuccess),
    failures,
    lastError,
    nextAttempt: isoOrNull(nextAttempt),
    clockSkewSeconds: state.clockSkewMs === null ? null : Math.round(state.clockSkewMs / 100) / 10,
    alarms: state.alarms.map(({ kind, message, since }) => ({
      kind,
      message,
      since: new Date(since).toISOString(),
    })),
  };
}

function isoOrNull(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}

/** The same certificate in several threads becomes one row. */
function peerViews(peers: readonly PeerCertificate[], now: number): readonly PeerView[] {
  const rows = new Map<string, PeerCertificate>();
  for (const peer of peers) {
    const key = `${peer.direction} ${peer.serial} ${peer.identity} ${peer.issuer} ${peer.root}`;
    const connections = peer.connections + (rows.get(key)?.connections ?? 0);
    rows.set(key, { ...peer, connections });
  }
  return [...rows.values()]
    .sort((a, b) => a.notAfter - b.notAfter)
    .map((peer) => ({
      ...peer,
      notAfter: new Date(peer.notAfter).toISOString(),
      secondsLeft: Math.floor((peer.notAfter - now) / 1000),
    }));
}
