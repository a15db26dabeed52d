/** PeerAuthentication's modes against what the first bytes say: the whole table. */
import t from 'tap';
import type { Mode } from '../../mesh/snapshot.ts';
import type { Protocol } from '../../mesh/workload.ts';
import { admit } from '../../proxy/admit.ts';
import type { Detected } from '../../proxy/detect.ts';

const plaintext: Detected = { kind: 'plaintext' };
const tls = (...alpn: string[]): Detected => ({ kind: 'tls', sni: null, alpn });

type Expected = 'terminate' | 'plaintext' | 'app-tls' | 'plaintext_to_strict' | 'tls_not_istio';
interface Row {
  readonly mode: Mode;
  readonly protocol: Protocol;
  readonly what: string;
  readonly detected: Detected;
  readonly expected: Expected;
}

const protocols: readonly Protocol[] = ['http', 'http2', 'tcp', 'auto'];
const whats: readonly { what: string; detected: Detected }[] = [
  { what: 'plaintext', detected: plaintext },
  { what: 'TLS with Istio ALPN', detected: tls('istio-http/1.1', 'http/1.1') },
  { what: 'TLS with another ALPN', detected: tls('h2', 'http/1.1') },
  { what: 'TLS without ALPN', detected: tls() },
];

function expected(mode: Mode, protocol: Protocol, what: string): Expected {
  // STRICT: anything but mTLS is refused; ALPN is not asked for.
  if (mode === 'STRICT') return what === 'plaintext' ? 'plaintext_to_strict' : 'terminate';
  if (what === 'plaintext') return 'plaintext';
  // DISABLE: no TLS is terminated, ours or theirs.
  if (mode === 'DISABLE') return 'app-tls';
  // PERMISSIVE: Istio's ALPN is ours; the app's own passes on TCP or undeclared ports, not on HTTP ones.
  if (what === 'TLS with Istio ALPN') return 'terminate';
  return protocol === 'http' || protocol === 'http2' ? 'tls_not_istio' : 'app-tls';
}

const rows: Row[] = [];
for (const mode of ['STRICT', 'PERMISSIVE', 'DISABLE'] as const)
  for (const protocol of protocols)
    for (const { what, detected } of whats)
      rows.push({ mode, protocol, what, detected, expected: expected(mode, protocol, what) });

t.equal(rows.length, 48);
for (const { mode, protocol, what, detected, expected } of rows) {
  const admission = admit(mode, protocol, detected);
  const got = typeof admission === 'string' ? admission : admission.refused;
  t.equal(got, expected, `${mode}, ${protocol}: ${what}`);
}
