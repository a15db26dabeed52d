/** Who answers must be who the registry expects: a valid certificate of the wrong identity is refused, and so told. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer as createTcpServer, type Server } from 'node:net';
import { join } from 'node:path';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import t from 'tap';
import { listen } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { egress, hostOf, sidecar, workload } from './harness/resources.ts';
import { type Leaf, spiffe, TestCa } from './harness/test-ca.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

const ours = await TestCa.create('O=mesh root');
const theirs = await TestCa.create('O=public root');
const mesh = await Mesh.create(t, '');
const tlsDir = join(mesh.dir, 'tls');
mkdirSync(tlsDir);
const tlsFile = (name: string, text: string): string => {
  const path = join(tlsDir, name);
  writeFileSync(path, text);
  return path;
};

/** An endpoint that answers over TLS with this certificate and tells who called. */
async function endpoint(leaf: Leaf, options: TlsOptions = {}, ca = leaf.ca): Promise<number> {
  const tls = { cert: leaf.cert, key: leaf.key, ca, requestCert: true, rejectUnauthorized: true, ...options };
  const server = createHttpsServer(tls, (request, response) => {
    const { subjectaltname } = (request.socket as import('node:tls').TLSSocket).getPeerCertificate();
    response.end(subjectaltname ?? 'nobody');
  });
  return (await listen(t, server)).port;
}

const orders = spiffe('shop', 'orders');
const good = await mesh.ca.leaf(orders);
const client = await theirs.leaf(null, { dns: ['client.example'] });
const server = await theirs.leaf(null, { dns: ['api.example'] });
const ca = tlsFile('ca.pem', theirs.rootPem);
const later = join(tlsDir, 'later.pem');

const hellos: Buffer[] = [];
const listener: Server = createTcpServer((socket) => {
  socket.on('error', () => {});
  socket.once('data', (chunk: Buffer) => {
    hellos.push(chunk);
    socket.destroy();
  });
});

/** One service a row: an egress listener, a ServiceEntry with one endpoint, maybe a DestinationRule. */
interface Service {
  readonly name: string;
  readonly endpoint: number;
  /** DestinationRule `tls`, in flow style. */
  readonly tls?: string;
  readonly protocol?: string;
  readonly external?: boolean;
}

const special = await mesh.ca.leaf(spiffe('shop', 'special'));
const files = (cert: string, key: string): string =>
  `clientCertificate: ${cert}, privateKey: ${key}, caCertificates: ${ca}`;
const clientCert = tlsFile('client.pem', client.cert);
const clientKey = tlsFile('client.key', client.key);
const mallory = await mesh.ca.leaf(spiffe('shop', 'mallory'));
const tcpImpostor = createTlsServer(
  { cert: mallory.cert, key: mallory.key, ALPNProtocols: ['istio'] },
  (socket) => socket.end('never to be seen'),
);

const services: readonly Service[] = [
  { name: 'right', endpoint: await endpoint(good) },
  { name: 'impostor', endpoint: await endpoint(mallory) },
  { name: 'impostor-tcp', endpoint: (await listen(t, tcpImpostor)).port, protocol: 'TCP' },
  { name: 'other-ca', endpoint: await endpoint(await ours.leaf(orders), {}, mesh.ca.rootPem) },
  {
    name: 'two-uris',
    endpoint: await endpoint(await mesh.ca.leaf(null, { uris: [orders, spiffe('shop', 'x')] })),
  },
  {
    name: 'replaced',
    endpoint: await endpoint(special),
    tls: `{mode: ISTIO_MUTUAL, subjectAltNames: ["${spiffe('shop', 'special')}"]}`,
  },
  {
    name: 'replaced-away',
    endpoint: await endpoint(good),
    tls: `{mode: ISTIO_MUTUAL, subjectAltNames: ["${spiffe('shop', 'special')}"]}`,
  },
  {
    name: 'elsewhere',
    endpoint: await endpoint(await mesh.ca.leaf(spiffe('shop', 'orders', 'old.example'))),
  },
  {
    name: 'disable',
    endpoint: (
      await listen(
        t,
        createHttpServer((_, response) => response.end('plaintext')),
      )
    ).port,
    tls: '{mode: DISABLE}',
  },
  {
    name: 'simple',
    endpoint: await endpoint(server, { requestCert: false }),
    tls: `{mode: SIMPLE, sni: api.example, caCertificates: ${ca}}`,
    external: true,
  },
  {
    name: 'simple-name',
    endpoint: await endpoint(server, { requestCert: false }),
    tls: `{mode: SIMPLE, caCertificates: ${ca}}`,
    external: true,
  },
  {
    name: 'simple-san',
    endpoint: await endpoint(server, { requestCert: false }),
    tls: `{mode: SIMPLE, sni: other.example, subjectAltNames: [api.example], caCertificates: ${ca}}`,
    external: true,
  },
  {
    name: 'simple-ca',
    endpoint: await endpoint(await ours.leaf(null, { dns: ['api.example'] }), { requestCert: false }),
    tls: `{mode: SIMPLE, sni: api.example, caCertificates: ${ca}}`,
    external: true,
  },
  {
    name: 'mutual',
    endpoint: await endpoint(server),
    tls: `{mode: MUTUAL, sni: api.example, ${files(clientCert, clientKey)}}`,
    external: true,
  },
  {
    name: 'missing',
    endpoint: await endpoint(server),
    tls: `{mode: MUTUAL, sni: api.example, ${files(later, clientKey)}}`,
    external: true,
  },
  { name: 'hello', endpoint: (await listen(t, listener)).port },
];
const free = await freePorts(services.length);
const portOf = (name: string): number => free[services.findIndex((one) => one.name === name)] ?? 0;

mesh.write(
  'mesh.yaml',
  [workload('web'), sidecar('web', { egress: services.map(egressOf) }), ...services.map(entryOf)].join(
    '---\n',
  ),
);
const web = await mesh.sidecar('web');
const body = async (name: string): Promise<string> => (await call(portOf(name), '/')).body.toString();

t.test('who is expected is reached', async (t) => {
  const caller = `URI:${spiffe('shop', 'web')}`;
  const rows = [
    { name: 'right', says: caller },
    { name: 'replaced', says: caller },
    { name: 'disable', says: 'plaintext' },
    { name: 'simple', says: 'nobody' },
    { name: 'simple-san', says: 'nobody' },
    { name: 'mutual', says: 'DNS:client.example' },
  ];
  for (const { name, says } of rows) t.equal(await body(name), says, name);
});

t.test('who is not expected is refused: 503, with both names in the log', async (t) => {
  const rows = [
    { name: 'impostor', reason: 'identity_mismatch', detail: [orders, spiffe('shop', 'mallory')] },
    { name: 'replaced-away', reason: 'identity_mismatch', detail: [spiffe('shop', 'special'), orders] },
    {
      name: 'elsewhere',
      reason: /identity_mismatch|untrusted_trust_domain/,
      detail: [spiffe('shop', 'orders', 'old.example')],
    },
    { name: 'other-ca', reason: 'untrusted_issuer', detail: [] },
    { name: 'two-uris', reason: 'bad_spiffe_id', detail: [] },
    { name: 'simple-name', reason: 'identity_mismatch', detail: ['simple-name.shop', 'api.example'] },
    { name: 'simple-ca', reason: 'untrusted_issuer', detail: [] },
  ];
  for (const { name, reason, detail } of rows) {
    const { mark } = web;
    const { status } = await call(portOf(name), '/');
    t.equal(status, 503, name);
    const line = await web.logged({ reason, direction: 'outbound' }, mark);
    t.match(line.msg, /TLS/, `${name}: the line says TLS`);
    for (const part of detail) t.ok(String(line.detail).includes(part), `${name}: the log says ${part}`);
    const accessed = await web.accessed({ response_code: 503 }, mark);
    t.match(accessed.response_flags, /UF/, `${name}: upstream failure`);
  }
  t.ok((await web.refusals('identity_mismatch', 'outbound')) >= 3);
});

t.test('over TCP the refusal is a reset, and not a byte of the impostor gets through', async (t) => {
  const { mark } = web;
  const peer = await open(t, portOf('impostor-tcp'));
  peer.write('hello');
  t.equal(await peer.ended(), 'ECONNRESET');
  t.equal(peer.text, '');
  const line = await web.logged({ reason: 'identity_mismatch', port: portOf('impostor-tcp') }, mark);
  t.match(line.detail, /expected .*orders.*got .*mallory/);
});

t.test("a DestinationRule's missing files are told and disturb nothing else", async (t) => {
  const { mark } = web;
  t.equal((await call(portOf('missing'), '/')).status, 503);
  const line = await web.logged({ reason: 'bad_tls_files' }, mark);
  t.match(line.detail, /later\.pem/, 'names the file');
  t.equal(await web.refusals('bad_tls_files', 'outbound'), 1);
  t.equal(await body('right'), `URI:${spiffe('shop', 'web')}`);
  t.equal(await body('mutual'), 'DNS:client.example');
  writeFileSync(later, client.cert);
  await until('the file to be taken', async () => (await body('missing')) === 'DNS:client.example');
});

t.test("what we offer is Istio's: SNI, ALPN, and the hybrid group first", async (t) => {
  t.equal((await call(portOf('hello'), '/')).status, 503);
  const [hello] = hellos;
  t.ok(hello?.includes(`outbound_.${portOf('hello')}_._.hello.shop.svc.cluster.local`), 'SNI');
  t.ok(hello?.includes('\x0eistio-http/1.1\x05istio'), 'ALPN');
  // supported_groups (10): four of them, X25519MLKEM768 (0x11ec) first.
  t.ok(hello?.includes(Buffer.from('000a000a000811ec', 'hex')), 'X25519MLKEM768 first');
});

t.test('an alias of the trust domain makes its identities expected', async (t) => {
  t.equal((await call(portOf('elsewhere'), '/')).status, 503);
  await mesh.change('meshconfig.yaml', 'kind: MeshConfig\ntrustDomainAliases: [old.example]\n', [web]);
  t.equal(await body('elsewhere'), `URI:${spiffe('shop', 'web')}`);
  t.equal((await call(portOf('impostor'), '/')).status, 503, 'an impostor is still one');
});

function egressOf({ name, protocol = 'HTTP' }: Service): string {
  return egress({ number: portOf(name), name: protocol.toLowerCase(), protocol }, hostOf(name));
}

function entryOf({ name, endpoint, tls, protocol = 'HTTP', external = false }: Service): string {
  const rule = `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ${name}, namespace: shop}
spec: {host: ${name}.shop.svc.cluster.local, trafficPolicy: {tls: ${tls}}}
`;
  return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ${name}, namespace: shop}
spec:
  hosts: [${name}.shop.svc.cluster.local]
  location: ${external ? 'MESH_EXTERNAL' : 'MESH_INTERNAL'}
  resolution: STATIC
  ports: [{number: ${portOf(name)}, name: ${protocol.toLowerCase()}, protocol: ${protocol}}]
  endpoints: [{address: 127.0.0.1, ports: {${protocol.toLowerCase()}: ${endpoint}}, ${external ? '' : 'serviceAccount: orders'}}]
${tls === undefined ? '' : rule}`;
}
