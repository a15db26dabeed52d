/** PeerAuthentication's modes against what the first bytes say: the whole table. */
import t from 'tap';
import type { Mode } from '../../mesh/snapshot.ts';
import type { Protocol } from '../../mesh/workload.ts';
import { admit, takesPlaintext } from '../../proxy/admit.ts';
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
  const admission = admit([mode], protocol, detected);
  const got = typeof admission === 'string' ? admission : admission.refused;
  t.equal(got, expected, `${mode}, ${protocol}: ${what}`);
}

/** After a switch: the mode in force, and the one before it. What either admits is admitted. */
const switches: readonly {
  modes: readonly Mode[];
  what: string;
  detected: Detected;
  protocol: Protocol;
  expected: Expected;
}[] = [
  ...(['PERMISSIVE', 'DISABLE'] as const).flatMap((before) => [
    {
      modes: ['STRICT', before] as const,
      what: 'plaintext',
      detected: plaintext,
      expected: 'plaintext' as const,
    },
    {
      modes: [before, 'STRICT'] as const,
      what: 'plaintext',
      detected: plaintext,
      expected: 'plaintext' as const,
    },
    {
      modes: ['STRICT', before] as const,
      what: 'mesh TLS',
      detected: tls('istio'),
      expected: 'terminate' as const,
    },
    {
      modes: [before, 'STRICT'] as const,
      what: 'mesh TLS',
      detected: tls('istio'),
      expected: 'terminate' as const,
    },
  ]),
  {
    modes: ['DISABLE', 'PERMISSIVE'] as const,
    what: 'mesh TLS',
    detected: tls('istio'),
    expected: 'terminate' as const,
  },
  {
    modes: ['PERMISSIVE', 'DISABLE'] as const,
    what: 'mesh TLS',
    detected: tls('istio'),
    expected: 'terminate' as const,
  },
].map((row) => ({ ...row, protocol: 'http' as const }));
const others: typeof switches = [
  // Nobody can tell whose TLS it is: the mode in force does.
  {
    modes: ['STRICT', 'DISABLE'],
    what: 'TLS without ALPN',
    detected: tls(),
    protocol: 'tcp',
    expected: 'terminate',
  },
  {
    modes: ['DISABLE', 'STRICT'],
    what: 'TLS without ALPN',
    detected: tls(),
    protocol: 'tcp',
    expected: 'app-tls',
  },
  // Refused by the one, admitted by the other.
  {
    modes: ['PERMISSIVE', 'STRICT'],
    what: 'TLS without ALPN',
    detected: tls(),
    protocol: 'http',
    expected: 'terminate',
  },
];
for (const { modes, what, detected, protocol, expected } of [...switches, ...others]) {
  const admission = admit(modes, protocol, detected);
  const got = typeof admission === 'string' ? admission : admission.refused;
  t.equal(got, expected, `${modes[1]} to ${modes[0]}, ${protocol}: ${what}`);
}
t.equal(takesPlaintext(['STRICT']), false);
t.equal(takesPlaintext(['STRICT', 'DISABLE']), true);
