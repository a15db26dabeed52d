/** HAProxy as a peer: one thread, no policy, connections to the next hop shared by all requests. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram } from './find-program.ts';
import { type Credentials, type PortPeer, SERVICE, type Side } from './peer.ts';

export const haproxy: PortPeer = {
  name: 'HAProxy',
  judges: false,
  groups: ['X25519', 'P-256'],
  note: 'chain of the caller and name of the callee checked, no policy, no metrics; its log is one write a line',
  missing: () => (findProgram('haproxy') === null ? 'no haproxy on the PATH (apt install haproxy)' : null),
  command: (side) => {
    const file = join(side.dir, 'haproxy.cfg');
    const bundle = join(side.dir, 'bundle.pem');
    if (side.role !== 'plain') writeBundle(bundle, side.credentials);
    writeFileSync(file, configuration(side, bundle));
    return {
      program: findProgram('haproxy') ?? 'haproxy',
      args: ['-db', '-f', file],
      env: { OPENSSL_CONF: openSslDefaults(side) },
    };
  },
};

/** HAProxy can name a client's groups from version 2.9 on; before that OpenSSL's own defaults can. */
function openSslDefaults({ dir, tls }: Side): string {
  const file = join(dir, 'openssl.cnf');
  writeFileSync(
    file,
    `openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nGroups = ${groupsOf(tls)}\n`,
  );
  return file;
}

function groupsOf({ groups }: Side['tls']): string {
  return (groups ?? ['X25519']).join(':');
}

/** HAProxy takes certificate and key from one file. */
function writeBundle(file: string, { certWithName, key }: Credentials): void {
  writeFileSync(file, Buffer.concat([readFileSync(certWithName), readFileSync(key)]), { mode: 0o600 });
}

const LOG_FORMAT =
  `'{"method":"%HM","path":"%[capture.req.uri,json]","protocol":"%HV","response_code":%ST,"response_flags":"%tsc",` +
  `"authority":"%[capture.req.hdr(0),json]","start_time":"%tr","duration":%Ta,"upstream_service_time":%Tr,` +
  `"bytes_received":%U,"bytes_sent":%B,"upstream_host":"%si:%sp","upstream_local_address":"%bi:%bp",` +
  `"downstream_local_address":"%fi:%fp","downstream_remote_address":"%ci:%cp","requested_server_name":"%[ssl_fc_sni]"}'`;

const TCP_LOG_FORMAT =
  `'{"start_time":"%t","duration":%Tt,"bytes_received":%U,"bytes_sent":%B,"response_flags":"%ts","upstream_host":"%si:%sp",` +
  `"upstream_local_address":"%bi:%bp","downstream_local_address":"%fi:%fp","downstream_remote_address":"%ci:%cp",` +
  `"requested_server_name":"%[ssl_fc_sni]"}'`;

function httpRules(role: Side['role']): string {
  return `declare capture request len 256
  http-request capture req.hdr(host) id 0
  ${role === 'callee' ? 'http-request set-header X-Forwarded-Client-Cert "Hash=%[ssl_c_sha1,hex]"' : 'http-request del-header X-Forwarded-Client-Cert'}
  ${role === 'plain' ? 'http-request del-header Upgrade unless { req.hdr(Upgrade) -m str -i websocket }' : ''}`;
}

function configuration(
  { role, listen, dial, credentials, protocol, accessLog, tls: sideTls }: Side,
  bundle: string,
): string {
  const http = protocol !== 'tcp';
  const alpn = { http1: 'alpn http/1.1', http2: 'alpn h2', tcp: 'alpn istio' }[protocol];
  const tls = `ssl crt ${bundle} ca-file ${credentials.root} verify required ssl-min-ver TLSv1.3 ${alpn}`;
  const bind = role === 'callee' ? `${tls} curves ${groupsOf(sideTls)}` : '';
  const server =
    role === 'caller'
      ? `${tls} verifyhost ${SERVICE} pool-max-conn -1 ${sideTls.resumes === false ? 'no-ssl-reuse' : ''}`
      : '';
  return `
global
  nbthread 1
  maxconn 8192
  ${accessLog ? 'log stdout len 4096 format raw local0 info' : ''}
defaults
  mode ${http ? 'http' : 'tcp'}
  ${accessLog ? `log global\n  log-format ${http ? LOG_FORMAT : TCP_LOG_FORMAT}` : ''}
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  ${http ? 'http-reuse always' : ''}
frontend in
  bind 127.0.0.1:${listen} backlog 4096 ${bind}
  ${http ? httpRules(role) : ''}
  default_backend out
backend out
  server next 127.0.0.1:${dial} ${server}
`;
}
