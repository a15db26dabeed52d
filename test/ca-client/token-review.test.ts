/** Projected tokens: what the Kubernetes API is asked, and which of its answers make an identity. */
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { kubernetesApi } from '../../ca-client/kubernetes-api.ts';
import { type TokenReview, tokenReview } from '../../ca-client/token-review.ts';
import { selfSigned } from '../../cli/webhook-certificate.ts';
import { fileWith } from './helper.ts';

interface Asked {
  readonly path: string | undefined;
  readonly authorization: string | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: what was sent is looked into by tests that know it
  readonly body: any;
}

interface Scene {
  readonly review: (token: string) => ReturnType<TokenReview>;
  readonly asked: Asked[];
  /** What the API answers from now on; null: nothing. */
  answer: { readonly status: number; readonly body: unknown } | null;
}

async function scene(t: Test): Promise<Scene> {
  const keys = await selfSigned(['127.0.0.1'], Date.now());
  const asked: Asked[] = [];
  const server = createServer(keys, (request, response) => {
    let text = '';
    request.on('data', (chunk) => {
      text += chunk;
    });
    request.on('end', () => {
      const { authorization } = request.headers;
      asked.push({ path: request.url, authorization, body: JSON.parse(text) });
      if (scene.answer === null) return request.socket.destroy();
      response.writeHead(scene.answer.status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(scene.answer.body));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const api = kubernetesApi({
    url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    caFile: fileWith(t, keys.caPem),
    tokenFile: fileWith(t, 'own-token\n'),
  });
  t.teardown(() => api.close());
  const reviewed = tokenReview(api);
  const scene: Scene = { review: (token) => reviewed(token, '10.1.1.1:40000'), asked, answer: null };
  return scene;
}

const hour = (): number => Math.floor(Date.now() / 1_000) + 3_600;

function token(
  audience: string | string[] = 'istio-ca',
  subject = 'system:serviceaccount:shop:forged',
  expires: number | null = hour(),
): Promise<string> {
  return new SignJWT(expires === null ? {} : { exp: expires })
    .setProtectedHeader({ alg: 'HS256' })
    .setAudience(audience)
    .setSubject(subject)
    .sign(new Uint8Array(32));
}

/** As Kubernetes answers (authentication.k8s.io/v1 TokenReview). */
const status = {
  authenticated: true,
  audiences: ['istio-ca'],
  user: {
    username: 'system:serviceaccount:shop:web',
    groups: ['system:serviceaccounts', 'system:serviceaccounts:shop', 'system:authenticated'],
  },
};
const review = (more: object) => ({ status: 201, body: { status: { ...status, ...more } } });

t.test('the account the API names, not the one the token claims', async (t) => {
  const at = await scene(t);
  at.answer = review({});
  const one = await token();
  t.same(await at.review(one), { namespace: 'shop', serviceAccount: 'web' });
  t.match(at.asked, [
    {
      path: '/apis/authentication.k8s.io/v1/tokenreviews',
      authorization: 'Bearer own-token',
      body: { kind: 'TokenReview', spec: { token: one, audiences: ['istio-ca'] } },
    },
  ]);
});

t.test('answers that name nobody', async (t) => {
  const at = await scene(t);
  const one = await token();
  const user = (username: string, groups = status.user.groups) => ({ user: { username, groups } });
  const rows: readonly (readonly [what: string, answer: Scene['answer'], error: string, words: RegExp])[] = [
    ['not authenticated', review({ authenticated: false }), 'TokenError', /not one of this cluster/],
    ['authenticated is a word', review({ authenticated: 'true' }), 'TokenError', /not one of this cluster/],
    ['no status', { status: 201, body: {} }, 'TokenError', /not one of this cluster/],
    ['no audience', review({ audiences: undefined }), 'TokenError', /audience istio-ca/],
    ['another audience', review({ audiences: ['vault'] }), 'TokenError', /audience istio-ca/],
    ['a person', review(user('alice')), 'TokenError', /no service account's/],
    ['a node', review(user('system:node:n1')), 'TokenError', /no service account's/],
    [
      'an account with a slash',
      review(user('system:serviceaccount:shop:a/b')),
      'TokenError',
      /no service account's/,
    ],
    [
      'outside the group',
      review(user('system:serviceaccount:shop:web', [])),
      'TokenError',
      /no service account's/,
    ],
    ['forbidden', { status: 403, body: { message: 'may not' } }, 'ReviewUnavailableError', /may not \(403\)/],
    ['no object', { status: 201, body: [] }, 'ReviewUnavailableError', /no JSON object/],
    ['no answer', null, 'ReviewUnavailableError', /does not answer/],
  ];
  for (const [what, answer, name, message] of rows) {
    at.answer = answer;
    const error: Error = await at.review(one).then(
      () => new Error('it was taken'),
      (refused: Error) => refused,
    );
    t.equal(error.name, name, what);
    t.match(error.message, message, what);
    t.notOk(error.message.includes(one), 'the token is not quoted');
  }
});

t.test('what cannot be a token for us is not asked about', async (t) => {
  const at = await scene(t);
  at.answer = review({});
  const rows: readonly (readonly [string, RegExp])[] = [
    ['', /not a signed JWT/],
    ['x', /not a signed JWT/],
    ['a.b.c', /not a signed JWT/],
    [await token('kubernetes'), /audience istio-ca/],
    [await token([]), /audience istio-ca/],
    [await token('istio-ca', 'alice'), /no service account's/],
    [await token('istio-ca', undefined, 1), /has expired/],
    [await token('istio-ca', undefined, null), /has expired/],
  ];
  for (const [text, message] of rows) await t.rejects(at.review(text), { name: 'TokenError', message });
  t.equal(at.asked.length, 0);
});

t.test('so many at once, of each its share, and the others in turn', async (t) => {
  const answers: (() => void)[] = [];
  const api = {
    ask: () =>
      new Promise<{ status: number; body: { status: typeof status } }>((resolve) =>
        answers.push(() => resolve({ status: 201, body: { status } })),
      ),
    close: async () => {},
  };
  const check = tokenReview(api);
  const one = await token();
  const refused: Error[] = [];
  for (let n = 0; n < 200; n++) check(one, `10.1.1.1:${n}`).catch((error: Error) => refused.push(error));
  await setImmediate();
  t.equal(refused.length, 196);
  t.ok(refused.every(({ name }) => name === 'ReviewUnavailableError'));
  t.equal(answers.length, 4);

  const others = Array.from({ length: 40 }, (_, n) => check(one, `10.1.2.${n}:40000`));
  await setImmediate();
  t.equal(answers.length, 32, 'the API server is asked so much at once');
  for (let n = 0; n < 44; n++) {
    t.ok(answers[n], 'each has its turn');
    answers[n]?.();
    await setImmediate();
  }
  for (const account of await Promise.all(others)) t.match(account, { serviceAccount: 'web' });
  const again = check(one, '10.1.1.1:50000');
  await setImmediate();
  answers[44]?.();
  t.match(await again, { serviceAccount: 'web' }, 'its share is free again');
});
