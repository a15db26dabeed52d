/** Requests with tokens and what becomes of them: one list, held against our verifier and against a real Envoy. */
import type { Json } from '../../mesh/tokens.ts';
import { ecKey, edKey, keySet, type Part, rsaKey, secretKey, type TestKey, token } from './token-mint.ts';

export const rsa = rsaKey();
export const rsa2 = rsaKey();
const ec = ecKey();
const ec384 = ecKey('P-384');
const ec521 = ecKey('P-521');
const ed = edKey();
export const oct = secretKey(Buffer.from('0123456789abcdef0123456789abcdef'));

/** Seconds; the list is for a verifier whose clock is about here. */
export const NOW = Math.floor(Date.now() / 1_000);
const SOON = NOW + 600;
export const H = { alg: 'RS256', kid: 'a' };

export function named(key: TestKey, kid: string, more: Readonly<Record<string, unknown>> = {}) {
  return { ...key.jwk, kid, ...more };
}

const jwks = keySet(named(rsa, 'a'));
const jwks2 = keySet(named(rsa2, 'b'));

/** `jwtRules` of one RequestAuthentication. */
export const ruleSets: Readonly<Record<string, readonly Readonly<Record<string, unknown>>[]>> = {
  one: [{ issuer: 'me', jwks }],
  forward: [{ issuer: 'me', jwks, forwardOriginalToken: true }],
  places: [
    {
      issuer: 'me',
      jwks,
      fromHeaders: [{ name: 'X-Jwt' }, { name: 'x-p', prefix: 'Tok ' }],
      fromParams: ['t', 'z'],
      fromCookies: ['c', 'd'],
    },
  ],
  audiences: [{ issuer: 'me', jwks, audiences: ['x', 'https://y/'] }],
  anyIssuer: [{ jwksUri: 'http://127.0.0.1:9/inline-below' }],
  outputs: [
    {
      issuer: 'me',
      jwks,
      outputPayloadToHeader: 'X-Payload',
      outputClaimToHeaders: Object.entries({
        'x-sub': 'sub',
        'x-n': 'n',
        'x-b': 'b',
        'x-deep': 'a.b.c',
        'x-dot': 'd.e',
        'x-list': 'l',
        'x-obj': 'o',
        'x-neg': 'neg',
        'x-frac': 'frac',
        'x-empty': 'em',
        'x-null': 'nu',
        'x-big': 'big',
      })
        .map(([header, claim]) => ({ header, claim }))
        .concat([
          { header: 'x-twice', claim: 'sub' },
          { header: 'x-twice', claim: 'n' },
        ]),
      spaceDelimitedClaims: ['roles', 'x.y'],
    },
  ],
  outputIsPlace: [{ issuer: 'me', jwks, fromHeaders: [{ name: 'x-a' }], outputPayloadToHeader: 'x-a' }],
  twoIssuers: [
    { issuer: 'me', jwks, outputClaimToHeaders: [{ header: 'x-me', claim: 'sub' }] },
    {
      issuer: 'you',
      jwks: jwks2,
      outputClaimToHeaders: [{ header: 'x-you', claim: 'sub' }],
      forwardOriginalToken: true,
    },
  ],
  twoPlaces: [
    {
      issuer: 'me',
      jwks,
      fromHeaders: [{ name: 'x-a' }],
      outputClaimToHeaders: [{ header: 'x-me', claim: 'sub' }],
    },
    {
      issuer: 'you',
      jwks: jwks2,
      fromHeaders: [{ name: 'x-b' }],
      outputClaimToHeaders: [{ header: 'x-you', claim: 'sub' }],
    },
  ],
  sameIssuer: [
    { issuer: 'me', jwks, audiences: ['p'] },
    { issuer: 'me', jwks, audiences: ['q'] },
  ],
  onePlace: [
    { issuer: 'me', jwks, fromHeaders: [{ name: 'x-a' }] },
    { issuer: 'you', jwks: jwks2, fromHeaders: [{ name: 'x-a' }] },
  ],
  outputIsNextPlace: [
    { issuer: 'me', jwks, outputPayloadToHeader: 'x-b', presence: 'REQUIRED' },
    { issuer: 'you', jwks: jwks2, fromHeaders: [{ name: 'x-b' }] },
  ],
  sameOutput: [
    { issuer: 'me', jwks, outputPayloadToHeader: 'x-out', presence: 'REQUIRED' },
    { issuer: 'you', jwks: jwks2, fromHeaders: [{ name: 'x-b' }], outputPayloadToHeader: 'x-out' },
  ],
  required: [{ issuer: 'me', jwks, presence: 'REQUIRED' }],
  requiredAndOptional: [
    { issuer: 'me', jwks, fromHeaders: [{ name: 'x-a' }], presence: 'REQUIRED' },
    { issuer: 'you', jwks: jwks2, fromHeaders: [{ name: 'x-b' }] },
  ],
  bothRequired: [
    { issuer: 'me', jwks, fromHeaders: [{ name: 'x-a' }], presence: 'REQUIRED' },
    { issuer: 'you', jwks: jwks2, fromHeaders: [{ name: 'x-b' }], presence: 'REQUIRED' },
  ],
  algorithms: [
    {
      issuer: 'me',
      jwks: keySet(
        named(rsa, 'rsa'),
        named(ec, 'ec'),
        named(ec384, 'ec384'),
        named(ec521, 'ec521'),
        named(ed, 'ed'),
        named(oct, 'oct'),
      ),
    },
  ],
  noKid: [{ issuer: 'me', jwks: keySet(rsa2.jwk, rsa.jwk) }],
  keyForOneAlgorithm: [{ issuer: 'me', jwks: keySet(named(rsa, 'a', { alg: 'RS512' })) }],
  keyForEncryption: [{ issuer: 'me', jwks: keySet(named(rsa, 'a', { use: 'enc', key_ops: ['encrypt'] })) }],
};

export interface TokenCase {
  readonly name: string;
  readonly rules: string;
  readonly method?: string;
  readonly path?: string;
  readonly headers?: readonly (readonly [name: string, value: string])[];
  /** 200: it passes. */
  readonly status: 200 | 401 | 403;
  /** Of a refusal. */
  readonly body?: string;
  /** Of its challenge; default: http. */
  readonly scheme?: 'https';
  /** What the app gets; default: the path as sent. */
  readonly pathAfter?: string;
  /** What the app gets of these headers; null: none of it. */
  readonly fields?: Readonly<Record<string, readonly string[] | null>>;
  /** Payload as policy sees it; null: none. */
  readonly claims?: Readonly<Record<string, Json>> | null;
  /** Envoy answers otherwise, on purpose: what, and why we do not. */
  readonly envoyDiffers?: string;
}

const P = { iss: 'me', sub: 'u', exp: SOON };
export const good = token(rsa, H, P);
const second = token(rsa, H, { ...P, sub: 'second' });
const yours = token(rsa2, { alg: 'RS256', kid: 'b' }, { ...P, iss: 'you', sub: 'v' });
const expired = token(rsa, H, { ...P, exp: NOW - 70 });

function bearer(text: string): readonly [string, string] {
  return ['Authorization', `Bearer ${text}`];
}

/** A token in the usual place. */
function sent(name: string, rules: string, text: string, rest: Partial<TokenCase>): TokenCase {
  return { name, rules, headers: [bearer(text)], status: 200, ...rest };
}

function refusal(body: string): Partial<TokenCase> {
  return { status: body === AUDIENCE ? 403 : 401, body };
}

const FORMAT = 'Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections';
const AUDIENCE = 'Audiences in Jwt are not allowed';
const ISSUER = 'Jwt issuer is not configured';
const BAD_SIGNATURE = 'Jwt verification fails';
const NO_KEY = "Jwks doesn't have key to match kid or alg from Jwt";
const PAYLOAD_JSON = 'Jwt payload is an invalid JSON';

const ok = { status: 200, claims: P } as const;
const none = { status: 200, claims: null } as const;

function places(name: string, rest: Partial<TokenCase>): TokenCase {
  return { name, rules: 'places', status: 200, ...rest };
}

const whereTokensAre: readonly TokenCase[] = [
  { name: 'no token', rules: 'one', ...none },
  sent('Bearer', 'one', good, { ...ok, fields: { authorization: null } }),
  sent('Bearer, forwarded', 'forward', good, { ...ok, fields: { authorization: [`Bearer ${good}`] } }),
  ...(
    [
      ['Bearer without anything', 'Bearer', none],
      ['another scheme', 'Basic abc', none],
      ['an empty header', '', none],
      ['the scheme in lower case', `bearer ${good}`, none],
      ['two blanks', `Bearer  ${good}`, ok],
      ['something before the scheme', `x Bearer ${good}`, ok],
      ['something before the token', `Bearer ,;${good}`, ok],
      ['nothing but that', 'Bearer ,;', refusal(FORMAT)],
      ['a tail', `Bearer ${good},x`, refusal('Jwt signature is an invalid Base64url encoded')],
      ['junk', 'Bearer junk', refusal(FORMAT)],
      ['two parts', 'Bearer a.b', refusal(FORMAT)],
      ['dots alone', 'Bearer ..', refusal(FORMAT)],
    ] as const
  ).map(
    ([name, value, rest]): TokenCase => ({
      name: `Authorization: ${name}`,
      rules: 'one',
      headers: [['Authorization', value]],
      status: 200,
      ...rest,
    }),
  ),
  {
    name: 'Authorization twice',
    rules: 'one',
    headers: [bearer(good), bearer(good)],
    status: 401,
    body: FORMAT,
  },
  {
    name: 'Authorization twice, Basic first',
    rules: 'one',
    headers: [['Authorization', 'Basic x'], bearer(good)],
    ...ok,
    fields: { authorization: null },
  },
  {
    name: 'access_token',
    rules: 'one',
    path: `/x?a=1&access_token=${good}&b=2`,
    ...ok,
    pathAfter: '/x?a=1&b=2',
  },
  { name: 'access_token alone', rules: 'one', path: `/x?access_token=${good}`, ...ok, pathAfter: '/x' },
  {
    name: 'access_token, forwarded',
    rules: 'forward',
    path: `/x?b=1&access_token=${good}&a=%2F`,
    ...ok,
  },
  {
    name: 'access_token, other parameters',
    rules: 'one',
    path: `/x?z=%20x+y&flag&access_token=${good}&a=%26`,
    ...ok,
    pathAfter: '/x?z=%20x+y&flag&a=%26',
    envoyDiffers: 'it sorts and decodes the other parameters: here "/x?a=&&flag=&z= x+y", no valid request',
  },
  {
    name: 'access_token twice, the good one first',
    rules: 'one',
    path: `/x?access_token=${good}&access_token=junk`,
    ...ok,
    pathAfter: '/x',
  },
  {
    name: 'access_token twice, the good one second',
    rules: 'one',
    path: `/x?access_token=junk&access_token=${good}`,
    status: 401,
    body: FORMAT,
  },
  {
    name: 'access_token in escapes',
    rules: 'one',
    path: `/x?access%5Ftoken=${good.replaceAll('.', '%2E')}`,
    ...ok,
    pathAfter: '/x',
  },
  { name: 'access_token empty', rules: 'one', path: '/x?access_token=', status: 401, body: FORMAT },
  { name: 'access_token in other case', rules: 'one', path: '/x?Access_Token=junk', ...none },
  { name: 'access_token in the path', rules: 'one', path: '/x;access_token=junk', ...none },
  {
    name: 'header and parameter, both good',
    rules: 'one',
    path: `/x?access_token=${second}`,
    headers: [bearer(good)],
    ...ok,
    pathAfter: '/x',
    fields: { authorization: null },
  },
  {
    name: 'header and parameter, one bad',
    rules: 'one',
    path: '/x?access_token=junk',
    headers: [bearer(good)],
    status: 401,
    body: FORMAT,
  },
  places('a named header', { headers: [['x-jwt', good]], ...ok, fields: { 'x-jwt': null } }),
  places('a named header, empty', { headers: [['x-jwt', '']], ...refusal(FORMAT) }),
  places('a named header without prefix takes none', {
    headers: [['x-jwt', `Bearer ${good}`]],
    ...refusal('Jwt header is an invalid JSON'),
  }),
  places('a named header twice: the first one counts, both must be good', {
    headers: [
      ['x-jwt', good],
      ['x-jwt', second],
    ],
    ...ok,
  }),
  places('a named header twice, one bad', {
    headers: [
      ['x-jwt', good],
      ['x-jwt', 'junk'],
    ],
    ...refusal(FORMAT),
  }),
  places('a named header twice, the first bad', {
    headers: [
      ['x-jwt', 'junk'],
      ['x-jwt', good],
    ],
    ...refusal(FORMAT),
  }),
  places('a prefix', { headers: [['x-p', `Tok ${good}`]], ...ok, fields: { 'x-p': null } }),
  places('a prefix that is not there', { headers: [['x-p', good]], ...none, fields: { 'x-p': [good] } }),
  places('a prefix in other case', { headers: [['x-p', `tok ${good}`]], ...none }),
  places('the default places do not count', {
    headers: [bearer('junk')],
    path: '/?access_token=junk',
    ...none,
    fields: { authorization: ['Bearer junk'] },
  }),
  places('two headers: the first by name counts', {
    headers: [
      ['x-p', `Tok ${second}`],
      ['x-jwt', good],
    ],
    ...ok,
  }),
  places('a parameter', { path: `/?t=${good}`, ...ok, pathAfter: '/' }),
  places('two parameters, one bad', { path: `/?t=${good}&z=junk`, ...refusal(FORMAT) }),
  places('two parameters: the first by name counts', {
    path: `/?z=${second}&t=${good}`,
    ...ok,
    pathAfter: '/',
  }),
  places('a header before a parameter', {
    path: `/?t=${second}`,
    headers: [['x-jwt', good]],
    ...ok,
    pathAfter: '/',
  }),
  ...(
    [
      ['among others', [`a=1; c=${good}; e=2`], ok],
      ['in quotes', [`c="${good}"`], ok],
      ['blanks around', [`a=1;  c=${good} ;b=2`], ok],
      ['a blank behind the name', [`c =${good}`], none],
      ['in the second header', ['a=1', `c=${good}`], ok],
      ['twice, the good one first', [`c=${good}; c=junk`], ok],
      ['twice, the good one second', [`c=junk; c=${good}`], refusal(FORMAT)],
      ['two names, one bad', [`c=${good}; d=junk`], refusal(FORMAT)],
      ['empty', ['c='], refusal(FORMAT)],
      ['without value', ['c'], none],
    ] as const
  ).map(([name, values, rest]) =>
    places(`a cookie, ${name}`, {
      headers: values.map((value) => ['cookie', value] as const),
      ...rest,
    }),
  ),
  places('a cookie is never removed', {
    headers: [['cookie', `c=${good}`]],
    ...ok,
    fields: { cookie: [`c=${good}`] },
  }),
  places('a header before a cookie', {
    headers: [
      ['cookie', `c=${second}`],
      ['x-jwt', good],
    ],
    ...ok,
  }),
];

function preflight(name: string, rest: Partial<TokenCase>): TokenCase {
  return { name, rules: 'one', method: 'OPTIONS', status: 200, ...rest };
}

const origin = ['origin', 'http://a'] as const;
const asked = ['access-control-request-method', 'GET'] as const;

const preflights: readonly TokenCase[] = [
  preflight('a preflight is not verified', {
    headers: [origin, asked, bearer('junk')],
    fields: { authorization: ['Bearer junk'] },
  }),
  preflight('a preflight spoofs no claim', {
    rules: 'outputs',
    headers: [origin, asked, ['x-sub', 'root']],
    fields: { 'x-sub': null },
  }),
  preflight('OPTIONS alone is', { headers: [origin, bearer('junk')], ...refusal(FORMAT) }),
  preflight('OPTIONS with an empty origin is', {
    headers: [['origin', ''], asked, bearer('junk')],
    ...refusal(FORMAT),
  }),
  preflight('another method is', {
    method: 'GET',
    headers: [origin, asked, bearer('junk')],
    ...refusal(FORMAT),
  }),
];

function claim(name: string, change: Readonly<Record<string, unknown>>, rest: Partial<TokenCase>): TokenCase {
  return sent(`claim: ${name}`, 'one', token(rsa, H, { ...P, ...change }), rest);
}

function notText(field: string): Partial<TokenCase> {
  return refusal(`Jwt payload [${field}] field is not a string`);
}

const claimsOfTokens: readonly TokenCase[] = [
  claim('expired, within the skew', { exp: NOW - 30 }, {}),
  claim('expired', { exp: NOW - 70 }, refusal('Jwt is expired')),
  claim('no exp', { exp: undefined }, {}),
  claim('exp 0 is none', { exp: 0 }, {}),
  claim('exp with a fraction', { exp: SOON + 0.5 }, {}),
  claim('exp negative', { exp: -5 }, refusal('Jwt payload [exp] field is not a positive 64 bit integer')),
  claim(
    'exp beyond 64 bits',
    { exp: 1e30 },
    refusal('Jwt payload [exp] field is not a positive 64 bit integer'),
  ),
  claim('exp a string', { exp: String(SOON) }, refusal('Jwt payload [exp] field is not an integer')),
  claim('exp null', { exp: null }, refusal('Jwt payload [exp] field is not an integer')),
  claim('nbf within the skew', { nbf: NOW + 30 }, {}),
  claim('nbf to come', { nbf: NOW + 90 }, refusal('Jwt not yet valid')),
  claim('nbf a string', { nbf: '1' }, refusal('Jwt payload [nbf] field is not an integer')),
  claim('nbf negative', { nbf: -1 }, refusal('Jwt payload [nbf] field is not a positive 64 bit integer')),
  claim('iat to come', { iat: NOW + 9_999 }, {}),
  claim('iat a string', { iat: '1' }, refusal('Jwt payload [iat] field is not an integer')),
  claim('another issuer', { iss: 'other' }, refusal(ISSUER)),
  claim('no issuer', { iss: undefined }, refusal(ISSUER)),
  claim('iss a number', { iss: 5 }, notText('iss')),
  claim('iss null', { iss: null }, notText('iss')),
  claim('sub a number', { sub: 5 }, notText('sub')),
  claim('sub null', { sub: null }, notText('sub')),
  claim('jti a number', { jti: 5 }, notText('jti')),
  sent('any issuer', 'anyIssuer', token(rsa, H, { ...P, iss: 'whoever' }), {}),
  sent('any issuer, none', 'anyIssuer', token(rsa, H, { sub: 'u' }), {}),
  ...(
    [
      ['a string', 'x', true],
      ['a list', ['z', 'x'], true],
      ['another', 'z', false],
      ['none', undefined, false],
      ['an empty list', [], false],
      ['without the slash', 'https://y', true],
      ['with the other scheme', 'http://y', true],
      ['without scheme', 'y', true],
      ['with a slash', 'x/', true],
      ['in other case', 'X', false],
    ] as const
  ).map(([name, aud, allowed]) =>
    sent(`aud ${name}`, 'audiences', token(rsa, H, { ...P, aud }), allowed ? {} : refusal(AUDIENCE)),
  ),
  ...[5, [5, 'x'], null, { x: 1 }].map((aud) =>
    sent(
      `aud ${JSON.stringify(aud)}`,
      'audiences',
      token(rsa, H, { ...P, aud }),
      refusal('Jwt payload [aud] field is not a string or string list'),
    ),
  ),
];

function json(name: string, payload: Part, rest: Partial<TokenCase>, header: Part & { alg?: string } = H) {
  return sent(`JSON: ${name}`, 'one', token(rsa, header, payload, 'RS256'), rest);
}

const nest = (levels: number): string => `{"iss":"me","a":${'['.repeat(levels)}${']'.repeat(levels)}}`;

const formsOfTokens: readonly TokenCase[] = [
  json('header is none', P, refusal('Jwt header is an invalid JSON'), '{'),
  json('header is a list', P, refusal('Jwt header is an invalid JSON'), '[]'),
  json(
    'header with a name twice',
    P,
    refusal('Jwt header is an invalid JSON'),
    '{"alg":"RS256","kid":"a","kid":"a"}',
  ),
  json('payload is none', '{', refusal(PAYLOAD_JSON)),
  json('payload is a list', '[]', refusal(PAYLOAD_JSON)),
  json('a name twice', '{"iss":"other","iss":"me"}', refusal(PAYLOAD_JSON)),
  json('a name twice, one in escapes', '{"iss":"me","is\\u0073":"me"}', refusal(PAYLOAD_JSON)),
  json('a name twice, deep', '{"iss":"me","a":[{"b":1,"b":2}]}', refusal(PAYLOAD_JSON)),
  json('a colon in a string', '{"iss":"me","a":"x\\":y"}', { claims: { iss: 'me', a: 'x":y' } }),
  json('a lone surrogate', '{"iss":"me","a":"\\ud800"}', refusal(PAYLOAD_JSON)),
  json('a number out of range', '{"iss":"me","a":1e400}', refusal(PAYLOAD_JSON)),
  json('NaN', '{"iss":"me","a":NaN}', refusal(PAYLOAD_JSON)),
  json('a comment', '{"iss":"me"/*x*/}', refusal(PAYLOAD_JSON)),
  json('a byte order mark', '\ufeff{"iss":"me"}', refusal(PAYLOAD_JSON)),
  json('something behind', '{"iss":"me"} x', refusal(PAYLOAD_JSON)),
  json('white space around', ' \n{"iss" : "me"}  ', {}),
  json('99 levels', nest(99), {}),
  json('101 levels', nest(100), refusal(PAYLOAD_JSON)),
  json('__proto__ is a name', '{"iss":"me","__proto__":{"sub":"x"}}', {}),
  json('a trailing comma', '{"iss":"me",}', {
    ...refusal(PAYLOAD_JSON),
    envoyDiffers: "protobuf's reader takes it; RFC 8259 does not",
  }),
  sent(
    'alg none',
    'one',
    token(rsa, { alg: 'none', kid: 'a' }, P, 'RS256'),
    refusal('Jwt header [alg] is not supported'),
  ),
  sent(
    'alg none, unsigned',
    'one',
    token(rsa, { alg: 'none' }, P, 'RS256').replace(/[^.]*$/, ''),
    refusal(FORMAT),
  ),
  sent(
    'alg in lower case',
    'one',
    token(rsa, { alg: 'rs256' }, P, 'RS256'),
    refusal('Jwt header [alg] is not supported'),
  ),
  json('no alg', P, refusal('Jwt header [alg] field is required and must be a string'), { kid: 'a' }),
  sent(
    'kid a number',
    'one',
    token(rsa, { ...H, kid: 5 } as Part, P, 'RS256'),
    refusal('Jwt header [kid] field is not a string'),
  ),
  {
    name: 'the realm is what the client asked for, 256 characters of its target',
    rules: 'one',
    path: `/a%2Fb/${'x'.repeat(300)}?y=1`,
    headers: [bearer('junk'), ['X-Forwarded-Proto', 'HTTPS']],
    status: 401,
    body: FORMAT,
    scheme: 'https',
  },
  sent('four parts', 'one', `${good}.x`, refusal(FORMAT)),
  sent('no signature', 'one', good.replace(/[^.]*$/, ''), refusal(FORMAT)),
  sent('another signature', 'one', good.replace(/[^.]*$/, 'AAAA'), refusal(BAD_SIGNATURE)),
  sent(
    'padding that does not fit',
    'one',
    `${good}=`,
    refusal('Jwt signature is an invalid Base64url encoded'),
  ),
  sent('a payload changed', 'one', swapPayload(good, { ...P, sub: 'root' }), refusal(BAD_SIGNATURE)),
  sent('a crit header nobody knows', 'one', token(rsa, { ...H, crit: ['x'], x: 1 } as Part, P, 'RS256'), {
    ...refusal(BAD_SIGNATURE),
    envoyDiffers: 'it does not read crit; RFC 7515 §4.1.11 has such a token refused',
  }),
];

function swapPayload(text: string, payload: Part): string {
  const [header, , signature] = text.split('.');
  return [header, Buffer.from(JSON.stringify(payload)).toString('base64url'), signature].join('.');
}

const publicAsSecret = secretKey(Buffer.from(String(rsa.jwk.n), 'base64url'));

const keysOfTokens: readonly TokenCase[] = [
  sent('kid unknown', 'one', token(rsa, { alg: 'RS256', kid: 'zz' }, P), refusal(NO_KEY)),
  sent('no kid', 'one', token(rsa, { alg: 'RS256' }, P), {}),
  sent('no kid, every key is tried', 'noKid', token(rsa, { alg: 'RS256' }, P), {}),
  sent('a key without kid fits every token', 'noKid', token(rsa, { alg: 'RS256', kid: 'zz' }, P), {}),
  sent('another key of the same kid', 'one', token(rsa2, H, P), refusal(BAD_SIGNATURE)),
  sent(
    'HS256 with the public key for a secret',
    'one',
    token(publicAsSecret, { alg: 'HS256', kid: 'a' }, P),
    refusal(BAD_SIGNATURE),
  ),
  sent('a key for another algorithm', 'keyForOneAlgorithm', good, refusal(NO_KEY)),
  sent('a key for this algorithm', 'keyForOneAlgorithm', token(rsa, { ...H, alg: 'RS512' }, P), {}),
  sent('`use` and `key_ops` are not read', 'keyForEncryption', good, {}),
  ...(
    [
      [rsa, 'RS256', 'rsa'],
      [rsa, 'RS384', 'rsa'],
      [rsa, 'RS512', 'rsa'],
      [rsa, 'PS256', 'rsa'],
      [rsa, 'PS384', 'rsa'],
      [rsa, 'PS512', 'rsa'],
      [ec, 'ES256', 'ec'],
      [ec384, 'ES384', 'ec384'],
      [ec521, 'ES512', 'ec521'],
      [ed, 'EdDSA', 'ed'],
      [oct, 'HS256', 'oct'],
      [oct, 'HS512', 'oct'],
    ] as const
  ).map(([key, alg, kid]) => sent(`${alg} by ${kid}`, 'algorithms', token(key, { alg, kid }, P), {})),
  sent('ES384 by a P-256 key', 'algorithms', token(ec, { alg: 'ES384', kid: 'ec' }, P), {
    ...refusal(BAD_SIGNATURE),
    envoyDiffers: 'it takes any hash with any curve; RFC 7518 §3.4 binds ES384 to P-384',
  }),
  sent('no kid, an Ed25519 key before the right one', 'algorithms', token(oct, { alg: 'HS256' }, P), {
    ...refusal('Jwt ED25519 signature is wrong length'),
  }),
];

const rich = {
  ...P,
  n: 5,
  b: true,
  a: { b: { c: 'deep' } },
  'd.e': 'flat',
  d: { e: 'nested' },
  l: ['p', 'q', 1],
  o: { b: 'é' },
  neg: -3,
  frac: 1.5,
  em: '',
  nu: null,
  big: 2 ** 63,
  scope: 'read  write',
  permission: '  ',
  roles: ' r1\tr2 r3',
  'x.y': 'k l',
  x: { y: 'm n' },
};

const outputs: readonly TokenCase[] = [
  sent('outputs', 'outputs', token(rsa, H, rich), {
    claims: {
      ...rich,
      scope: ['read', 'write'],
      roles: ['r1\tr2', 'r3'],
      'x.y': ['k', 'l'],
    },
    fields: {
      'x-payload': [Buffer.from(JSON.stringify(rich)).toString('base64url')],
      'x-sub': ['u'],
      'x-n': ['5'],
      'x-b': ['true'],
      'x-deep': ['deep'],
      'x-dot': ['nested'],
      'x-list': [Buffer.from('["p","q",1]').toString('base64')],
      'x-obj': [Buffer.from('{"b":"é"}').toString('base64')],
      'x-neg': ['-3.000000'],
      'x-frac': ['1.500000'],
      'x-empty': null,
      'x-null': null,
      'x-big': ['9223372036854775808'],
      'x-twice': ['u', '5'],
    },
  }),
  {
    name: 'outputs spoofed beside a token without the claims',
    rules: 'outputs',
    headers: [bearer(token(rsa, H, { iss: 'me' })), ['x-sub', 'root'], ['X-Deep', 'x'], ['x-payload', 'x']],
    status: 200,
    fields: {
      'x-sub': null,
      'x-deep': null,
      'x-payload': [Buffer.from('{"iss":"me"}').toString('base64url')],
    },
  },
  {
    name: 'outputs spoofed without a token',
    rules: 'outputs',
    headers: [
      ['x-sub', 'root'],
      ['x-payload', 'x'],
      ['x-sub', 'again'],
    ],
    ...none,
    fields: { 'x-sub': null, 'x-payload': null },
  },
  sent('an output of UTF-8 goes as its bytes', 'outputs', token(rsa, H, { ...P, sub: 'é' }), {
    fields: { 'x-sub': ['Ã©'] },
  }),
  sent('scope a list', 'outputs', token(rsa, H, { ...P, scope: ['a b', 'c'] }), {
    claims: { ...P, scope: ['a b', 'c'] },
  }),
  sent('a claim that is no header value', 'outputs', token(rsa, H, { ...P, sub: 'a\r\nx-admin: 1' }), {
    ...refusal('Jwt claim cannot be a header value'),
    envoyDiffers: 'it answers 503 when it finds that it cannot send the request on',
  }),
  {
    name: 'an output is no place for a token',
    rules: 'outputIsPlace',
    headers: [['x-a', good]],
    ...none,
    fields: { 'x-a': null },
  },
];

function two(name: string, headers: TokenCase['headers'] & object, rest: Partial<TokenCase>): TokenCase {
  return { name: `two issuers: ${name}`, rules: 'twoIssuers', headers, status: 200, ...rest };
}

function at(
  rules: string,
  name: string,
  a: string | null,
  b: string | null,
  rest: Partial<TokenCase>,
): TokenCase {
  const headers = [
    ...(a === null ? [] : [['x-a', a] as const]),
    ...(b === null ? [] : [['x-b', b] as const]),
  ];
  return { name: `${rules}: ${name}`, rules, headers, status: 200, ...rest };
}

const severalRules: readonly TokenCase[] = [
  two(
    'no token',
    [
      ['x-me', 's'],
      ['x-you', 's'],
    ],
    { ...none, fields: { 'x-me': null, 'x-you': null } },
  ),
  two('the first', [bearer(good), ['x-you', 's']], {
    claims: P,
    fields: { authorization: null, 'x-me': ['u'], 'x-you': null },
  }),
  two('the second', [bearer(yours), ['x-me', 's']], {
    claims: { ...P, iss: 'you', sub: 'v' },
    fields: { authorization: [`Bearer ${yours}`], 'x-me': null, 'x-you': ['v'] },
  }),
  two('neither', [bearer(token(rsa, H, { ...P, iss: 'other' }))], refusal(ISSUER)),
  two('the first, expired', [bearer(expired)], refusal('Jwt is expired')),
  two('the second, signed by the first', [bearer(token(rsa, H, { ...P, iss: 'you' }))], refusal(NO_KEY)),
  at('twoPlaces', 'both', good, yours, {
    claims: P,
    fields: { 'x-a': null, 'x-b': [yours], 'x-me': ['u'], 'x-you': null },
  }),
  at('twoPlaces', 'the first good, the second bad', good, 'junk', { claims: P, fields: { 'x-b': ['junk'] } }),
  at('twoPlaces', 'the first bad, the second good', 'junk', yours, {
    fields: { 'x-a': ['junk'], 'x-you': ['v'] },
  }),
  at('twoPlaces', 'the first alone', good, null, { claims: P }),
  at('twoPlaces', 'the second alone', null, yours, { fields: { 'x-b': null, 'x-you': ['v'] } }),
  at('twoPlaces', 'both bad', 'junk', expired, refusal(FORMAT)),
  at('twoPlaces', 'the second bad, the first missing', null, 'junk', refusal(FORMAT)),
  at('twoPlaces', 'exchanged', yours, good, refusal(ISSUER)),
  sent('one issuer twice: the second audience', 'sameIssuer', token(rsa, H, { ...P, aud: 'q' }), {}),
  sent('one issuer twice: no audience', 'sameIssuer', token(rsa, H, { ...P, aud: 'z' }), refusal(AUDIENCE)),
  {
    name: 'one header, a token of each issuer: the second rule takes both away',
    rules: 'onePlace',
    headers: [
      ['x-a', good],
      ['x-a', yours],
    ],
    status: 200,
    claims: { ...P, iss: 'you', sub: 'v' },
    fields: { 'x-a': null },
  },
  sent(
    'what a rule puts out is looked at where the next one takes in',
    'outputIsNextPlace',
    good,
    refusal(FORMAT),
  ),
  sent("a rule drops another's output of its own name", 'sameOutput', good, { fields: { 'x-out': null } }),
  { name: 'required: missing', rules: 'required', status: 401, body: 'Jwt is missing' },
  sent('required: there', 'required', good, ok),
  at('requiredAndOptional', 'none', null, null, refusal('Jwt is missing')),
  at('requiredAndOptional', 'the required', good, null, { claims: P }),
  at('requiredAndOptional', 'both', good, yours, { claims: { ...P, iss: 'you', sub: 'v' } }),
  at('requiredAndOptional', 'the optional bad', good, 'junk', refusal(FORMAT)),
  at('requiredAndOptional', 'the optional alone', null, yours, refusal('Jwt is missing')),
  at('bothRequired', 'one', good, null, refusal('Jwt is missing')),
  at('bothRequired', 'both', good, yours, { fields: { 'x-a': null, 'x-b': null } }),
];

export const tokenCases: readonly TokenCase[] = [
  ...whereTokensAre,
  ...preflights,
  ...claimsOfTokens,
  ...formsOfTokens,
  ...keysOfTokens,
  ...outputs,
  ...severalRules,
];
