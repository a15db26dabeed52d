/** MeshConfig's `meshMTLS`: what TLS between sidecars may use, in OpenSSL's names. */
import type { FieldPath } from '../mesh/resource.ts';
import { type Decoder, enumOf, listOf, object, type Reporter, string } from '../mesh/schema.ts';
import type { MeshTlsPolicy } from '../mesh/snapshot.ts';

/** Without `meshMTLS`, and for TLS_AUTO, which is 1.2 in Istio: whoever needs that may ask for it, nobody gets it unasked. */
export const defaultMeshTls: MeshTlsPolicy = { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] };

/**
 * Envoy's names of key exchange groups that OpenSSL has too, under the same names. Not among them: `P-224`, weaker
 * than the rest and unknown to TLS 1.3, and `X25519Kyber768Draft00`, which X25519MLKEM768 has replaced.
 */
const GROUPS = new Set([
  'X25519MLKEM768',
  'SecP256r1MLKEM768',
  'SecP384r1MLKEM1024',
  'X25519',
  'P-256',
  'P-384',
  'P-521',
]);

/** BoringSSL's of TLS 1.2 (Istio: ValidCipherSuites) that OpenSSL has too: all but triple DES. */
const SUITES = new Set([
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES128-SHA',
  'ECDHE-RSA-AES128-SHA',
  'ECDHE-ECDSA-AES256-SHA',
  'ECDHE-RSA-AES256-SHA',
  'AES128-GCM-SHA256',
  'AES256-GCM-SHA384',
  'AES128-SHA',
  'AES256-SHA',
]);

/** Of TLS 1.3: Istio's list does not reach them. Named all the same, as Node would turn TLS 1.3 off without one. */
const SUITES_OF_13 = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];

/** Istio's default for TLS 1.2 without its two suites that have no forward secrecy. */
const DEFAULT_SUITES_OF_12 = [
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
];

const shape = object({
  minProtocolVersion: enumOf('TLS_AUTO', 'TLSV1_2', 'TLSV1_3'),
  ecdhCurves: listOf(string),
  cipherSuites: listOf(string),
});

/** Names that are unknown or there twice are left out with a Warning; a list of which nothing is left is an Error. */
export const meshTls: Decoder<MeshTlsPolicy> = (value, path, reporter) => {
  const decoded = shape(value, path, reporter);
  if (decoded === undefined) return undefined;
  const groups = decoded.ecdhCurves ?? [];
  const given = (decoded.cipherSuites ?? []).flatMap(equalOnes);
  const ecdhCurves = known(groups, GROUPS, 'group', [...path, 'ecdhCurves'], reporter);
  const suites = known(given, SUITES, 'cipher suite', [...path, 'cipherSuites'], reporter);
  if (groups.length > 0 && ecdhCurves.length === 0) {
    reporter.report([...path, 'ecdhCurves'], 'badValue', 'no group is left: nobody could connect');
  }
  if (decoded.minProtocolVersion !== 'TLSV1_2') {
    if (given.length > 0) {
      const why =
        'accepted but not honoured: it is for TLS 1.2, which minProtocolVersion TLSV1_2 would allow';
      reporter.report([...path, 'cipherSuites'], 'notHonoured', why, 'Warning');
    }
    return { ...defaultMeshTls, ecdhCurves };
  }
  if (given.length > 0 && suites.length === 0) {
    reporter.report(
      [...path, 'cipherSuites'],
      'badValue',
      'no cipher suite is left: TLS 1.2 could not be spoken',
    );
  }
  const of12 = given.length === 0 ? DEFAULT_SUITES_OF_12 : suites;
  return { minVersion: 'TLSv1.2', cipherSuites: [...SUITES_OF_13, ...of12], ecdhCurves };
};

/** BoringSSL's `[A|B]`: of equal preference, which OpenSSL cannot say; the first one is preferred here. */
function equalOnes(text: string): readonly string[] {
  return text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1).split('|') : [text];
}

function known(
  given: readonly string[],
  names: ReadonlySet<string>,
  what: string,
  path: FieldPath,
  reporter: Reporter,
): readonly string[] {
  const kept = new Set<string>();
  for (const name of given) {
    if (!names.has(name)) {
      const why = `${JSON.stringify(name)} is left out: no ${what} of this build; those are ${[...names].join(', ')}`;
      reporter.report(path, 'badValue', why, 'Warning');
    } else if (kept.has(name)) reporter.report(path, 'duplicate', `${name} is listed twice`, 'Warning');
    else kept.add(name);
  }
  return [...kept];
}
