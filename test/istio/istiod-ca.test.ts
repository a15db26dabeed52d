/**
 * The client of Istio's CA against a real istiod. Runs where OARLOCK_CONTROL_PLANE_DIR names a folder whose `env`
 * file tells of a running one (KUBE_API, KUBE_TOKEN, ISTIOD_SECURE, ISTIOD_ROOT).
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import t from 'tap';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import { splitCertificates } from '../../ca-client/pem.ts';
import { identityOf } from '../../mesh/identity.ts';
import { embeddedCa, fileWith, openssl, temporaryFolder } from '../ca-client/helper.ts';

const dir = process.env.OARLOCK_CONTROL_PLANE_DIR;
const never = new AbortController().signal;
const identity = identityOf('cluster.local', 'oarlock-test', 'orders');

if (dir === undefined) {
  t.plan(0, 'OARLOCK_CONTROL_PLANE_DIR is not set: no real istiod to ask');
} else {
  const env = readEnv(join(dir, 'env'));
  const address = env('ISTIOD_SECURE');
  const caRootFile = env('ISTIOD_ROOT');

  t.test('a certificate for the account of a projected token', async (t) => {
    const tokenFile = fileWith(t, await serviceAccountToken(env, 'istio-ca'));
    const source = istioCaSource({ address, caRootFile, tokenFile, identity, clusterId: 'Kubernetes' });
    const credentials = await source.obtain(never);
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

  t.test('what the embedded CA issues has the fields istiod gives', async (t) => {
    const tokenFile = fileWith(t, await serviceAccountToken(env, 'istio-ca'));
    const theirs = await istioCaSource({ address, caRootFile, tokenFile, identity }).obtain(never);
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
    const good = fileWith(t, await serviceAccountToken(env, 'istio-ca'));
    const wrongAudience = fileWith(t, await serviceAccountToken(env, 'vault'));
    const asked = (more: object) =>
      istioCaSource({ address, caRootFile, tokenFile: good, identity, ...more }).obtain(never);
    const unauthenticated = /UNAUTHENTICATED.*check that .* holds a fresh token/;
    await t.rejects(asked({ tokenFile: wrongAudience }), { message: unauthenticated });
    await t.rejects(asked({ tokenFile: fileWith(t, 'garbage') }), { message: unauthenticated });
    const other = await embeddedCa(t);
    await t.rejects(asked({ caRootFile: other.rootFile }), { message: /UNAVAILABLE.*holds the root/ });
    const someone = identityOf('cluster.local', 'oarlock-test', 'payments');
    await t.rejects(asked({ identity: someone }), {
      message: /is for .*orders, but this workload is .*payments/,
    });
  });
}

function print(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/** A file of `export NAME=value NAME=value` lines. */
function readEnv(file: string): (name: string) => string {
  const text = readFileSync(file, 'utf8');
  return (name) => {
    const value = new RegExp(`\\b${name}=(\\S+)`).exec(text)?.[1];
    if (value === undefined) throw new Error(`${file} does not tell ${name}`);
    return value;
  };
}

/** A projected token as the kubelet gets it, from the TokenRequest API; namespace and account are made first. */
async function serviceAccountToken(env: (name: string) => string, audience: string): Promise<string> {
  const { namespace, serviceAccount } = identity;
  const accounts = `/api/v1/namespaces/${namespace}/serviceaccounts`;
  await post(env, '/api/v1/namespaces', { metadata: { name: namespace } });
  await post(env, accounts, { metadata: { name: serviceAccount } });
  const spec = { audiences: [audience], expirationSeconds: 3600 };
  const answer = await post(env, `${accounts}/${serviceAccount}/token`, { spec });
  return JSON.parse(answer).status.token;
}

function post(env: (name: string) => string, path: string, body: object): Promise<string> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${env('KUBE_TOKEN')}`, 'content-type': 'application/json' };
    // the test API server's certificate is its own
    const options = { method: 'POST', headers, rejectUnauthorized: false };
    const call = request(new URL(path, env('KUBE_API')), options, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
    });
    call.on('error', reject);
    call.end(JSON.stringify(body));
  });
}
