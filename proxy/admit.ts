/** What a port's mode makes of a connection's first bytes. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Mode } from '../mesh/snapshot.ts';
import { isHttp, type Protocol } from '../mesh/workload.ts';
import { type Detected, offersIstio } from './detect.ts';

/** What to do with a connection, once its first bytes are known. */
export type Admission = 'terminate' | 'plaintext' | 'app-tls' | { readonly refused: ReasonCode };

/**
 * By the mode in force and, after a switch, by those before it that are still honoured: what one of them admits is
 * admitted. TLS of a mesh peer is terminated as long as one of them has it so: nobody else could read it. Pure.
 * @param modes the one in force first
 */
export function admit(modes: readonly Mode[], protocol: Protocol, detected: Detected): Admission {
  const admissions = modes.map((mode) => admitByMode(mode, protocol, detected));
  if (detected.kind === 'tls' && offersIstio(detected.alpn) && admissions.includes('terminate'))
    return 'terminate';
  const [first = { refused: 'plaintext_to_strict' }] = admissions;
  return admissions.find((admission) => typeof admission === 'string') ?? first;
}

/** True where plaintext may pass. */
export function takesPlaintext(modes: readonly Mode[]): boolean {
  return modes.some((mode) => mode !== 'STRICT');
}

/** PeerAuthentication's modes (docs/RESOURCES.md). */
function admitByMode(mode: Mode, protocol: Protocol, detected: Detected): Admission {
  // DISABLE: no TLS is terminated, ours or theirs.
  if (mode === 'DISABLE') return detected.kind === 'tls' ? 'app-tls' : 'plaintext';
  if (detected.kind === 'tls') {
    // ALPN is not asked for on a STRICT port.
    if (mode === 'STRICT' || offersIstio(detected.alpn)) return 'terminate';
    // PERMISSIVE: TLS without an Istio ALPN is the app's own.
    return isHttp(protocol) ? { refused: 'tls_not_istio' } : 'app-tls';
  }
  return mode === 'STRICT' ? { refused: 'plaintext_to_strict' } : 'plaintext';
}
