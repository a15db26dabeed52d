/** Token rules and requests at random, from a seed: places that overlap, outputs that collide, tokens good and bad. */
import type { JwtRule } from '../../mesh/tokens.ts';
import { good, H, NOW, named, rsa, rsa2, type TokenCase } from './token-cases.ts';
import { ecKey, keySet, token } from './token-mint.ts';

const SETS = 50;
const REQUESTS_A_SET = 50;

const ec = ecKey();
const keysOf: Readonly<Record<string, string>> = {
  me: keySet(named(rsa, 'a')),
  you: keySet(named(rsa2, 'b'), named(ec, 'e')),
  '': keySet(named(rsa, 'a'), named(rsa2, 'b')),
};

const P = { iss: 'me', sub: 'u', exp: NOW + 900, n: 1, scope: 'a b' };
const likely = [
  good,
  token(rsa, H, { ...P, sub: 'two', aud: 'x' }),
  token(rsa2, { alg: 'RS256', kid: 'b' }, { ...P, iss: 'you', sub: 'y' }),
  token(ec, { alg: 'ES256', kid: 'e' }, { ...P, iss: 'you', sub: 'y2', aud: ['y', 'x'] }),
];
const odd = [
  token(rsa, H, { ...P, exp: NOW - 100 }),
  token(rsa2, H, P),
  token(rsa, H, { ...P, iss: 'other' }),
  token(rsa, { alg: 'RS256' }, P),
  token(rsa, H, { ...P, iss: 'you' }),
  token(rsa, H, { sub: 'q' }),
  good.replace('.', ' .'),
  `"${good}"`,
  `Bearer ${good}`,
  `${good},${good}`,
  `${good}=`,
  'junk',
  '',
];

const HEADERS = ['x-a', 'x-b', 'authorization'];
const PARAMS = ['t', 'access_token'];
const COOKIES = ['c', 'session'];
const OUTPUTS = ['x-out', 'x-sub', 'x-n'];

export interface RandomRequest extends Pick<TokenCase, 'path' | 'headers'> {
  readonly set: string;
  readonly path: string;
}

/** @returns rules by name, requests for them, and the header fields worth a look afterwards. */
export function randomCases(seed: number): {
  readonly sets: ReadonlyMap<string, readonly JwtRule[]>;
  readonly requests: readonly RandomRequest[];
  readonly fields: readonly string[];
} {
  let state = seed;
  const random = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  const pick = <T>(list: readonly [T, ...T[]] | readonly T[]): T =>
    list[Math.floor(random() * list.length)] as T;
  const some = <T>(list: readonly T[], chance: number): T[] => list.filter(() => random() < chance);

  const rule = (): JwtRule => {
    const issuer = pick(['me', 'me', 'you', '']);
    const isDefault = random() < 0.35;
    return {
      issuer,
      audiences: random() < 0.3 ? some(['x', 'y', 'https://x/'], 0.6) : [],
      required: random() < 0.15,
      jwks: keysOf[issuer] ?? null,
      jwksUri: null,
      fromHeaders: isDefault
        ? []
        : some(HEADERS, 0.4).map((name) => ({ name, prefix: pick(['', 'Bearer ', 'Tok']) })),
      fromParams: isDefault ? [] : some(PARAMS, 0.4),
      fromCookies: isDefault ? [] : some(COOKIES, 0.3),
      outputPayloadToHeader: pick([null, null, 'x-out', 'x-a']),
      outputClaimToHeaders: some(OUTPUTS, 0.3).map((header) => ({
        header,
        claim: pick(['sub', 'n', 'aud', 'iss']),
      })),
      forwardOriginalToken: random() < 0.4,
      spaceDelimitedClaims: [],
      timeout: 5_000,
    };
  };
  const ruleSet = (): readonly JwtRule[] =>
    Array.from({ length: 1 + Math.floor(random() * 3) }, rule).sort((a, b) =>
      a.issuer < b.issuer ? -1 : a.issuer > b.issuer ? 1 : 0,
    );
  const sets = new Map(Array.from({ length: SETS }, (_, i) => [`set${i}`, ruleSet()]));

  const anyToken = (): string => pick(random() < 0.6 ? likely : odd);
  const anyRequest = (set: string): RandomRequest => {
    const headers: [string, string][] = [];
    for (const name of some(HEADERS, 0.35)) {
      const prefix = () => pick(['', 'Bearer ', 'Bearer ', 'Tok ', 'Tok', 'bearer ']);
      for (let i = random() < 0.2 ? 2 : 1; i > 0; i--)
        headers.push([name, `${prefix()}${anyToken()}`.trim()]);
    }
    const cookies = some(COOKIES, 0.25).map((name) => `${pick(['', ' '])}${name}=${anyToken()}`);
    if (cookies.length > 0) headers.push(['cookie', cookies.join(';').trim()]);
    if (random() < 0.3) headers.push([pick(OUTPUTS), 'spoof']);
    // No escapes: Envoy decodes what it leaves of a query.
    const params = some(PARAMS, 0.25).map(
      (name) => `${name}=${pick(random() < 0.7 ? likely : ['junk', ''])}`,
    );
    if (params.length > 0 && random() < 0.5) params.unshift('a=1');
    return { set, headers, path: params.length === 0 ? '/p' : `/p?${params.join('&')}` };
  };
  const requests = [...sets.keys()].flatMap((set) =>
    Array.from({ length: REQUESTS_A_SET }, () => anyRequest(set)),
  );
  return { sets, requests, fields: [...HEADERS, ...OUTPUTS, 'cookie'] };
}
