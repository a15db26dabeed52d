/** SPIFFE bundles by URL: what is read as one, when it is fetched, and what is kept while that fails. */
import { createPublicKey, X509Certificate } from 'node:crypto';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { createGetter } from '../../providers/http-get.ts';
import { readSpiffeBundle } from '../../providers/spiffe-bundle.ts';
import { type BundleStatus, bundleLimits, createBundleStore } from '../../providers/spiffe-bundles.ts';
import { FakeClock } from '../ca-client/fake-clock.ts';
import { makeCertificate } from '../ca-client/helper.ts';

const ca = await makeCertificate({ ca: true, subject: 'O=partner.example' });
const next = await makeCertificate({ ca: true, subject: 'O=partner.example' });
const leaf = await makeCertificate({ uris: ['spiffe://partner.example/a'] });

/** As the standard's example has it: the public key's own members beside its certificate. */
function jwkOf({ pem, der }: { readonly pem: string; readonly der: Uint8Array }): Record<string, unknown> {
  const key = createPublicKey(pem).export({ format: 'jwk' });
  return { ...key, use: 'x509-svid', x5c: [Buffer.from(der).toString('base64')] };
}

function bundle(keys: unknown, more: object = {}): string {
  return JSON.stringify({ spiffe_sequence: 1, spiffe_refresh_hint: 600, keys, ...more });
}

function fingerprints(roots: readonly string[] | null | undefined): readonly string[] {
  return (roots ?? []).map((pem) => new X509Certificate(pem).fingerprint256);
}

const caPrint = new X509Certificate(ca.pem).fingerprint256;
const nextPrint = new X509Certificate(next.pem).fingerprint256;

t.test('a bundle: roots, sequence, refresh hint', async (t) => {
  const jwt = { kty: 'EC', use: 'jwt-svid', kid: 'k', crv: 'P-256', x: 'x', y: 'y' };
  const { roots, sequence, refreshMs } = readSpiffeBundle(bundle([jwt, jwkOf(ca), jwkOf(next), jwkOf(ca)]));
  t.same(fingerprints(roots), [caPrint, nextPrint]);
  t.equal(sequence, 1);
  t.equal(refreshMs, 600_000);
  t.match(readSpiffeBundle(JSON.stringify({ keys: [jwkOf(ca)] })), { sequence: null, refreshMs: null });
});

t.test('what the standard has ignored', async (t) => {
  for (const other of [
    { use: 'wit-svid' },
    { use: undefined },
    { kty: 'AKP' },
    { kty: undefined },
    { use: 'X509-SVID' },
  ]) {
    const { roots } = readSpiffeBundle(bundle([{ ...jwkOf(next), ...other }, jwkOf(ca), 'text', null]));
    t.same(fingerprints(roots), [caPrint], JSON.stringify(other));
  }
  for (const hint of [-1, '60', 1.5, null]) {
    t.equal(
      readSpiffeBundle(bundle([jwkOf(ca)], { spiffe_refresh_hint: hint })).refreshMs,
      null,
      String(hint),
    );
  }
});

t.test('what is no bundle', async (t) => {
  const base64 = Buffer.from(ca.der).toString('base64');
  const cases: readonly (readonly [string, RegExp])[] = [
    ['', /no JSON object/],
    ['<html>', /no JSON object/],
    ['[]', /no JSON object/],
    ['{"keys":[],"keys":[]}', /no JSON object/],
    ['{}', /no list `keys`/],
    ['{"keys":null}', /no list `keys`/],
    [bundle([]), /no key for x509-svid/],
    [bundle([{ ...jwkOf(ca), use: 'jwt-svid' }]), /no key for x509-svid/],
    [bundle([jwkOf(next), { ...jwkOf(ca), x5c: undefined }]), /keys\[1\]\.x5c is not one/],
    [bundle([{ ...jwkOf(ca), x5c: [] }]), /keys\[0\]\.x5c is not one/],
    [bundle([{ ...jwkOf(ca), x5c: [base64, base64] }]), /keys\[0\]\.x5c is not one/],
    [bundle([{ ...jwkOf(ca), x5c: base64 }]), /keys\[0\]\.x5c is not one/],
    [bundle([{ ...jwkOf(ca), x5c: [`${base64}!`] }]), /keys\[0\]\.x5c is not one/],
    [bundle([{ ...jwkOf(ca), x5c: [base64.slice(0, 40)] }]), /keys\[0\]\.x5c cannot be read/],
    [bundle([jwkOf(leaf)]), /keys\[0\]\.x5c is not a CA/],
  ];
  for (const [text, message] of cases) t.throws(() => readSpiffeBundle(text), { message }, String(message));
});

const URL_A = 'https://trust.partner.example/bundle?secret=1';

/** A server in memory: `serve` is what it answers, `fail` why it does not. */
function scene() {
  const clock = new FakeClock();
  const state = {
    serve: bundle([jwkOf(ca)]),
    fail: null as string | null,
    fetches: 0,
    told: [] as BundleStatus[],
  };
  const store = createBundleStore({
    get: async (uri) => {
      state.fetches++;
      if (state.fail !== null) throw new Error(state.fail);
      return { text: state.serve, uri };
    },
    onChange: (status) => state.told.push(status),
    now: () => clock.now(),
    random: () => clock.random(),
    schedule: (task, ms) => clock.setTimeout(task, ms),
  });
  return { clock, state, store };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test('fetched once it is wanted, again by its hint, told where it changes', async (t) => {
  const { clock, state, store } = scene();
  store.retain([URL_A, URL_A]);
  t.equal(store.bundles(URL_A), null, 'nothing yet');
  await settled();
  t.same(fingerprints(store.bundles(URL_A)), [caPrint]);
  t.equal(state.fetches, 1);
  t.match(state.told, [
    { url: 'https://trust.partner.example/bundle', roots: 1, sequence: 1, lastError: null },
  ]);
  await clock.advance(530_000);
  t.equal(state.fetches, 1, 'not before the hint of 600 s, less a tenth');
  await clock.advance(70_000);
  t.equal(state.fetches, 2);
  t.equal(state.told.length, 1, 'nothing new, nothing told');
  state.serve = bundle([jwkOf(ca), jwkOf(next)], { spiffe_sequence: 2 });
  await clock.advance(600_000);
  t.same(fingerprints(store.bundles(URL_A)), [caPrint, nextPrint]);
  t.match(state.told[1], { roots: 2, sequence: 2 });
  store.retain([URL_A]);
  await settled();
  t.equal(state.fetches, 3, 'a new snapshot with the same URL fetches nothing');
  store.retain([]);
  t.equal(store.bundles(URL_A), null, 'nobody wants it any more');
  await clock.advance(86_400_000);
  t.equal(state.fetches, 3);
  store.close();
});

t.test('hints are held to bounds', async (t) => {
  for (const [hint, first] of [
    [0, 60_000],
    [1, 60_000],
    [3_000_000, 86_400_000],
    [undefined, 300_000],
  ] as const) {
    const { clock, state, store } = scene();
    state.serve = bundle([jwkOf(ca)], { spiffe_refresh_hint: hint });
    store.retain([URL_A]);
    await settled();
    const [{ nextFetch } = { nextFetch: 0 }] = store.status();
    const delay = (nextFetch ?? 0) - clock.now();
    t.ok(delay > first * 0.89 && delay <= first, `${hint}: ${delay}`);
    store.close();
  }
});

t.test('while fetches fail the last roots count, and it is tried again, ever more seldom', async (t) => {
  const { clock, state, store } = scene();
  store.retain([URL_A]);
  await settled();
  state.fail = 'connect ECONNREFUSED';
  await clock.advance(600_000);
  t.same(fingerprints(store.bundles(URL_A)), [caPrint]);
  t.match(state.told[1], { roots: 1, failures: 1, lastError: 'connect ECONNREFUSED' });
  await clock.advance(3_600_000);
  const tries = state.fetches;
  t.ok(tries > 12 && tries < 40, `${tries} fetches in an hour of failures`);
  t.same(fingerprints(store.bundles(URL_A)), [caPrint]);
  state.fail = null;
  state.serve = '{"keys":[]}';
  await clock.advance(bundleLimits.retryMostMs);
  t.same(fingerprints(store.bundles(URL_A)), [caPrint], 'an empty bundle is a failure too');
  t.match(state.told.at(-1), { lastError: /no root/ });
  state.serve = bundle([jwkOf(ca)]);
  await clock.advance(bundleLimits.retryMostMs);
  t.match(state.told.at(-1), { failures: 0, lastError: null, roots: 1 }, 'that it is well again is told');
  store.close();
});

t.test('over HTTPS, and the server is verified', async (t) => {
  const { pem: cert, keyPem: key } = await makeCertificate({ dns: ['localhost'], ca: true });
  const server = createServer({ cert, key }, (_, answer) => answer.end(bundle([jwkOf(ca)])));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  const url = `https://localhost:${(server.address() as AddressInfo).port}/bundle`;
  const outcome = (trusted?: readonly string[]): Promise<BundleStatus> =>
    new Promise((resolve) => {
      const store = createBundleStore({ get: createGetter(trusted), onChange: resolve });
      t.teardown(() => store.close());
      store.retain([url]);
    });
  t.match(await outcome([cert]), { roots: 1, lastError: null });
  t.match(await outcome(), { roots: 0, failures: 1, lastError: /self-signed/ });
});
