/** The client of Istio's CA against a real istiod. */
import { X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type IstioCaOptions, istioCaSource } from '../../ca-client/istio-ca.ts';
import { KEY_TYPES } from '../../ca-client/keys.ts';
import { splitCertificates } from '../../ca-client/pem.ts';
import { identityOf } from '../../mesh/identity.ts';
import { embeddedCa, fileWith, openssl, temporaryFolder } from '../ca-client/helper.ts';
import { type ControlPlane, controlPlane } from './control-plane.ts';

const never = new AbortController().signal;
const identity = identityOf('cluster.local', 'oarlock-test', 'orders');

const plane = controlPlane();
if (plane === null) t.plan(0, 'OARLOCK_CONTROL_PLANE_DIR is not set: no real istiod to ask');
else against(plane);

function against(plane: ControlPlane): void {
  const { address, rootFile: caRootFile } = plane;
  const token = (audience?: string) => plane.token('oarlock-test', 'orders', audience);
  const source = (tokenFile: string, more: Partial<IstioCaOptions> = {}) =>
    istioCaSource({ address, caRootFile, tokenFile, identity, ...more });

  t.test('a certificate for the account of a projected token', async (t) => {
    const tokenFile = fileWith(t, await token());
    const credentials = await source(tokenFile, { clusterId: 'Kubernetes' }).obtain(never);
    t.equal(credentials.identity.uri, 'spiffe://cluster.local/ns/oarlock-test/sa/orders');
    const hours = (credentials.notAfter - Date.now()) / 3_600_000;
    t.ok(hours > 23 && hours < 25, `${hours} h`);
    const roots = splitCertificates(readFileSync(caRootFile, 'utf8'), caRootFile);
    t.same(new Set(credentials.rootsPem.map(print)), new Set(roots.map(print)));
    const folder = temporaryFolder(t);
    const [chain, root] = [join(folder, 'chain.pem'), join(folder, 'root.pem')];
    writeFileSync(chain, credentials.chainPem);
    writeFileSync(root, credentials.rootsPem.join(''));
    t.match(await openssl('verify', '-CAfile', root, '-untrusted', chain, chain), /OK/);
  });

  t.test('every type of key, for as long as was asked, and the clock compared', async (t) => {
    const tokenFile = fileWith(t, await token());
    for (const keyType of KEY_TYPES) {
      const credentials = await source(tokenFile, { keyType, ttlMs: 60_000 }).obtain(never);
      const { publicKey } = new X509Certificate(credentials.chainPem);
      const { namedCurve, modulusLength } = publicKey.asymmetricKeyDetails ?? {};
      const curves: Partial<Record<string, string>> = { prime256v1: 'EC-P256', secp384r1: 'EC-P384' };
      t.equal(curves[namedCurve ?? ''] ?? `RSA-${modulusLength}`, keyType);
      const left = (credentials.notAfter - Date.now()) / 1000;
      t.ok(left > 55 && left <= 61, `${left} s`);
      // one machine, one clock; X.509 counts whole seconds
      t.ok(Math.abs(credentials.clockSkewMs ?? Number.NaN) < 3_000, `${credentials.clockSkewMs} ms`);
    }
    const now = () => Date.now() + 45_000;
    const ahead = await source(tokenFile, { now }).obtain(never);
    t.ok(Math.abs((ahead.clockSkewMs ?? Number.NaN) - 45_000) < 3_000, `${ahead.clockSkewMs} ms`);
  });

  t.test('what the embedded CA issues has the fields istiod gives', async (t) => {
    const theirs = await source(fileWith(t, await token())).obtain(never);
    const ours = await (await embeddedCa(t)).issueWithKey(identity, 86_400_000);
    const fields = async (pem: string) => {
      const text = await openssl('x509', '-in', fileWith(t, pem), '-noout', '-text');
      const lines = text.split('\n').map((line) => line.trim());
      const after = (title: string) => lines[lines.findIndex((line) => line.startsWith(title)) + 1];
      return {
        subject: lines.find((line) => line.startsWith('Subject:')),
        usage: after('X509v3 Key Usage: critical'),
        extended: after('X509v3 Extended Key Usage:'),
        constraints: after('X509v3 Basic Constraints: critical'),
        names: after('X509v3 Subject Alternative Name: critical'),
        authority: lines.some((line) => line.startsWith('X509v3 Authority Key Identifier')),
      };
    };
    t.same(
      await fields(ours.certificatePem),
      await fields(splitCertificates(theirs.chainPem, 'chain')[0] ?? ''),
    );
  });

  t.test('refusals come with what to do', async (t) => {
    const good = await token();
    const other = await embeddedCa(t);
    const someone = identityOf('cluster.local', 'oarlock-test', 'payments');
    const rows: readonly (readonly [string, string, Partial<IstioCaOptions>, RegExp])[] = [
      [
        'another audience',
        await token('vault'),
        {},
        /UNAUTHENTICATED: .*; the token in .* is for the audience "vault"; Istio's CA takes istio-ca$/,
      ],
      [
        'an expired token',
        await plane.expired(good),
        {},
        /UNAUTHENTICATED: .*expired at .*: have it renewed$/,
      ],
      ['garbage', 'garbage', {}, /UNAUTHENTICATED: .*check that .* holds a fresh token/],
      ['another signature', good.replace(/[^.]+$/, (text) => 'A'.repeat(text.length)), {}, /UNAUTHENTICATED/],
      [
        'a CA by another root',
        good,
        { caRootFile: other.rootFile },
        /UNAVAILABLE.*does not hold the root of the CA's certificate: take the root from the CA anew$/,
      ],
      ['another account', good, { identity: someone }, /is for .*orders, but this workload is .*payments/],
      ['too long', good, { ttlMs: 86_400_000 * 365 }, /INVALID_ARGUMENT: .*ask for a shorter validity/],
      ['not its CA port', good, { address: plane.env('KUBE_API').slice(8) }, /UNAVAILABLE/],
    ];
    for (const [title, text, more, message] of rows) {
      const tokenFile = fileWith(t, text);
      await t.rejects(source(tokenFile, more).obtain(never), { name: 'CredentialsError', message }, title);
    }
    const tokenFile = fileWith(t, await plane.expired(good));
    const one = source(tokenFile);
    await t.rejects(one.obtain(never), /UNAUTHENTICATED/);
    writeFileSync(tokenFile, good);
    t.equal((await one.obtain(never)).identity.uri, identity.uri, 'with the new token at once');
  });
}

function print(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}
