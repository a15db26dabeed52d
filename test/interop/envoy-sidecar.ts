/** A real Envoy as a sidecar: the listeners and clusters that istiod gives one, with the same ALPNs, SNI and name checks. */
import { spawn } from 'node:child_process';
import { createWriteStream, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Test } from 'tap';
import { until } from '../e2e/harness/wait.ts';

/** `http`: HTTP/1.1 upstream; `grpc`: HTTP/2 upstream, whatever the downstream speaks. */
export type Carried = 'http' | 'grpc' | 'tcp';

/** A port of Envoy's workload: mTLS in front, the app behind. */
export interface EnvoyInbound {
  readonly port: number;
  readonly carried: Carried;
  readonly app: number;
}

/** A port where the app beside Envoy dials; a sidecar behind it. */
export interface EnvoyOutbound {
  readonly port: number;
  readonly carried: Carried;
  readonly upstream: number;
  /** The service's host and port: they make the SNI. */
  readonly host: string;
  readonly servicePort: number;
  /** The only identity it takes there. */
  readonly expected: string;
}

export interface EnvoyOptions {
  readonly binary: string;
  /** Folder for its config and log. */
  readonly dir: string;
  /** Of its certificate, under Istio's names. */
  readonly certDir: string;
  readonly inbound: readonly EnvoyInbound[];
  readonly outbound: readonly EnvoyOutbound[];
}

export type Json = Readonly<Record<string, unknown>>;

const TYPE = 'type.googleapis.com/envoy.extensions';
export const HTTP_OPTIONS = 'envoy.extensions.upstreams.http.v3.HttpProtocolOptions';

/** `mtlsHTTP11ALPN`, `mtlsHTTP2ALPN`: what the filter `istio.alpn` puts in place of a cluster's own. */
const CLIENT_ALPN: Readonly<Record<Carried, readonly string[]>> = {
  http: ['istio-http/1.1', 'istio', 'http/1.1'],
  grpc: ['istio-h2', 'istio', 'h2'],
  // `ALPNInMeshWithMxc`, of a cluster without that filter in front.
  tcp: ['istio-peer-exchange', 'istio'],
};
/** `ALPNHttp` and `ALPNDownstreamWithMxc`: what a server answers with, never `istio`. */
const SERVER_ALPN: Readonly<Record<Carried, readonly string[]>> = {
  http: ['h2', 'http/1.1'],
  grpc: ['h2', 'http/1.1'],
  tcp: ['istio-peer-exchange', 'h2', 'http/1.1'],
};

export function startEnvoy(t: Test, options: EnvoyOptions): Promise<void> {
  const { binary, dir, inbound, outbound } = options;
  const ports = [...inbound, ...outbound].map(({ port }) => port);
  return runEnvoy(t, { binary, dir, config: configOf(options), ports });
}

/** Starts Envoy and waits until it accepts at all `ports`; it is gone when the test is over. */
export async function runEnvoy(
  t: Test,
  { binary, dir, config, ports }: { binary: string; dir: string; config: Json; ports: readonly number[] },
): Promise<void> {
  const file = join(dir, 'envoy.json');
  writeFileSync(file, JSON.stringify(config));
  const args = ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'warn'];
  const envoy = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  envoy.stderr.pipe(createWriteStream(join(dir, 'envoy.log')));
  t.teardown(() => envoy.kill('SIGKILL'));
  for (const port of ports) await until(`Envoy on port ${port}`, () => accepts(port));
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

function configOf({ certDir, inbound, outbound }: EnvoyOptions): Json {
  return {
    static_resources: {
      listeners: [
        ...inbound.map(({ port, carried }) => ({
          name: `in-${port}`,
          address: address(port),
          listener_filters: [typed('tls', 'filters.listener.tls_inspector.v3.TlsInspector', {})],
          // `inboundStrictHTTPFilterChainMatchOptions`, `inboundStrictTCPFilterChainMatchOptions`.
          filter_chains: [
            {
              filter_chain_match: { transport_protocol: 'tls' },
              transport_socket: typed('tls', 'transport_sockets.tls.v3.DownstreamTlsContext', {
                require_client_certificate: true,
                common_tls_context: tlsContext(certDir, SERVER_ALPN[carried], {
                  // The trust domain's prefix, as `ApplyToCommonTLSContext` has it.
                  prefix: 'spiffe://cluster.local/',
                }),
              }),
              filters: [
                networkFilter(carried, `app-${port}`, {
                  forward_client_cert_details: 'SANITIZE_SET',
                  set_current_client_cert_details: { uri: true },
                }),
              ],
            },
          ],
        })),
        ...outbound.map(({ port, carried }) => ({
          name: `out-${port}`,
          address: address(port),
          filter_chains: [{ filters: [networkFilter(carried, `mesh-${port}`, {})] }],
        })),
      ],
      clusters: [
        ...inbound.map(({ port, carried, app }) => cluster(`app-${port}`, app, carried, {})),
        ...outbound.map(({ port, carried, upstream, host, servicePort, expected }) =>
          cluster(`mesh-${port}`, upstream, carried, {
            transport_socket: typed('tls', 'transport_sockets.tls.v3.UpstreamTlsContext', {
              sni: `outbound_.${servicePort}_._.${host}`,
              common_tls_context: tlsContext(certDir, CLIENT_ALPN[carried], { exact: expected }),
            }),
          }),
        ),
      ],
    },
  };
}

/** Both sides of Istio's mTLS: TLS 1.2 and up, names by URI. */
export function tlsContext(certDir: string, alpn: readonly string[], matcher: Json): Json {
  return {
    alpn_protocols: alpn,
    tls_params: { tls_minimum_protocol_version: 'TLSv1_2', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [
      {
        certificate_chain: { filename: `${certDir}/cert-chain.pem` },
        private_key: { filename: `${certDir}/key.pem` },
      },
    ],
    validation_context: {
      trusted_ca: { filename: `${certDir}/root-cert.pem` },
      match_typed_subject_alt_names: [{ san_type: 'URI', matcher }],
    },
  };
}

function networkFilter(carried: Carried, name: string, more: Json): Json {
  if (carried === 'tcp')
    return typed('tcp', 'filters.network.tcp_proxy.v3.TcpProxy', { stat_prefix: name, cluster: name });
  return typed('hcm', 'filters.network.http_connection_manager.v3.HttpConnectionManager', {
    stat_prefix: name,
    ...more,
    http_protocol_options: { enable_trailers: true },
    upgrade_configs: [{ upgrade_type: 'websocket' }],
    route_config: {
      virtual_hosts: [
        {
          name,
          domains: ['*'],
          routes: [{ match: { prefix: '/' }, route: { cluster: name, timeout: '0s' } }],
        },
      ],
    },
    http_filters: [typed('router', 'filters.http.router.v3.Router', {})],
  });
}

function cluster(name: string, port: number, carried: Carried, more: Json): Json {
  const http = {
    http: { http_protocol_options: { enable_trailers: true } },
    grpc: { http2_protocol_options: {} },
  };
  return {
    ...staticCluster(name, port),
    ...(carried === 'tcp'
      ? {}
      : {
          typed_extension_protocol_options: {
            [HTTP_OPTIONS]: {
              '@type': `type.googleapis.com/${HTTP_OPTIONS}`,
              explicit_http_config: http[carried],
            },
          },
        }),
    ...more,
  };
}

export function typed(name: string, type: string, value: Json): Json {
  return { name, typed_config: { '@type': `${TYPE}.${type}`, ...value } };
}

export function address(port: number): Json {
  return { socket_address: { address: '127.0.0.1', port_value: port } };
}

/** A cluster of one endpoint on this machine, whatever is spoken to it. */
export function staticCluster(name: string, port: number): Json {
  return {
    name,
    type: 'STATIC',
    load_assignment: {
      cluster_name: name,
      endpoints: [{ lb_endpoints: [{ endpoint: { address: address(port) } }] }],
    },
  };
}
