/** The words for a port's protocol: all that Istio's `protocol.Parse` and `ConvertProtocol` know, and some they do not. */
import t from 'tap';
import { isHttp, type Protocol, protocolOf } from '../../mesh/workload.ts';

/** By Istio: `IsHTTP2`, the rest of `IsHTTP`, `IsTCP`; what is `Unsupported` is told by its bytes. */
const words: readonly (readonly [string, Protocol])[] = [
  ['HTTP2', 'http2'],
  ['GRPC', 'http2'],
  ['GRPC-Web', 'http2'],
  ['HTTP', 'http'],
  ['HTTP_PROXY', 'http'],
  ['TCP', 'tcp'],
  ['HTTPS', 'tcp'],
  ['TLS', 'tcp'],
  ['Mongo', 'tcp'],
  ['Redis', 'tcp'],
  ['MySQL', 'tcp'],
  ['UDP', 'tcp'],
  ['HBONE', 'auto'],
  ['DoubleHBONE', 'auto'],
  ['UnsupportedProtocol', 'auto'],
  ['SMTP', 'auto'],
  ['h2c', 'auto'],
];

for (const [word, expected] of words) {
  for (const spelling of [word, word.toLowerCase(), word.toUpperCase()]) {
    t.equal(protocolOf(spelling, undefined), expected, `protocol: ${spelling}`);
    t.equal(protocolOf(undefined, spelling), expected, `name: ${spelling}`);
    t.equal(protocolOf(undefined, `${spelling}-a-b`), expected, `name: ${spelling}-a-b`);
  }
}

const names: readonly (readonly [string | undefined, string | undefined, Protocol])[] = [
  ['TCP', 'http', 'tcp'],
  ['HTTP', 'tcp-db', 'http'],
  [undefined, undefined, 'auto'],
  ['', 'http', 'auto'],
  [undefined, '', 'auto'],
  [undefined, 'httpx', 'auto'],
  [undefined, 'x-http', 'auto'],
  [undefined, 'grpcweb-x', 'auto'],
  // ConvertProtocol asks for the prefix alone, whatever stands behind it.
  [undefined, 'grpc-webx', 'http2'],
  [undefined, 'grpc-w', 'http2'],
];
for (const [declared, name, expected] of names)
  t.equal(protocolOf(declared, name), expected, `protocol ${declared}, name ${name}`);

t.same((['http', 'http2', 'tcp', 'auto'] as const).filter(isHttp), ['http', 'http2']);
