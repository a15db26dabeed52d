/** Endpoints that are host names: every address of a name is an endpoint, and what is known costs no wait. */
import t from 'tap';
import type { NameDone, NameResolver } from '../../mesh/name-resolver.ts';
import type { Endpoint, Route } from '../../mesh/route.ts';
import { resolveEndpoints } from '../../proxy/endpoints.ts';

class Names implements NameResolver {
  version = 0;
  readonly answers = new Map<string, readonly string[]>();
  readonly waiting = new Map<string, NameDone>();

  known(host: string): readonly string[] | null {
    return this.answers.get(host) ?? null;
  }

  resolve(host: string, done: NameDone): void {
    this.waiting.set(host, done);
  }

  answer(host: string, ...addresses: string[]): void {
    this.answers.set(host, addresses);
    this.version++;
    this.waiting.get(host)?.resolved(addresses);
  }
}

function route(...addresses: string[]): Route {
  const endpoints = addresses.map(
    (address): Endpoint => ({ address, port: 443, tls: 'SIMPLE', weight: 2, workload: null, tunnel: null }),
  );
  return { endpoints } as unknown as Route;
}

/** What came, as addresses or as the reason; null: still waiting. */
function ask(names: Names, of: Route): { readonly came: readonly string[] | string | null } {
  const result: { came: readonly string[] | string | null } = { came: null };
  resolveEndpoints(names, of, {
    found: (endpoints) => {
      result.came = endpoints.map(({ address, port, weight }) => `${address}:${port}*${weight}`);
    },
    unresolved: (detail) => {
      result.came = detail;
    },
  });
  return result;
}

t.test('addresses and sockets are endpoints as they stand', async (t) => {
  const names = new Names();
  const plain = route('10.0.0.1', 'fd00::1', 'unix:///run/s');
  t.same(ask(names, plain).came, ['10.0.0.1:443*2', 'fd00::1:443*2', 'unix:///run/s:443*2']);
  resolveEndpoints(names, plain, {
    found: (endpoints) => t.equal(endpoints, plain.endpoints, 'the very list'),
    unresolved: t.fail,
  });
});

t.test('a name waits once, then answers within the call', async (t) => {
  const names = new Names();
  const named = route('a.example', '10.0.0.9');
  const first = ask(names, named);
  t.equal(first.came, null);
  names.answer('a.example', '10.0.0.1', '10.0.0.2');
  t.same(first.came, ['10.0.0.1:443*2', '10.0.0.2:443*2', '10.0.0.9:443*2']);
  t.same(ask(names, named).came, first.came);
  names.answer('a.example', '10.0.0.3');
  t.same(ask(names, named).came, ['10.0.0.3:443*2', '10.0.0.9:443*2'], 'a new answer is seen');
});

t.test('a name that cannot be resolved is passed over while another can', async (t) => {
  const names = new Names();
  const named = route('a.example', 'b.example');
  const both = ask(names, named);
  names.waiting.get('a.example')?.unresolved('ENOTFOUND');
  t.equal(both.came, null, 'the other may still come');
  names.answer('b.example', '10.0.0.2');
  t.same(both.came, ['10.0.0.2:443*2']);
  const none = ask(names, route('c.example', 'd.example'));
  for (const host of ['c.example', 'd.example']) names.waiting.get(host)?.unresolved('ENOTFOUND');
  t.equal(none.came, 'c.example: ENOTFOUND, d.example: ENOTFOUND');
});
