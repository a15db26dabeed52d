/** The table of probes: the cases of Istio's TestNewServer, and the bounds of ours. */
import t from 'tap';
import { type AppProbe, readAppProbes } from '../../probes/table.ts';

const AT = '/app-health/hello-world/readyz';

t.test('what Istio takes', async (t) => {
  const rows: readonly (readonly [string, Readonly<Record<string, AppProbe>>])[] = [
    ['', {}],
    ['{}', {}],
    [`{"${AT}": {"tcpSocket": {"port": 8888}}}`, { [AT]: { kind: 'tcp', port: 8888, timeoutMs: 1_000 } }],
    [
      `{"${AT}": {"httpGet": {"path": "/hello/sunnyvale", "port": 8080}}, "/app-health/business/livez": {"httpGet": {"port": 9090}}}`,
      {
        [AT]: { kind: 'http', port: 8080, tls: false, path: '/hello/sunnyvale', timeoutMs: 1_000 },
        '/app-health/business/livez': { kind: 'http', port: 9090, tls: false, path: '/', timeoutMs: 1_000 },
      },
    ],
    [
      `{"${AT}": {"httpGet": {"path": "hello/sunnyvale", "port": 8080}, "initialDelaySeconds": 120, "timeoutSeconds": 10, "periodSeconds": 20}}`,
      { [AT]: { kind: 'http', port: 8080, tls: false, path: '/hello/sunnyvale', timeoutMs: 10_000 } },
    ],
    [
      `{"${AT}": {"gRPC": {"port": 8080}}}`,
      { [AT]: { kind: 'grpc', port: 8080, service: '', timeoutMs: 1_000 } },
    ],
    [
      `{"${AT}": {"gRPC": {"port": 8080, "service": null}}}`,
      { [AT]: { kind: 'grpc', port: 8080, service: '', timeoutMs: 1_000 } },
    ],
    [
      `{"${AT}": {"grpc": {"port": 8080, "service": "foo"}, "timeoutSeconds": 10}}`,
      { [AT]: { kind: 'grpc', port: 8080, service: 'foo', timeoutMs: 10_000 } },
    ],
    // The kubelet's request brings the headers, and the host is our own pod whatever stands there.
    [
      `{"${AT}": {"httpGet": {"path": "/a b?x=é#frag", "port": 1, "host": "other", "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}}}`,
      { [AT]: { kind: 'http', port: 1, tls: true, path: '/a%20b?x=%C3%A9', timeoutMs: 1_000 } },
    ],
    // A handler has no time of its own: the kubelet hangs up.
    [
      '{"/app-lifecycle/web/prestopz": {"httpGet": {"port": 80}}, "/app-lifecycle/web/poststartz": {"tcpSocket": {"port": 80}}}',
      {
        '/app-lifecycle/web/prestopz': {
          kind: 'http',
          port: 80,
          tls: false,
          path: '/',
          timeoutMs: 3_600_000,
        },
        '/app-lifecycle/web/poststartz': { kind: 'tcp', port: 80, timeoutMs: 3_600_000 },
      },
    ],
    [
      `{"${AT}": {"tcpSocket": {"port": 80}, "timeoutSeconds": 2147483647}}`,
      { [AT]: { kind: 'tcp', port: 80, timeoutMs: 3_600_000 } },
    ],
  ];
  for (const [text, probes] of rows) t.strictSame(Object.fromEntries(readAppProbes(text)), probes, text);
});

t.test('what it refuses, and we more, by the name of the field', async (t) => {
  const of = (probe: string): string => `{"${AT}": ${probe}}`;
  const many = Object.fromEntries(
    Array.from({ length: 513 }, (_, n) => [`/app-health/c${n}/livez`, { tcpSocket: { port: 1 } }]),
  );
  const rows: readonly (readonly [string, RegExp])[] = [
    ['invalid-prober-json-encoding', /must be JSON/],
    ['[]', /must be an object/],
    ['null', /must be an object/],
    ['{"abc": {"httpGet": {"path": "/app-foo/health"}}}', /"abc" must be \/app-health\/CONTAINER/],
    ['{"/app-health/a/b/livez": {"tcpSocket": {"port": 1}}}', /"\/app-health\/a\/b\/livez" must be/],
    ['{"/app-health//livez": {"tcpSocket": {"port": 1}}}', /must be \/app-health/],
    ['{"/app-health/a/livez/": {"tcpSocket": {"port": 1}}}', /must be \/app-health/],
    ['{"/metrics": {"tcpSocket": {"port": 1}}}', /must be \/app-health/],
    ['{"/app-health/a/LIVEZ": {"tcpSocket": {"port": 1}}}', /must be \/app-health/],
    [of('3'), /readyz must be an object/],
    [of('{}'), /exactly one of httpGet, tcpSocket and grpc/],
    [of('{"exec": {"command": ["true"]}}'), /exactly one/],
    [of('{"tcpSocket": {"port": 8888}, "httpGet": {"path": "/", "port": 7777}}'), /exactly one/],
    [of('{"grpc": {"port": 8888}, "httpGet": {"path": "/", "port": 7777}}'), /exactly one/],
    [
      of('{"tcpSocket": {"port": "tcp"}}'),
      /readyz\.tcpSocket\.port must be a number from 1 to 65535, not "tcp"/,
    ],
    [
      of('{"httpGet": {"path": "/hello/sunnyvale", "port": "container-port-dontknow"}}'),
      /httpGet\.port must be/,
    ],
    [of('{"grpc": {"port": 0}}'), /grpc\.port must be/],
    [of('{"grpc": {}}'), /grpc\.port must be .* not undefined/],
    [of('{"httpGet": {"port": 65536}}'), /httpGet\.port must be/],
    [of('{"httpGet": {"port": 8.5}}'), /httpGet\.port must be/],
    [of('{"httpGet": []}'), /httpGet must be an object/],
    [of('{"httpGet": {"port": 80, "scheme": "ftp"}}'), /httpGet\.scheme must be HTTP or HTTPS, not "ftp"/],
    [of('{"httpGet": {"port": 80, "path": 3}}'), /httpGet\.path must be a text/],
    [
      of(`{"httpGet": {"port": 80, "path": "/${'x'.repeat(5_000)}"}}`),
      /httpGet\.path must be a text of at most/,
    ],
    [of('{"httpGet": {"port": 80, "path": "/\\ud800"}}'), /httpGet\.path must be a text/],
    [of('{"grpc": {"port": 80, "service": {}}}'), /grpc\.service must be a text/],
    [of('{"tcpSocket": {"port": 80}, "timeoutSeconds": "1"}'), /readyz\.timeoutSeconds must be/],
    [of('{"tcpSocket": {"port": 80}, "timeoutSeconds": -1}'), /timeoutSeconds must be/],
    [of('{"tcpSocket": {"port": 80}, "timeoutSeconds": 0.5}'), /timeoutSeconds must be/],
    [JSON.stringify(many), /has 513 probes, more than 512/],
  ];
  for (const [text, message] of rows) t.throws(() => readAppProbes(text), { message }, text.slice(0, 90));
});
