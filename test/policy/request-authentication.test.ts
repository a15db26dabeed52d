/** RequestAuthentication: what is read and refused, field by field, and which rules hold for a workload. */
import t from 'tap';
import type { Problem } from '../../mesh/resource.ts';
import type { JwtRule } from '../../mesh/tokens.ts';
import {
  compileTokenRules,
  decodeRequestAuthentication,
  type RequestAuthentication,
} from '../../policy/request-authentication.ts';
import { type ResourceParts, resource } from './helper.ts';

function read(parts: ResourceParts): { policy: RequestAuthentication | null; problems: readonly Problem[] } {
  const problems: Problem[] = [];
  const policy = decodeRequestAuthentication(resource({ kind: 'RequestAuthentication', ...parts }), problems);
  return { policy, problems };
}

function ruleOf(rule: unknown): { rule: JwtRule | undefined; problems: readonly Problem[] } {
  const { policy, problems } = read({ spec: { jwtRules: [rule] } });
  return { rule: policy?.rules[0], problems };
}

const RSA = '{"kty":"RSA","n":"0vx7","e":"AQAB"}';
const SET = `{"keys":[${RSA}]}`;

t.test('every field', async (t) => {
  const { rule, problems } = ruleOf({
    issuer: 'https://idp',
    audiences: ['a', 'b'],
    jwksUri: 'https://idp/keys',
    fromHeaders: [{ name: 'X-Jwt', prefix: 'Tok ' }, { name: 'plain' }],
    fromParams: ['t'],
    fromCookies: ['c'],
    outputPayloadToHeader: 'X-Payload',
    outputClaimToHeaders: [{ header: 'X-Sub', claim: 'a.b' }],
    forwardOriginalToken: true,
    timeout: '1.5s',
    spaceDelimitedClaims: ['roles'],
    presence: 'REQUIRED',
  });
  t.same(problems, []);
  t.strictSame(rule, {
    issuer: 'https://idp',
    audiences: ['a', 'b'],
    required: true,
    jwks: null,
    jwksUri: 'https://idp/keys',
    fromHeaders: [
      { name: 'x-jwt', prefix: 'Tok ' },
      { name: 'plain', prefix: '' },
    ],
    fromParams: ['t'],
    fromCookies: ['c'],
    outputPayloadToHeader: 'x-payload',
    outputClaimToHeaders: [{ header: 'x-sub', claim: 'a.b' }],
    forwardOriginalToken: true,
    spaceDelimitedClaims: ['roles'],
    timeout: 1_500,
  });
});

t.test('what a rule is without its fields', async (t) => {
  const { rule, problems } = ruleOf({ issuer: 'https://idp' });
  t.same(problems, []);
  t.strictSame(rule, {
    issuer: 'https://idp',
    audiences: [],
    required: false,
    jwks: null,
    jwksUri: null,
    fromHeaders: [],
    fromParams: [],
    fromCookies: [],
    outputPayloadToHeader: null,
    outputClaimToHeaders: [],
    forwardOriginalToken: false,
    spaceDelimitedClaims: [],
    timeout: 5_000,
  });
});

/** Istio's schema or webhook refuses each of these: `rule → the field named`. */
const refused: readonly (readonly [rule: unknown, field: string])[] = [
  [{}, 'issuer'],
  [{ jwks: SET }, 'issuer'],
  [{ issuer: '' }, 'issuer'],
  [{ issuer: 5 }, 'issuer'],
  [{ issuer: 'i', audiences: [''] }, 'audiences[0]'],
  [{ issuer: 'i', audiences: 'a' }, 'audiences'],
  [{ issuer: 'i', jwksUri: '' }, 'jwksUri'],
  [{ issuer: 'i', jwksUri: 'foo.com' }, 'jwksUri'],
  [{ issuer: 'i', jwksUri: 'ftp://foo.com' }, 'jwksUri'],
  [{ issuer: 'i', jwksUri: 'https://foo.com:port' }, 'jwksUri'],
  [{ issuer: 'i', jwksUri: 'https://a b/keys' }, 'jwksUri'],
  [{ issuer: 'i', jwksUri: `https://foo.com/${'x'.repeat(2_048)}` }, 'jwksUri'],
  [{ issuer: 'i', jwksUri: 'https://a', jwks: SET }, 'jwks'],
  [{ issuer: 'i', jwksUri: 'https://a', jwks_uri: 'https://a' }, 'jwks_uri'],
  [{ issuer: 'i', jwks: 'no JSON' }, 'jwks'],
  [{ issuer: 'i', jwks: '[]' }, 'jwks'],
  [{ issuer: 'i', jwks: '{}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":{}}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"RSA","n":"x"}]}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"EC","x":"x","y":"y"}]}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"XYZ"}]}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"RSA","n":5,"e":"AQAB"}]}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"RSA","n":"%%","e":"AQAB"}]}' }, 'jwks'],
  [{ issuer: 'i', jwks: '{"keys":[5]}' }, 'jwks'],
  [{ issuer: 'i', jwks: { keys: [] } }, 'jwks'],
  [{ issuer: 'i', fromHeaders: [{ name: '' }] }, 'fromHeaders[0].name'],
  [{ issuer: 'i', fromHeaders: [{ prefix: 'x' }] }, 'fromHeaders[0].name'],
  [{ issuer: 'i', fromHeaders: [{ name: 'x', value: 'y' }] }, 'fromHeaders[0].value'],
  [{ issuer: 'i', fromHeaders: ['x'] }, 'fromHeaders[0]'],
  [{ issuer: 'i', fromHeaders: [null] }, 'fromHeaders[0]'],
  [{ issuer: 'i', fromParams: [''] }, 'fromParams[0]'],
  [{ issuer: 'i', fromCookies: [''] }, 'fromCookies[0]'],
  [{ issuer: 'i', outputPayloadToHeader: 5 }, 'outputPayloadToHeader'],
  [{ issuer: 'i', outputClaimToHeaders: [{ header: 'x' }] }, 'outputClaimToHeaders[0].claim'],
  [{ issuer: 'i', outputClaimToHeaders: [{ claim: 'x' }] }, 'outputClaimToHeaders[0].header'],
  [{ issuer: 'i', outputClaimToHeaders: [{ header: '', claim: 'x' }] }, 'outputClaimToHeaders[0].header'],
  [{ issuer: 'i', outputClaimToHeaders: [{ header: 'x y', claim: 'x' }] }, 'outputClaimToHeaders[0].header'],
  [{ issuer: 'i', outputClaimToHeaders: [{ header: 'x.y', claim: 'x' }] }, 'outputClaimToHeaders[0].header'],
  [{ issuer: 'i', outputClaimToHeaders: [null] }, 'outputClaimToHeaders[0]'],
  [{ issuer: 'i', forwardOriginalToken: 'true' }, 'forwardOriginalToken'],
  [{ issuer: 'i', timeout: '0s' }, 'timeout'],
  [{ issuer: 'i', timeout: '0.0001s' }, 'timeout'],
  [{ issuer: 'i', timeout: '1.0005s' }, 'timeout'],
  [{ issuer: 'i', timeout: '-1s' }, 'timeout'],
  [{ issuer: 'i', timeout: '99999999h' }, 'timeout'],
  [{ issuer: 'i', timeout: '1us' }, 'timeout'],
  [{ issuer: 'i', timeout: '1.5ms' }, 'timeout'],
  [{ issuer: 'i', timeout: '1' }, 'timeout'],
  [{ issuer: 'i', timeout: 5 }, 'timeout'],
  [{ issuer: 'i', spaceDelimitedClaims: [''] }, 'spaceDelimitedClaims[0]'],
  [{ issuer: 'i', spaceDelimitedClaims: Array(65).fill('x') }, 'spaceDelimitedClaims'],
  [{ issuer: 'i', presence: 'MAYBE' }, 'presence'],
  [{ issuer: 'i', jwksURI: 'https://a' }, 'jwksURI'],
];

t.test('refused rules', async (t) => {
  for (const [rule, field] of refused) {
    const { rule: decoded, problems } = ruleOf(rule);
    t.equal(decoded, undefined, JSON.stringify(rule));
    const errors = problems.filter(({ severity }) => severity === 'Error').map((one) => one.field);
    t.ok(errors.includes(`spec.jwtRules[0].${field}`), `${JSON.stringify(rule)} names ${field}: ${errors}`);
  }
});

/** Istio accepts each of these; some with a warning. */
const accepted: readonly (readonly [rule: unknown, warning: RegExp | null])[] = [
  [{ jwksUri: 'https://foo.com/keys' }, null],
  [{ jwks_uri: 'http://foo.com' }, null],
  [{ issuer: 'i', jwksUri: 'HTTPS://foo.com:8443/keys?x=y' }, null],
  [{ issuer: 'i', jwks: SET }, null],
  [{ issuer: 'i', jwksUri: 'https://[::1]:8443/k' }, null],
  [{ issuer: 'i', jwksUri: 'https://user:word@a/k' }, null],
  [{ issuer: 'i', jwks: RSA }, null],
  [{ issuer: 'i', jwks: '{"keys":[]}' }, null],
  [{ issuer: 'https://i', jwks: '' }, null],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}' }, /key 0 is a secret/],
  [{ issuer: 'i', jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"x","d":"d"}]}' }, /key 0 is a secret/],
  [{ issuer: 'someone@example.com' }, /which is no URL/],
  [{ issuer: 'i', jwks: SET, fromParams: [], outputClaimToHeaders: [], outputPayloadToHeader: '' }, null],
  [{ issuer: 'i', jwks: SET, timeout: '0.001s', presence: 'OPTIONAL' }, null],
  [{ issuer: 'i', jwks: SET, timeout: '1h1m1.001s1ms' }, null],
  [{ issuer: 'i', jwks: SET, outputPayloadToHeader: 'x y' }, /is no header name/],
  [{ issuer: 'i', jwksUri: 'https://' }, /nothing can be fetched there/],
  [{ issuer: 'i', jwksUri: 'https:///keys' }, /nothing can be fetched there/],
  [{ issuer: 'i', jwksUri: 'https:a' }, /nothing can be fetched there/],
  [{ issuer: 'i', jwksUri: 'https://a:99999' }, /nothing can be fetched there/],
];

t.test('accepted rules', async (t) => {
  for (const [rule, warning] of accepted) {
    const { rule: decoded, problems } = ruleOf(rule);
    t.not(decoded, undefined, `${JSON.stringify(rule)}: ${problems.map(({ message }) => message)}`);
    if (warning === null) t.same(problems, [], JSON.stringify(rule));
    else t.match(problems, [{ severity: 'Warning', message: warning }], JSON.stringify(rule));
  }
});

const GATEWAY = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'gw' };

t.test('the resource around the rules', async (t) => {
  const rows: readonly (readonly [parts: ResourceParts, field: string | null])[] = [
    [{ spec: undefined }, null],
    [{ spec: {} }, null],
    [{ spec: { selector: { matchLabels: { app: 'web' } } } }, null],
    [{ spec: { selector: { matchLabels: { app: 'w*' } } } }, 'spec.selector.matchLabels.app'],
    [{ spec: { jwtRules: {} } }, 'spec.jwtRules'],
    [{ spec: { rules: [] } }, 'spec.rules'],
    [{ spec: { targetRef: GATEWAY } }, null],
    [{ spec: { targetRefs: [GATEWAY, { kind: 'Service', name: 's' }] } }, null],
    [{ spec: { targetRefs: [{ group: 'core', kind: 'Service', name: 's' }] } }, null],
    [{ spec: { targetRefs: [{ group: 'networking.istio.io', kind: 'ServiceEntry', name: 's' }] } }, null],
    [{ spec: { targetRefs: [{ kind: 'Gateway', name: 'gw' }] } }, 'spec.targetRefs[0].kind'],
    [{ spec: { targetRefs: [{ group: 'apps', kind: 'Service', name: 's' }] } }, 'spec.targetRefs[0].kind'],
    [{ spec: { targetRefs: [{ ...GATEWAY, name: undefined }] } }, 'spec.targetRefs[0].name'],
    [{ spec: { targetRefs: [{ ...GATEWAY, namespace: 'other' }] } }, 'spec.targetRefs[0].namespace'],
    [{ spec: { targetRefs: [{ ...GATEWAY, section: 'x' }] } }, 'spec.targetRefs[0].section'],
    [{ spec: { targetRefs: Array(17).fill(GATEWAY) } }, 'spec.targetRefs'],
    [{ spec: { targetRef: GATEWAY, targetRefs: [GATEWAY] } }, 'spec.targetRefs'],
    [{ spec: { selector: { matchLabels: { a: 'b' } }, targetRef: GATEWAY } }, 'spec.targetRef'],
    [{ spec: { selector: { matchLabels: { a: 'b' } }, targetRefs: [] } }, 'spec.targetRefs'],
    [{ spec: {}, annotations: { 'istio.io/dry-run': 'true' } }, 'metadata.annotations.istio.io/dry-run'],
  ];
  for (const [parts, field] of rows) {
    const { policy, problems } = read(parts);
    const errors = problems.filter(({ severity }) => severity === 'Error').map((one) => one.field);
    t.same(errors, field === null ? [] : [field], JSON.stringify(parts));
    t.equal(policy === null, field !== null, JSON.stringify(parts));
  }
});

// === which rules hold ===

function policy(
  namespace: string,
  name: string,
  issuers: readonly string[],
  more: ResourceParts & { spec?: object } = {},
) {
  const jwtRules = issuers.map((issuer) => ({ issuer, jwks: SET, audiences: [name] }));
  const { policy: decoded, problems } = read({ namespace, name, ...more, spec: { jwtRules, ...more.spec } });
  if (decoded === null) throw new Error(JSON.stringify(problems));
  return decoded;
}

const web = { namespace: 'foo', labels: new Map([['app', 'web']]) };

function held(policies: readonly RequestAuthentication[], workload = web) {
  const { policies: names, rules } = compileTokenRules(policies, workload, 'istio-system');
  return { names, rules: rules.map(({ issuer, audiences }) => `${issuer} of ${audiences[0]}`) };
}

t.test('rules of the own and of the root namespace hold together, sorted by issuer', async (t) => {
  const policies = [
    policy('istio-system', 'mesh', ['b', 'a']),
    policy('other', 'far', ['x']),
    policy('foo', 'ns', ['c', 'a']),
  ];
  t.same(held(policies), {
    names: ['foo/ns', 'istio-system/mesh'],
    rules: ['a of ns', 'a of mesh', 'b of mesh', 'c of ns'],
  });
});

t.test('of one issuer the older policy goes first, then the name', async (t) => {
  const rules = held([
    policy('foo', 'young', ['a'], { creationTimestamp: 2_000 }),
    policy('foo', 'old', ['a'], { creationTimestamp: 1_000 }),
    policy('foo', 'b-undated', ['a']),
    policy('foo', 'a-undated', ['a']),
    policy('istio-system', 'oldest', ['a'], { creationTimestamp: 1 }),
  ]).rules;
  t.same(rules, ['a of a-undated', 'a of b-undated', 'a of old', 'a of young', 'a of oldest']);
});

t.test('selectors count, in the root namespace too', async (t) => {
  const selector = (app: string) => ({ spec: { selector: { matchLabels: { app } } } });
  const policies = [
    policy('istio-system', 'root-web', ['r'], selector('web')),
    policy('istio-system', 'root-api', ['x'], selector('api')),
    policy('foo', 'web', ['w'], selector('web')),
    policy('foo', 'api', ['x'], selector('api')),
  ];
  t.same(held(policies).names, ['foo/web', 'istio-system/root-web']);
  t.same(held(policies, { namespace: 'istio-system', labels: web.labels }).names, ['istio-system/root-web']);
});

t.test('a policy for a gateway holds for no sidecar, and says what it is for', async (t) => {
  const gateway = policy('foo', 'gw', ['a'], { spec: { targetRefs: [GATEWAY] } });
  t.same(gateway.targets, [GATEWAY]);
  t.same(held([gateway]), { names: [], rules: [] });
  t.same(policy('foo', 'gw', ['a'], { spec: { targetRef: GATEWAY } }).targets, [GATEWAY]);
});

t.test('a policy without rules selects and asks nothing', async (t) => {
  t.same(held([policy('foo', 'empty', [])]), { names: ['foo/empty'], rules: [] });
});
