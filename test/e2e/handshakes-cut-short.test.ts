/** An endpoint that stops just then cuts handshakes: nothing was said on them, so another endpoint has what was asked. */
import { createServer as createHttps } from 'node:https';
import { createServer, type Socket } from 'node:net';
import { createServer as createTls, type TLSSocket } from 'node:tls';
import t from 'tap';
import { listen } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { egress, hostOf, service, sidecar, workload } from './harness/resources.ts';
import { spiffe } from './harness/test-ca.ts';

/** Half of the calls meet the endpoint that cuts them first: this many all miss it once in 2^20. */
const CALLS = 20;
const RULE = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec: {host: ${hostOf('orders')}, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
`;

const cuts: readonly { readonly title: string; readonly cut: (socket: Socket) => void }[] = [
  // What a kernel does with what waits at a port that is closed.
  { title: 'reset', cut: (socket) => socket.resetAndDestroy() },
  { title: 'closed', cut: (socket) => socket.destroy() },
];

for (const { title, cut } of cuts) {
  t.test(`${title} behind the ClientHello`, async (t) => {
    const [http = 0, tcp = 0] = await freePorts(2);
    const mesh = await Mesh.create(t, '');
    const leaf = await mesh.ca.leaf(spiffe('shop', 'orders'));
    const tls = { ...leaf, requestCert: true, ALPNProtocols: ['istio-http/1.1', 'istio'] };
    const web = await listen(
      t,
      createHttps(tls, (_request, response) => response.end('ok')),
    );
    const echo = await listen(
      t,
      createTls(tls, (stream: TLSSocket) => stream.pipe(stream)),
    );
    let met = 0;
    const stopping = await listen(
      t,
      createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => {
          met++;
          cut(socket);
        });
      }),
    );
    const ports = [
      { number: http, name: 'http', protocol: 'HTTP' },
      { number: tcp, name: 'tcp', protocol: 'TCP' },
    ];
    const endpoints = [
      { http: web.port, tcp: echo.port },
      { http: stopping.port, tcp: stopping.port },
    ].map(({ http, tcp }) => ({ address: '127.0.0.1', serviceAccount: 'orders', ports: { http, tcp } }));
    const egresses = ports.map((port) => egress(port, hostOf('orders')));
    const resources = [
      service('orders', ports, JSON.stringify(endpoints)),
      RULE,
      workload('web'),
      sidecar('web', { egress: egresses }),
    ];
    mesh.write('mesh.yaml', resources.join('---\n'));
    const { stderr } = (await mesh.sidecar('web')).process;
    for (let i = 0; i < CALLS; i++)
      t.equal((await call(http, '/', { method: 'POST', body: 'x' })).status, 200);
    const before = met;
    t.ok(before > 0, 'HTTP met it');
    for (let i = 0; i < CALLS; i++) {
      const peer = await open(t, tcp);
      peer.write('hello');
      t.equal(await peer.until('the echo', (text) => text === 'hello'), 'hello');
      peer.end();
    }
    t.ok(met > before, 'TCP met it');
    t.same(stderr.matching({ reason: 'tls_handshake_failed' }), []);
  });
}
