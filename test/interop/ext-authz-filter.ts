/** Envoy's ext_authz filters as istiod configures them for a provider, one listener a provider. */
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { Leaf } from '../e2e/harness/test-ca.ts';
import { address, staticCluster } from './envoy-sidecar.ts';

const TYPE = 'type.googleapis.com/envoy.extensions';

export interface Listener {
  readonly port: number;
  readonly provider: ExtAuthzProvider;
  /** A TCP connection is checked, not its requests. */
  readonly tcp: boolean;
  /** What it shows to clients, of whom it demands a certificate of the same CA; null: plaintext. */
  readonly leaf: Leaf | null;
}

/** Ports of the servers behind it. */
export interface Upstreams {
  readonly app: number;
  readonly http: number;
  readonly grpc: number;
  readonly nobody: number;
}

/** pilot's `generateHeaders`. */
function patterns(headers: readonly string[]): unknown {
  if (headers.length === 0) return undefined;
  return {
    patterns: headers.map((header) => ({
      ignore_case: true,
      ...(header.startsWith('*')
        ? { suffix: header.slice(1) }
        : header.endsWith('*')
          ? { prefix: header.slice(0, -1) }
          : { exact: header }),
    })),
  };
}

const timeoutOf = (provider: ExtAuthzProvider): string => `${provider.timeout / 1000}s`;

function grpcService(provider: ExtAuthzProvider): unknown {
  const host = provider.service.slice(provider.service.indexOf('/') + 1);
  return {
    envoy_grpc: { cluster_name: clusterOf(provider), authority: host },
    timeout: timeoutOf(provider),
  };
}

/** The service `nobody` has a cluster where nobody listens. */
function clusterOf({ protocol, service }: ExtAuthzProvider): string {
  return service === 'nobody' ? 'nobody' : protocol;
}

/** pilot's `generateHTTPConfig`. */
function httpService(provider: ExtAuthzProvider): unknown {
  return {
    path_prefix: provider.pathPrefix,
    server_uri: { timeout: timeoutOf(provider), uri: 'http://authz.example', cluster: clusterOf(provider) },
    authorization_request: {
      headers_to_add: [...provider.includeAdditionalHeadersInCheck].map(([key, value]) => ({ key, value })),
    },
    authorization_response: {
      allowed_upstream_headers: patterns(provider.headersToUpstreamOnAllow),
      allowed_client_headers: patterns(provider.headersToDownstreamOnDeny),
      allowed_client_headers_on_success: patterns(provider.headersToDownstreamOnAllow),
    },
  };
}

function httpFilter(provider: ExtAuthzProvider): unknown {
  const { requestBody } = provider;
  return {
    '@type': `${TYPE}.filters.http.ext_authz.v3.ExtAuthz`,
    transport_api_version: 'V3',
    status_on_error: { code: provider.statusOnError },
    failure_mode_allow: provider.failOpen,
    ...(provider.protocol === 'grpc'
      ? { grpc_service: grpcService(provider) }
      : {
          http_service: httpService(provider),
          allowed_headers: patterns(provider.includeRequestHeadersInCheck),
        }),
    ...(requestBody === null
      ? {}
      : {
          with_request_body: {
            max_request_bytes: requestBody.maxRequestBytes,
            allow_partial_message: requestBody.allowPartialMessage,
            pack_as_bytes: requestBody.packAsBytes,
          },
        }),
  };
}

function httpFilters(provider: ExtAuthzProvider): readonly unknown[] {
  const hcm = {
    '@type': `${TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'h',
    server_header_transformation: 'PASS_THROUGH',
    use_remote_address: false,
    normalize_path: true,
    route_config: {
      virtual_hosts: [
        { name: 'app', domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: 'app' } }] },
      ],
    },
    http_filters: [
      { name: 'ext_authz', typed_config: httpFilter(provider) },
      { name: 'router', typed_config: { '@type': `${TYPE}.filters.http.router.v3.Router` } },
    ],
  };
  return [{ name: 'hcm', typed_config: hcm }];
}

function tcpFilters(provider: ExtAuthzProvider): readonly unknown[] {
  const check = {
    '@type': `${TYPE}.filters.network.ext_authz.v3.ExtAuthz`,
    stat_prefix: 'tcp.',
    transport_api_version: 'V3',
    failure_mode_allow: provider.failOpen,
    grpc_service: grpcService(provider),
  };
  const proxy = {
    '@type': `${TYPE}.filters.network.tcp_proxy.v3.TcpProxy`,
    stat_prefix: 't',
    cluster: 'app',
  };
  return [
    { name: 'ext_authz', typed_config: check },
    { name: 'tcp', typed_config: proxy },
  ];
}

function tls(leaf: Leaf): unknown {
  const inline = (pem: string) => ({ inline_string: pem });
  return {
    name: 'tls',
    typed_config: {
      '@type': `${TYPE}.transport_sockets.tls.v3.DownstreamTlsContext`,
      require_client_certificate: true,
      common_tls_context: {
        tls_certificates: [{ certificate_chain: inline(leaf.cert), private_key: inline(leaf.key) }],
        validation_context: { trusted_ca: inline(leaf.ca) },
      },
    },
  };
}

function listener({ port, provider, tcp, leaf }: Listener): unknown {
  const inspector = { '@type': `${TYPE}.filters.listener.tls_inspector.v3.TlsInspector` };
  return {
    address: address(port),
    // istiod has it on every inbound listener.
    listener_filters: leaf === null ? [] : [{ name: 'tls_inspector', typed_config: inspector }],
    filter_chains: [
      {
        ...(leaf === null ? {} : { transport_socket: tls(leaf) }),
        filters: tcp ? tcpFilters(provider) : httpFilters(provider),
      },
    ],
  };
}

function cluster(name: string, port: number): unknown {
  const http2 = {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': `${TYPE}.upstreams.http.v3.HttpProtocolOptions`,
      explicit_http_config: { http2_protocol_options: {} },
    },
  };
  return {
    ...staticCluster(name, port),
    ...(name === 'grpc' ? { typed_extension_protocol_options: http2 } : {}),
  };
}

/** The configuration, JSON. */
export function extAuthzEnvoy(listeners: readonly Listener[], upstreams: Upstreams): string {
  return JSON.stringify({
    static_resources: {
      listeners: listeners.map(listener),
      clusters: Object.entries(upstreams).map(([name, port]) => cluster(name, port)),
    },
  });
}
