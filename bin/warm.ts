/**
 * Fills the cache of compiled code beside a bundle: `node bin/warm.ts FOLDER`, FOLDER as bin/build.ts made it. To be run
 * with the Node, its flags, and as the user, that the bundle will run with: each has a cache of its own.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [folder = '.'] = process.argv.slice(2);
const oarlock = [...process.execArgv, join(folder, 'dist', 'main.js')];
const RESOURCES = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: default}
spec:
  hosts: [web.example]
  addresses: [192.0.2.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.2}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: default}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]}]}
`;

/** A build that hangs tells nothing. */
const READY_MS = 60_000;

const scratch = mkdtempSync(join(tmpdir(), 'oarlock-warm-'));
try {
  mkdirSync(join(folder, 'cache'), { recursive: true });
  const config = join(scratch, 'mesh.yaml');
  writeFileSync(config, RESOURCES);
  const certs = join(scratch, 'certs');
  issueCredentials(certs);
  for (const intercept of process.platform === 'linux' ? ['none', 'redirect'] : ['none']) {
    await runToReady([
      ...['run', '--config', config, '--cert-dir', certs, '--intercept', intercept, '--allow-root'],
      ...['--bind', '127.0.0.1', '--drain', '1ms', '--log-level', 'error'],
      // No rules of capture stand where an image is made: it would wait for them.
      ...['--canary-interval', '0s'],
      ...['admin', 'metrics', 'health', 'hbone', 'inbound', 'outbound'].flatMap((name) => [
        `--${name}-port`,
        '0',
      ]),
    ]);
  }
} finally {
  rmSync(scratch, { recursive: true });
}

/** Without the cache: what it compiles of modules that `run` loads too would stay, and be too little for that. */
function issueCredentials(out: string): void {
  const names = ['--namespace', 'default', '--service-account', 'default'];
  const args = [...oarlock, 'ca', 'issue', '--dir', join(scratch, 'ca'), ...names, '--out', out];
  const env = { ...process.env, NODE_DISABLE_COMPILE_CACHE: '1' };
  const { status } = spawnSync(process.execPath, args, { env, stdio: ['ignore', 'ignore', 'inherit'] });
  if (status !== 0) throw new Error('no credentials were issued');
}

/** Node writes its cache when a process ends, of what was compiled by then: one that ends when ready has what a start needs. */
async function runToReady(args: readonly string[]): Promise<void> {
  const child = spawn(process.execPath, [...oarlock, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: READY_MS,
    killSignal: 'SIGKILL',
  });
  const ended = once(child, 'exit');
  child.stdout.once('data', () => child.kill('SIGTERM'));
  const [status] = (await ended) as [number | null];
  if (status !== 0)
    throw new Error(`oarlock ${args[0]} failed, or was not ready within ${READY_MS / 1000} s`);
}
