/** What the log must not show. */
import t from 'tap';
import type { Nearest } from '../../mesh/decision.ts';
import { maskNearest, maskParams } from '../../proxy/mask.ts';

/** Of `fromHeaders`, whatever they are called. */
const TOKENS = new Set(['x-ticket']);

t.test('values of headers that let somebody in', async (t) => {
  const rows: readonly [field: string, masked: boolean][] = [
    ['when[request.headers[authorization]]', true],
    ['when[request.headers[Proxy-Authorization]]', true],
    ['when[request.headers[cookie]]', true],
    ['when[request.headers[x-api-key]]', true],
    ['when[request.headers[X-Auth-Token]]', true],
    ['when[request.headers[x-session-id]]', true],
    ['when[request.headers[x-jwt-assertion]]', true],
    ['when[request.headers[X-Ticket]]', true],
    ['when[request.headers[user-agent]]', false],
    ['when[request.headers[:authority]]', false],
    ['when[request.auth.claims[role]]', false],
    ['from.source.principals', false],
    ['to.operation.paths', false],
  ];
  for (const [field, masked] of rows) {
    const nearest: Nearest = { policy: 'shop/a', rule: 0, field, expected: ['want', 'or'], actual: 'is' };
    const shown = maskNearest(nearest, TOKENS);
    if (masked)
      t.same(shown, { ...nearest, expected: ['[redacted]', '[redacted]'], actual: '[redacted]' }, field);
    else t.same(shown, nearest, field);
    t.equal(maskNearest({ ...nearest, actual: null }, TOKENS).actual, null, 'what is not there is no secret');
  }
  const path: Nearest = {
    policy: 'shop/a',
    rule: 0,
    field: 'when[request.headers[:path]]',
    expected: ['/b'],
    actual: ['/a?access_token=x'],
  };
  t.same(maskNearest(path, TOKENS).actual, ['/a?…']);
});

t.test('tokens in a query', async (t) => {
  const names = new Set(['access_token', 'jwt']);
  const rows: readonly [target: string, shown: string][] = [
    ['/a', '/a'],
    ['/a?', '/a?'],
    ['/a?b=c', '/a?b=c'],
    ['/a?access_token=x', '/a?access_token=[redacted]'],
    ['/a?b=c&jwt=x=y&d', '/a?b=c&jwt=[redacted]&d'],
    ['/a?jwt=1&jwt=2', '/a?jwt=[redacted]&jwt=[redacted]'],
    ['/a?acc%65ss_token=x', '/a?acc%65ss_token=[redacted]'],
    ['/access_token=x?b', '/access_token=x?b'],
    ['/a?xjwt=1', '/a?xjwt=1'],
  ];
  for (const [target, shown] of rows) t.equal(maskParams(target, names), shown);
  t.equal(maskParams('/a?jwt=x', new Set()), '/a?jwt=x', 'nobody asks for tokens');
});
