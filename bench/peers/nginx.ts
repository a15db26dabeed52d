/** nginx as a peer: one process, no policy, keep-alive upstreams. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram } from './find-program.ts';
import { type PortPeer, SERVICE, type Side } from './peer.ts';

export const nginx: PortPeer = {
  name: 'nginx',
  judges: false,
  groups: ['X25519', 'P-256'],
  note: 'chain of the caller and name of the callee checked, no policy, no metrics; log in batches of 64 KiB',
  missing: () => (findProgram('nginx') === null ? 'no nginx on the PATH (apt install nginx-light)' : null),
  command: (side) => {
    const file = join(side.dir, 'nginx.conf');
    writeFileSync(file, configuration(side));
    return {
      program: findProgram('nginx') ?? 'nginx',
      args: ['-p', side.dir, '-e', join(side.dir, 'error.log'), '-c', file],
    };
  },
};

function configuration({ role, listen, dial, dir, credentials, accessLog, tls }: Side): string {
  const { certWithName, key, root } = credentials;
  const groups = (tls.groups ?? ['X25519']).join(':');
  const server =
    role === 'callee'
      ? `ssl_certificate ${certWithName}; ssl_certificate_key ${key};
    ssl_client_certificate ${root}; ssl_verify_client on; ssl_verify_depth 3;
    ssl_protocols TLSv1.3; ssl_ecdh_curve ${groups}; ssl_session_cache shared:sessions:10m;`
      : '';
  const upstream =
    role === 'caller'
      ? `proxy_ssl_certificate ${certWithName}; proxy_ssl_certificate_key ${key};
      proxy_ssl_trusted_certificate ${root}; proxy_ssl_verify on; proxy_ssl_verify_depth 3;
      proxy_ssl_name ${SERVICE}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
      proxy_ssl_conf_command Groups ${groups}; proxy_ssl_session_reuse ${tls.resumes === false ? 'off' : 'on'};`
      : '';
  // Alone it is what a careful operator writes: WebSocket is handed on, and no other upgrade.
  const upgrades = role === 'plain';
  const identity = role === 'callee' ? '"Hash=$ssl_client_fingerprint"' : '""';
  return `
daemon off; master_process off; worker_processes 1; pid ${dir}/nginx.pid;
events { worker_connections 8192; }
http {
  log_format json escape=json '{"method":"$request_method","path":"$request_uri","protocol":"$server_protocol","response_code":$status,'
    '"user_agent":"$http_user_agent","request_id":"$http_x_request_id","authority":"$http_host","start_time":"$time_iso8601",'
    '"duration":$request_time,"bytes_received":$request_length,"bytes_sent":$bytes_sent,"upstream_host":"$upstream_addr",'
    '"upstream_service_time":"$upstream_response_time","downstream_remote_address":"$remote_addr:$remote_port",'
    '"requested_server_name":"$ssl_server_name"}';
  access_log ${accessLog ? `${dir}/access.log json buffer=64k flush=1s` : 'off'};
  client_body_temp_path ${dir}/body; proxy_temp_path ${dir}/proxy; fastcgi_temp_path ${dir}/fastcgi;
  uwsgi_temp_path ${dir}/uwsgi; scgi_temp_path ${dir}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 1h;
  ${upgrades ? 'map $http_upgrade $asked { default ""; ~*^websocket$ websocket; } map $asked $switches { default ""; websocket upgrade; }' : ''}
  upstream next { server 127.0.0.1:${dial}; ${tls.keeps ? 'keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 1h;' : ''} }
  server {
    listen 127.0.0.1:${listen} ${role === 'callee' ? 'ssl' : ''} backlog=4096;
    ${server}
    location / {
      proxy_pass ${role === 'caller' ? 'https' : 'http'}://next;
      proxy_http_version 1.1; proxy_set_header Connection ${upgrades ? '$switches; proxy_set_header Upgrade $asked' : '""'}; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Client-Cert ${identity};
      proxy_max_temp_file_size 0; proxy_read_timeout 1h;
      ${upstream}
    }
  }
}
`;
}
