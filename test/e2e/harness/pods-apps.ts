/** The apps of a pod, as users have them: Python's http.server and friends, nginx, redis; none of them is ours. */
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { tempDir } from './mesh.ts';
import { APP_UID, type Pod } from './pods.ts';
import { Lines } from './processes.ts';
import { until, within } from './wait.ts';

/** What Python's HTTP app tells of a request. */
export interface Told {
  /** The address it came from. */
  readonly peer: string;
  /** The address of its own that it came to. */
  readonly at: string;
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

const SCRIPT = readFileSync(join(import.meta.dirname, 'pods-apps.py'), 'utf8');

/** Starts Python's servers, each `KIND:PORT` or `KIND:PORT@ADDRESS`, as pods-apps.py has them. */
export async function pythonApps(t: Test, pod: Pod, servers: readonly string[]): Promise<void> {
  // Port 53 is root's to open; all others are an app's.
  const uid = servers.some((server) => server.startsWith('dns:')) ? undefined : APP_UID;
  const argv = ['python3', '-c', SCRIPT, ...servers];
  await serve(t, pod, argv, uid, (said) => said.includes('listening'));
}

/** Starts nginx with what a `server` block holds, as the user of the apps. */
export async function nginx(t: Test, pod: Pod, server: string): Promise<void> {
  const dir = openDir(t);
  const file = join(dir, 'nginx.conf');
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${dir}/${name};`,
  );
  writeFileSync(
    file,
    `daemon off; master_process off; pid ${dir}/pid; error_log stderr notice; events {}
http { access_log off; ${paths.join(' ')} server { ${server} } }\n`,
  );
  const argv = ['nginx', '-e', 'stderr', '-p', dir, '-c', file];
  await serve(t, pod, argv, APP_UID, (said) => said.includes('getrlimit'));
}

/** Starts Redis on a port of all addresses. */
export async function redis(t: Test, pod: Pod, port: number): Promise<void> {
  const flags = ['--port', `${port}`, '--bind', '0.0.0.0', '::', '--protected-mode', 'no', '--save', ''];
  const argv = ['redis-server', ...flags, '--dir', openDir(t)];
  await serve(t, pod, argv, APP_UID, (said) => /ready to accept connections/i.test(said));
}

/** A folder that the apps may write to. */
function openDir(t: Test): string {
  const dir = join(tempDir(t), 'app');
  mkdirSync(dir);
  chmodSync(join(dir, '..'), 0o755);
  chmodSync(dir, 0o777);
  return dir;
}

/** Starts a server and waits until what it said tells that it listens; it is gone when the test is over. */
async function serve(
  t: Test,
  pod: Pod,
  argv: readonly string[],
  uid: number | undefined,
  listens: (said: string) => boolean,
): Promise<void> {
  const child = pod.spawn(argv, uid === undefined ? {} : { uid });
  const exited = once(child, 'close');
  t.teardown(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const { stdout, stderr } = child;
  if (stdout === null || stderr === null) throw new Error('no pipes');
  const lines = [new Lines(stdout), new Lines(stderr)];
  const said = (): string => lines.map(({ text }) => text).join('\n');
  const up = until(`${argv[0]} in ${pod.name} to listen`, () => listens(said()));
  const ended = exited.then(() => Promise.reject(new Error(`${argv[0]} in ${pod.name} ended: ${said()}`)));
  ended.catch(() => {});
  await within(`${argv[0]} in ${pod.name}`, Promise.race([up, ended]));
}
