/** What a port's mode makes of a connection's first bytes. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Mode } from '../mesh/snapshot.ts';
import { isHttp, type Protocol } from '../mesh/workload.ts';
import { type Detected, offersIstio } from './detect.ts';

/** What to do with a connection, once its first bytes are known. */
export type Admission = 'terminate' | 'plaintext' | 'app-tls' | { readonly refused: ReasonCode };

/** PeerAuthentication's modes (docs/RESOURCES.md). Pure. */
export function admit(mode: Mode, protocol: Protocol, detected: Detected): Admission {
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
