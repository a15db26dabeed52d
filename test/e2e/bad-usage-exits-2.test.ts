/** What cannot work ends at once with exit status 2 and words that tell what to do; what may yet come is waited for. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, listen, tcpApp } from './harness/apps.ts';
import { health, Mesh, ready, tempDir } from './harness/mesh.ts';
import { freePort } from './harness/ports.ts';
import { runToEnd, start } from './harness/processes.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const good = shop(ports, { http: app.port, tcp: tcp.port });
const mesh = await Mesh.create(t, good);
const { dir: certs } = await mesh.certDir('orders');
const dir = tempDir(t);
const taken = await listen(t, createServer());
const ingressTaken = join(dir, 'ingress-taken');
mkdirSync(ingressTaken);
writeFileSync(
  join(ingressTaken, 'mesh.yaml'),
  shop({ ...ports, ordersHttp: taken.port }, { http: app.port, tcp: tcp.port }),
);

/** A folder with one file beside the good ones. */
function withFile(name: string, text: string): string {
  const folder = join(dir, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'mesh.yaml'), good);
  writeFileSync(join(folder, 'broken.yaml'), text);
  return folder;
}

const none = ['--intercept', 'none', '--health-port', '0', '--metrics-port', '0', '--admin-port', '0'];
const files = ['--cert-dir', certs];
const run = (config: string, ...more: readonly string[]): string[] => [
  ...['run', '--config', config, '--workload', 'shop/orders', ...none],
  ...more,
];

t.test('exit status 2, and words on stderr', async (t) => {
  const typo = policy('typo', '[{from: [{source: {principals: [a]}}]}]').replace('principals', 'principles');
  const rows = [
    { title: 'an unknown command', args: ['fly'], says: /fly/ },
    { title: 'no --config', args: ['run', '--workload', 'shop/orders', ...none, ...files], says: /--config/ },
    { title: 'a folder that is not there', args: run(join(dir, 'nowhere'), ...files), says: /nowhere/ },
    { title: 'an unknown flag', args: run(mesh.config, '--frobnicate'), says: /--frobnicate/ },
    {
      title: 'a flag with a wrong value',
      args: run(mesh.config, ...files, '--drain', 'soon'),
      says: /--drain[\s\S]*soon|soon[\s\S]*--drain/,
    },
    {
      title: 'a port beyond all',
      args: run(mesh.config, ...files, '--health-port', '70000'),
      says: /--health-port/,
    },
    {
      title: 'no credentials',
      args: run(mesh.config),
      says: /--ca-address[\s\S]*--cert-dir|--cert-dir[\s\S]*--ca-address/,
    },
    { title: 'a CA without token', args: run(mesh.config, '--ca-address', '127.0.0.1:1'), says: /--token/ },
    {
      title: 'two sources of credentials',
      args: run(mesh.config, ...files, '--ca-address', '127.0.0.1:1'),
      says: /--cert-dir.*--ca-address/,
    },
    {
      title: 'a workload without namespace',
      args: ['run', '--config', mesh.config, '--workload', 'orders', ...none, ...files],
      says: /--workload.*NAME/,
    },
    {
      title: 'the health port in use',
      args: run(mesh.config, ...files, '--health-port', String(taken.port)),
      says: new RegExp(`${taken.port}.*in use.*--health-port`),
    },
    {
      title: 'the metrics port in use',
      args: run(mesh.config, ...files, '--metrics-port', String(taken.port)),
      says: new RegExp(`${taken.port}.*in use.*--metrics-port`),
    },
    {
      title: 'the admin port in use',
      args: run(mesh.config, ...files, '--admin-port', String(taken.port)),
      says: new RegExp(`${taken.port}.*in use.*--admin-port`),
    },
    {
      title: 'a Sidecar ingress port in use',
      args: run(ingressTaken, ...files),
      says: new RegExp(`${taken.port} is in use.*Sidecar.*ingress`),
    },
    {
      title: 'YAML that is none',
      args: run(withFile('no-yaml', 'kind: [unclosed'), ...files),
      says: /broken\.yaml:1/,
    },
    {
      title: 'a field nobody knows',
      args: run(withFile('typo', typo), ...files),
      says: /broken\.yaml:7.*principles/,
    },
    {
      title: 'a mode nobody knows',
      args: run(withFile('enum', pa('STRIKT')), ...files),
      says: /broken\.yaml:4.*STRIKT/,
    },
    {
      title: 'what cannot be honoured',
      args: run(withFile('envoy', envoyMetadata()), ...files),
      says: /broken\.yaml:\d+.*experimental\.envoy/,
    },
  ];
  const inPairs = async (row: (typeof rows)[number]): Promise<void> => {
    const { code, stdout, stderr } = await runToEnd(t, row.args);
    t.equal(code, 2, `${row.title}: exit status 2`);
    t.equal(stdout, '', `${row.title}: nothing on stdout`);
    t.match(stderr, row.says, `${row.title}: says what`);
    t.notMatch(stderr, /\n\s+at .*:\d+:\d+/, `${row.title}: no stack trace`);
  };
  for (let i = 0; i < rows.length; i += 2) await Promise.all(rows.slice(i, i + 2).map(inPairs));
});

t.test('--help is no error, and knows every limit', async (t) => {
  const { code, stdout } = await runToEnd(t, ['run', '--help']);
  t.equal(code, 0);
  for (const flag of ['--config', '--workload', '--drain', '--handshake-timeout', '--request-head-timeout']) {
    t.match(stdout, new RegExp(flag));
  }
});

t.test('a workload not there yet is waited for', async (t) => {
  const config = join(dir, 'later-workload');
  mkdirSync(config);
  const isEntry = (text: string): boolean => /kind: WorkloadEntry\n.*name: orders/.test(text);
  const resources = good.split('---');
  const entry = resources.find(isEntry) ?? '';
  const others = resources.filter((one) => !isEntry(one));
  writeFileSync(join(config, 'others.yaml'), others.join('---'));
  const port = await freePort();
  const running = start(t, run(config, ...files, '--health-port', String(port)));
  const waiting = await until('health to be served', () => health(port));
  t.equal(waiting.status, 503, 'not ready');
  t.match(JSON.stringify(waiting.body), /WorkloadEntry shop\/orders/, 'and says for what it waits');
  t.equal(running.stdout.mark, 0, 'no ready line yet');
  writeFileSync(join(config, 'entry.yaml'), entry);
  const sidecar = await ready(running);
  t.equal(sidecar.identity, 'spiffe://cluster.local/ns/shop/sa/orders');
  t.equal((await health(port)).status, 200);
});

t.test('credentials not there yet are waited for', async (t) => {
  const certDir = join(dir, 'certs-to-come');
  mkdirSync(certDir);
  const port = await freePort();
  const flags = ['run', '--config', mesh.config, '--workload', 'shop/orders', ...none];
  const running = start(t, [...flags, '--cert-dir', certDir, '--health-port', String(port)]);
  const waiting = await until('health to be served', () => health(port));
  t.equal(waiting.status, 503);
  t.match(JSON.stringify(waiting.body), /credentials/);
  const { leaf } = await mesh.certDir('orders');
  for (const [name, text] of [
    ['root-cert.pem', leaf.ca],
    ['key.pem', leaf.key],
    ['cert-chain.pem', leaf.cert],
  ] as const)
    writeFileSync(join(certDir, name), text);
  await ready(running);
  t.equal((await health(port)).status, 200);
});

function pa(mode: string): string {
  return `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: typo, namespace: shop}
spec: {mtls: {mode: ${mode}}}
`;
}

function envoyMetadata(): string {
  return policy('ask', "[{when: [{key: 'experimental.envoy.filters.a[b]', values: [c]}]}]", 'DENY');
}
