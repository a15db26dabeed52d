/** Cases nobody thought of: bytes, queries and lists of changes by a random generator with a fixed seed. */
import type { Message } from '../providers/check-protocol.ts';
import type { Case } from './ext-authz-cases.ts';

/** Numerical Recipes' linear congruential generator: the same numbers in every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Bytes at the edges of UTF-8's ranges. */
const BYTES =
  '\x21\x41\x7e\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff';
const QUERY = ['a', 'b', 'A', '=', '=', '&', '&', '%41', '?', '+', '/', 'z'];
const NAMES = ['x-up', 'x-multi', 'x-new', 'X-Other', 'cookie', 'x-app', 'x-dup', 'set-cookie'];
/** Of an answer that is Envoy's own: its place for one Location. */
const REFUSED = [...NAMES, 'location', 'content-type'];

const ANSWERED = [
  ...['x-up', 'X-Multi', 'x-lost', 'x-down', 'set-cookie', 'set-x', 'x-deny', 'my-deny', 'location'],
  ...['www-authenticate', 'x-other', 'x-envoy-auth-headers-to-remove', 'content-type', 'x-gone'],
];

/** @param count how many, over either protocol */
export function randomCases(count: number, seed: number): readonly Case[] {
  const below = numbers(seed);
  const pick = <T>(list: readonly T[] | string): T => list[below(list.length)] as T;
  const many = <T>(most: number, make: () => T): T[] => Array.from({ length: below(most + 1) }, make);
  const text = (): string => many(12, () => pick<string>(BYTES)).join('');
  const query = (): string => many(9, () => pick(QUERY)).join('');
  const option = (names = NAMES): Message => ({
    header: { key: pick(names), value: pick(['', 'v', 'w', 'a,b']) },
    ...pick<Message>([
      {},
      {},
      { append: { value: true } },
      { append: { value: false } },
      { append_action: below(5) },
    ]),
  });
  const overGrpc = (): Pick<Case, 'provider' | 'grpc'> => ({
    provider: pick(['grpc', 'grpcBody', 'grpcPacked']),
    grpc: {
      message: {
        status: {},
        ok_response: {
          headers: many(5, () => option()),
          headers_to_remove: many(2, () => pick(NAMES)),
          response_headers_to_add: many(5, () => option()),
          query_parameters_to_set: many(2, () => ({
            key: pick(['a', 'b', 'A', '']),
            value: pick(['', '1', 'a=b&c']),
          })),
          query_parameters_to_remove: many(2, () => pick(['a', 'b', 'A', ''])),
        },
      },
    },
  });
  const refusal = (): Pick<Case, 'provider' | 'grpc'> => {
    const response = {
      status: { code: pick([0, 302, 401, 418]) },
      headers: many(6, () => option(REFUSED)),
      body: pick(['', 'b']),
    };
    return {
      provider: pick(['grpc', 'grpcOpen', 'grpcStatus']),
      grpc: {
        message: {
          status: { code: 1 + below(16) },
          ...pick<Message>([{ denied_response: response }, { error_response: response }]),
        },
      },
    };
  };
  const overHttp = (): Pick<Case, 'provider' | 'http'> => ({
    provider: pick(['http', 'lists', 'told', 'httpBody', 'open']),
    http: {
      status: pick([200, 200, 200, 401, 403, 302, 503]),
      fields: many(8, () => [pick(ANSWERED), pick(['', 'v', 'w, x-up', 'x-gone,cookie'])]).flat(),
      body: pick(['', 'b']),
    },
  });
  return Array.from({ length: count }, (_, i): Case => {
    const mark = pick(['', '?']);
    return {
      name: `random ${seed}/${i}`,
      method: 'POST',
      path: `/p${mark}${mark === '' ? '' : query()}`,
      fields: ['x-up: 1', 'x-up: 2', 'x-multi: m', 'cookie: c', 'x-gone: g', `x-a: !${text()}!`],
      body: text(),
      ...pick([overGrpc, overGrpc, refusal, overHttp, overHttp])(),
    };
  });
}
