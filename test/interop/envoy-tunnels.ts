/** A real Envoy that speaks HBONE as Istio's waypoints and gateways do: CONNECT originated by tcp_proxy, ended by a route. */
import type { Test } from 'tap';
import {
  address,
  HTTP_OPTIONS,
  type Json,
  runEnvoy,
  staticCluster,
  tlsContext,
  typed,
} from './envoy-sidecar.ts';

export interface EnvoyTunnels {
  readonly binary: string;
  /** Folder for its config and log. */
  readonly dir: string;
  /** Of its certificate, under Istio's names. */
  readonly certDir: string;
  /** Where it takes tunnels, and where their streams go: an authority's port, and the app's. */
  readonly inbound: { readonly port: number; readonly apps: ReadonlyMap<number, number> };
  /** Where apps dial it, each with the authority it asks for; all go to one peer. */
  readonly outbound: ReadonlyMap<number, string>;
  readonly peer: { readonly port: number; readonly expected: string };
}

/** Starts it and waits until it accepts; it is gone when the test is over. */
export function startTunnels(t: Test, options: EnvoyTunnels): Promise<void> {
  const { binary, dir, inbound, outbound } = options;
  const ports = [inbound.port, ...outbound.keys()];
  return runEnvoy(t, { binary, dir, config: configOf(options), ports });
}

function configOf({ certDir, inbound, outbound, peer }: EnvoyTunnels): Json {
  return {
    static_resources: {
      listeners: [
        terminator(certDir, inbound),
        ...[...outbound].map(([port, authority]) => ({
          name: `out-${port}`,
          address: address(port),
          filter_chains: [
            {
              filters: [
                typed('tcp', 'filters.network.tcp_proxy.v3.TcpProxy', {
                  stat_prefix: authority,
                  cluster: 'tunnels',
                  tunneling_config: { hostname: authority },
                }),
              ],
            },
          ],
        })),
      ],
      clusters: [
        ...[...inbound.apps.values()].map((app) => cluster(`app-${app}`, app, {})),
        cluster('tunnels', peer.port, {
          typed_extension_protocol_options: {
            [HTTP_OPTIONS]: {
              '@type': `type.googleapis.com/${HTTP_OPTIONS}`,
              explicit_http_config: { http2_protocol_options: {} },
            },
          },
          transport_socket: typed('tls', 'transport_sockets.tls.v3.UpstreamTlsContext', {
            common_tls_context: tlsContext(certDir, ['h2'], { exact: peer.expected }),
          }),
        }),
      ],
    },
  };
}

/** `connect_terminate` of istiod's waypoint listeners, with a route for each authority. */
function terminator(certDir: string, { port, apps }: EnvoyTunnels['inbound']): Json {
  return {
    name: `in-${port}`,
    address: address(port),
    filter_chains: [
      {
        transport_socket: typed('tls', 'transport_sockets.tls.v3.DownstreamTlsContext', {
          require_client_certificate: true,
          common_tls_context: tlsContext(certDir, ['h2'], { prefix: 'spiffe://cluster.local/' }),
        }),
        filters: [
          typed('hcm', 'filters.network.http_connection_manager.v3.HttpConnectionManager', {
            stat_prefix: 'terminator',
            codec_type: 'HTTP2',
            http2_protocol_options: { allow_connect: true },
            upgrade_configs: [{ upgrade_type: 'CONNECT' }],
            route_config: {
              virtual_hosts: [...apps].map(([authority, app]) => ({
                name: `app-${app}`,
                domains: [`127.0.0.1:${authority}`],
                routes: [
                  {
                    match: { connect_matcher: {} },
                    route: {
                      cluster: `app-${app}`,
                      timeout: '0s',
                      upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }],
                    },
                  },
                ],
              })),
            },
            http_filters: [typed('router', 'filters.http.router.v3.Router', {})],
          }),
        ],
      },
    ],
  };
}

function cluster(name: string, port: number, more: Json): Json {
  return {
    ...staticCluster(name, port),
    ...more,
  };
}
