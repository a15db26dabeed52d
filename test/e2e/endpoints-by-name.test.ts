/** Endpoints that are host names, callers' own destinations, and Kubernetes' Services and Pods, through running sidecars. */
import t from 'tap';
import { httpApp, tcpApp } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { egress, hostOf, ingress, sidecar } from './harness/resources.ts';
import { peerAuthentication } from './harness/shop.ts';

t.setTimeout(180_000);

const app = await httpApp(t);
let leaked = 0;
const silent = await tcpApp(t, (socket) => {
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => {
    leaked += chunk.length;
  });
});
const mesh = await Mesh.create(t, '');
const [named = 0, own = 0, nowhere = 0, secret = 0, kube = 0, ordersInbound = 0] = await freePorts(6);

function entry(name: string, host: string, spec: string): string {
  return `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ${name}, namespace: shop}
spec:
  hosts: ["${host}"]
${spec}
`;
}

const http = (port: number, target: number): string =>
  `  ports: [{number: ${port}, name: http, protocol: HTTP, targetPort: ${target}}]`;
const HTTP = { name: 'http', protocol: 'HTTP' };
const egressTo = (port: number, host: string): string => egress({ number: port, ...HTTP }, host);

function pod(name: string): string {
  return `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {app: ${name}, security.istio.io/tlsMode: istio}}
spec:
  serviceAccountName: ${name}
  containers: [{name: app, image: ${name}, ports: [{name: web, containerPort: ${ordersInbound}}]}]
status: {podIP: 127.0.0.1, phase: Running, conditions: [{type: Ready, status: "True"}]}
`;
}

mesh.write(
  'mesh.yaml',
  `${entry('named', 'named.example.com', `  resolution: DNS\n${http(named, app.port)}\n  endpoints: [{address: localhost}]`)}
${entry('own', 'localhost', http(own, app.port))}
${entry('nowhere', 'nowhere.invalid', `  resolution: DNS\n${http(nowhere, app.port)}`)}
${entry('secret', 'secret.example.com', `  resolution: STATIC\n${http(secret, silent.port)}\n  endpoints: [{address: 127.0.0.1}]`)}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secret, namespace: shop}
spec:
  host: secret.example.com
  trafficPolicy: {tls: {mode: SIMPLE, credentialName: api-certs}}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: ${kube}, targetPort: web}]}
${pod('orders')}${pod('web')}---
${peerAuthentication('STRICT')}---
${sidecar('orders', { ingress: [ingress({ number: ordersInbound, ...HTTP }, app.port)] })}---
${sidecar('web', {
  egress: [
    egressTo(named, 'named.example.com'),
    egressTo(own, '*'),
    egressTo(nowhere, 'nowhere.invalid'),
    egressTo(secret, 'secret.example.com'),
    egressTo(kube, hostOf('orders')),
  ],
})}`,
);
await mesh.sidecar('orders');
const web = await mesh.sidecar('web');

t.test(
  'a name of the endpoint is resolved, and the next of its addresses taken where one does not answer',
  async (t) => {
    for (let i = 0; i < 3; i++) t.equal((await call(named, '/status/204')).status, 204);
  },
);

t.test('resolution NONE: where the caller means it to go', async (t) => {
  // The listener reaches every service with its port: there is one.
  t.equal((await call(own, '/status/204', { headers: { host: `localhost:${own}` } })).status, 204);
});

t.test('a name that has no address is 503, and named in the log', async (t) => {
  const { mark } = web;
  t.equal((await call(nowhere, '/')).status, 503);
  const line = await web.logged({ reason: 'connect_failed', direction: 'outbound' }, mark);
  t.match(line.detail, /nowhere\.invalid: E/);
});

t.test('a secret that cannot be read opens nothing', async (t) => {
  const { mark } = web;
  t.equal((await call(secret, '/')).status, 503);
  const line = await web.logged({ reason: 'bad_tls_files' }, mark);
  t.match(line.detail, /credentialName api-certs/);
  t.equal(leaked, 0, 'not a byte');
});

t.test("a Pod's sidecar reaches another Pod's by its Service, over mutual TLS", async (t) => {
  t.equal(web.identity, 'spiffe://cluster.local/ns/shop/sa/web');
  const { mark } = web;
  const answer = await call(kube, '/');
  t.equal(answer.status, 200);
  t.match(
    answer.body.toString(),
    /spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web/,
    'the app is told who called',
  );
  const line = await web.accessed({ response_code: 200 }, mark);
  t.match(JSON.stringify(line), /orders\.shop\.svc\.cluster\.local/);
});
