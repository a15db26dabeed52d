/** Addresses of a Workload API, as the SPIFFE Workload Endpoint standard §4 allows and forbids them. */
import t from 'tap';
import { parseWorkloadEndpoint } from '../../ca-client/workload-api-endpoint.ts';

t.test('addresses', (t) => {
  for (const [text, path, shown] of [
    ['/run/spire/agent.sock', '/run/spire/agent.sock', '/run/spire/agent.sock'],
    ['run/agent.sock', 'run/agent.sock', 'run/agent.sock'],
    ['unix:/run/agent.sock', '/run/agent.sock', '/run/agent.sock'],
    ['unix:run/agent.sock', 'run/agent.sock', 'run/agent.sock'],
    ['unix:///path/to/endpoint.sock', '/path/to/endpoint.sock', '/path/to/endpoint.sock'],
    ['unix:///a%20b/c', '/a b/c', '/a b/c'],
    ['/a%20b/c', '/a%20b/c', '/a%20b/c'],
    ['tcp://127.0.0.1:8000', null, '127.0.0.1:8000'],
    ['tcp://[::1]:8000', null, '[::1]:8000'],
    ['tcp://169.254.1.1:65535', null, '169.254.1.1:65535'],
  ] as const) {
    const found = parseWorkloadEndpoint(text);
    t.same([found.path, found.shown], [path, shown], text);
  }
  t.end();
});

t.test('what is no address', (t) => {
  for (const [text, words] of [
    ['', /names no path/],
    ['unix:', /names no path/],
    ['unix://', /names a host/],
    ['unix://host/path', /names a host/],
    ['unix:///path?x=1', /query, a fragment or a wrong %/],
    ['unix:///path#x', /query, a fragment or a wrong %/],
    ['unix:///a%zz', /query, a fragment or a wrong %/],
    ['unix:///a%00b', /control character/],
    ['/a\nb', /control character/],
    [`/${'x'.repeat(107)}`, /longer than 107 bytes/],
    ['tcp://127.0.0.1:8000/foo', /an IP address and a port, and nothing else/],
    ['tcp://127.0.0.1', /an IP address and a port, and nothing else/],
    ['tcp://127.0.0.1:0', /an IP address and a port, and nothing else/],
    ['tcp://localhost:8000', /an IP address and a port, and nothing else/],
    ['tcp://user@127.0.0.1:8000', /an IP address and a port, and nothing else/],
    ['tcp:127.0.0.1:8000', /an IP address and a port, and nothing else/],
    ['http://127.0.0.1:8000', /unknown scheme http/],
  ] as const) {
    t.throws(() => parseWorkloadEndpoint(text), { name: 'CredentialsError', message: words }, text);
  }
  t.end();
});
