/** The webhook over TLS: what it answers, and what it does not let happen. */

import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { connect as dial, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect } from 'node:tls';
import t, { type Test } from 'tap';
import { bundleWith } from '../../cli/webhook-ca-bundle.ts';
import { selfSigned } from '../../cli/webhook-certificate.ts';
import { startWebhookServer } from '../../cli/webhook-server.ts';
import { DEFAULT_INJECT_CONFIG } from '../../inject/inject-config.ts';
import { createLogger } from '../../telemetry/log.ts';
import { temporaryFolder } from '../ca-client/helper.ts';
import { start } from '../e2e/harness/processes.ts';
import { until } from '../e2e/harness/wait.ts';

interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked into by tests that know them
  readonly body: any;
}

interface Asking {
  readonly port: number;
  readonly ca: string;
}

function ask(
  { port, ca }: Asking,
  path: string,
  body: string | null,
  headers: Readonly<Record<string, string>> = { 'content-type': 'application/json' },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const method = body === null ? 'GET' : 'POST';
    const asked = request(
      { host: '127.0.0.1', port, path, ca, method, headers, agent: false },
      (response) => {
        let text = '';
        response.on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
      },
    );
    asked.on('error', reject);
    asked.end(body);
  });
}

const pod = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { generateName: 'web-' },
  spec: { containers: [{ name: 'web' }] },
};

function review(object: object = pod, more: object = {}): string {
  const kind = { group: '', version: 'v1', kind: 'Pod' };
  const asked = { uid: 'u-1', kind, operation: 'CREATE', namespace: 'shop', object, ...more };
  return JSON.stringify({ apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', request: asked });
}

async function server(t: Test): Promise<Asking> {
  const keys = await selfSigned(['127.0.0.1'], Date.now());
  const running = await startWebhookServer({
    listen: { host: '127.0.0.1', port: 0 },
    keys,
    config: () => DEFAULT_INJECT_CONFIG,
    ready: () => true,
    log: createLogger('silent'),
  });
  t.teardown(() => running.close());
  return { port: running.address.port, ca: keys.caPem };
}

t.test('reviews', async (t) => {
  const at = await server(t);
  const { status, body } = await ask(at, '/inject', review());
  t.equal(status, 200);
  t.match(body, { apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview' });
  t.match(body.response, { uid: 'u-1', allowed: true, patchType: 'JSONPatch' });
  const patch = JSON.parse(Buffer.from(body.response.patch, 'base64').toString('utf8'));
  t.same(
    patch.map(({ op, path }: { op: string; path: string }) => `${op} ${path}`).toSorted(),
    ['add /metadata/annotations', 'add /metadata/labels', 'add /spec/initContainers', 'add /spec/volumes'],
    'no more than is new',
  );
  const cluster = await ask(at, '/inject/cluster/east', review());
  t.match(
    Buffer.from(cluster.body.response.patch, 'base64').toString('utf8'),
    /"ISTIO_META_CLUSTER_ID","value":"east"/,
  );

  const annotated = (annotations: object) => ({ ...pod, metadata: { name: 'x', annotations } });
  const unpatched: readonly (readonly [what: string, body: string])[] = [
    ['not wanted', review(annotated({ 'sidecar.istio.io/inject': 'false' }))],
    ['an update', review(pod, { operation: 'UPDATE' })],
    ['another kind', review(pod, { kind: { group: 'apps', version: 'v1', kind: 'Deployment' } })],
    ['an ephemeral container', review(pod, { subResource: 'ephemeralcontainers' })],
    ["Kubernetes' own namespace", review(pod, { namespace: 'kube-system' })],
  ];
  for (const [what, body] of unpatched) {
    const { response } = (await ask(at, '/inject', body)).body;
    t.match(response, { uid: 'u-1', allowed: true }, what);
    t.equal(response.patch, undefined, what);
  }
  const refused = (await ask(at, '/inject', review(annotated({ 'sidecar.istio.io/proxyCPU': 'x' })))).body
    .response;
  t.match(refused, {
    uid: 'u-1',
    allowed: false,
    status: { code: 400, message: /proxyCPU must be a quantity/ },
  });
});

t.test('what is no review', async (t) => {
  const at = await server(t);
  const rows: readonly (readonly [
    what: string,
    path: string,
    body: string | null,
    type: string,
    status: number,
  ])[] = [
    ['another path', '/', review(), 'application/json', 404],
    ['a path that begins alike', '/injected', review(), 'application/json', 404],
    ['GET', '/inject', null, 'application/json', 405],
    ['another type', '/inject', review(), 'text/plain', 415],
    ['no JSON', '/inject', '{', 'application/json', 400],
    ['no object', '/inject', 'null', 'application/json', 400],
    ['an older version', '/inject', review().replace('.io/v1"', '.io/v1beta1"'), 'application/json', 400],
    ['no uid', '/inject', review(pod, { uid: '' }), 'application/json', 400],
    ['too long', '/inject', ' '.repeat(3 * 1024 * 1024 + 1), 'application/json', 413],
  ];
  for (const [what, path, body, type, status] of rows) {
    const answer = await ask(at, path, body, { 'content-type': type }).catch(
      (error: NodeJS.ErrnoException) => error.code,
    );
    // Whoever still writes when the answer comes may see the connection end instead.
    if (answer === 'EPIPE' || answer === 'ECONNRESET') t.equal(status, 413, what);
    else t.equal((answer as Answer).status, status, what);
  }
  t.match((await ask(at, '/healthz', null)).body, { ready: true });
});

t.test('a pod of odd shapes is answered, and the server lives on', async (t) => {
  const at = await server(t);
  for (const object of [
    5,
    [],
    { spec: 5 },
    { spec: { containers: [5] } },
    { metadata: [], spec: { containers: [] } },
  ]) {
    const { status, body } = await ask(at, '/inject', review(object as object));
    t.equal(status, 200);
    t.equal(body.response.allowed, false, JSON.stringify(object));
  }
});

t.test('strangers who hold connections do not shut out the API server', async (t) => {
  const at = await server(t);
  const held: Socket[] = [];
  t.teardown(() => {
    for (const socket of held) socket.destroy();
  });
  const hold = async (localAddress: string, tls: boolean) => {
    const where = { host: '127.0.0.1', port: at.port, localAddress };
    const socket = tls ? connect({ ...where, ca: at.ca }) : dial(where);
    socket.on('error', () => {});
    held.push(socket);
    await once(socket, tls ? 'secureConnect' : 'connect');
  };
  // Of one that waits for nothing but its handshake, of one that has made it, and of many.
  for (let n = 0; n < 70; n++) await hold('127.0.0.2', false);
  for (let n = 0; n < 70; n++) await hold('127.0.0.3', true);
  for (let n = 0; n < 300; n++) await hold(`127.0.3.${n % 250}`, false);
  t.equal((await ask(at, '/inject', review())).body.response.allowed, true);
  await until('the oldest have made room', () => held.filter(({ closed }) => closed).length >= 440 - 256);
});

t.test('files are watched, and a pair that does not fit is not used', async (t) => {
  const folder = temporaryFolder(t);
  const [cert, key] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
  const write = (pair: { cert: string; key: string }) => {
    writeFileSync(cert, pair.cert);
    writeFileSync(key, pair.key);
  };
  const [first, second, third] = await Promise.all(
    [1, 2, 3].map(() => selfSigned(['127.0.0.1'], Date.now())),
  );
  if (first === undefined || second === undefined || third === undefined) throw new Error('three were made');
  write(first);
  const webhook = start(t, ['webhook', '--listen', '127.0.0.1:0', '--tls-cert', cert, '--tls-key', key]);
  const port = Number(
    String((await webhook.stdout.next({ ready: true })).address)
      .split(':')
      .at(-1),
  );
  t.equal((await ask({ port, ca: first.caPem }, '/healthz', null)).status, 200);
  write({ cert: third.cert, key: second.key });
  await webhook.stderr.next({ event: 'own-certificate', level: 'warn' });
  t.equal((await ask({ port, ca: first.caPem }, '/healthz', null)).status, 200, 'the old one stays');
  write(second);
  await until(
    'the new certificate',
    async () => (await ask({ port, ca: second.caPem }, '/healthz', null)).status === 200,
  );
  webhook.signal('SIGTERM');
  t.same(await webhook.end(), { code: 0, signal: null });
});

t.test('only TLS 1.2 and later', async (t) => {
  const { port, ca } = await server(t);
  const failed = await new Promise<boolean>((resolve) => {
    const socket = connect({ host: '127.0.0.1', port, ca, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' }, () =>
      resolve(false),
    );
    socket.on('error', () => resolve(true));
  });
  t.ok(failed);
});

t.test('a bundle of several', async (t) => {
  const now = Date.now();
  const [a, b] = await Promise.all([selfSigned(['x'], now), selfSigned(['x'], now)]);
  const pem = (one: { caPem: string }) => one.caPem.trim();
  t.equal(bundleWith('', a.caPem, now), `${pem(a)}\n`);
  t.equal(bundleWith(a.caPem, a.caPem, now), `${pem(a)}\n`, 'once');
  t.equal(bundleWith(a.caPem, b.caPem, now), `${pem(a)}\n${pem(b)}\n`, "a replica's stays");
  t.equal(bundleWith(a.caPem, b.caPem, now + 91 * 86_400_000), `${pem(b)}\n`, 'what has ended goes');
  t.equal(bundleWith('no certificate', b.caPem, now), `${pem(b)}\n`);
  const many = await Promise.all(Array.from({ length: 9 }, () => selfSigned(['x'], now)));
  const full = bundleWith(many.map(pem).join('\n'), a.caPem, now);
  t.equal(full.match(/BEGIN/g)?.length, 8);
  t.ok(full.includes(pem(a)));
});
