/**
 * Builds the image without a container engine and starts it as one would, read-only and as uid 1337: `node
 * deploy/image/check.ts`. Takes root, debootstrap, npm, and some minutes; Debian's packages come from its mirror.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { buildImage, type Image, quoted } from './build.ts';

const STATE = '/var/lib/oarlock';
const STRICT = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`;

const { OARLOCK_IMAGE_BASE: kept } = process.env;
const work = mkdtempSync(join(tmpdir(), 'oarlock-image-'));
const network = `oarlock-image-${process.pid}`;
must('ip', ['netns', 'add', network]);
must('ip', ['-n', network, 'link', 'set', 'lo', 'up']);
process.on('exit', () => {
  must('ip', ['netns', 'delete', network]);
  rmSync(work, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

const base = kept ?? join(work, 'base');
if (!existsSync(base)) makeBase(base);
const began = performance.now();
const image = buildImage(base, work);
say(`built in ${((performance.now() - began) / 1000).toFixed(0)} s`);
await check(image);

/** What the official image has that ours is built on: Debian, Node and npm. */
function makeBase(folder: string): void {
  say('debootstrap');
  const include = '--include=ca-certificates,libstdc++6,libatomic1';
  must('debootstrap', ['--variant=minbase', include, 'bookworm', folder]);
  // npm's own word on where it is goes by the Node that runs it, which may be the pinned one.
  const npm = join(dirname(realpathSync(must('which', ['npm']).trim())), '..');
  must('cp', ['-aL', process.execPath, join(folder, 'usr/local/bin/node')]);
  mkdirSync(join(folder, 'usr/local/lib/node_modules'), { recursive: true });
  must('cp', ['-aL', npm, join(folder, 'usr/local/lib/node_modules/npm')]);
  symlinkSync('../lib/node_modules/npm/bin/npm-cli.js', join(folder, 'usr/local/bin/npm'));
}

async function check(image: Image): Promise<void> {
  const { folder, user, entrypoint, healthcheck } = image;
  process.stdout.write(must('du', ['-shc', ...['usr', 'opt'].map((name) => join(folder, name))]));
  process.stdout.write(
    must('du', ['-sh', join(folder, 'usr/local/bin/node'), join(folder, 'opt/oarlock/dist')]),
  );
  expect(user === '1337:1337', `user ${user}`);
  for (const shell of ['bin/sh', 'usr/bin/sh', 'bin/bash', 'usr/bin/env']) {
    expect(!existsSync(join(folder, shell)), `no ${shell}`);
  }
  expect(inside(image, '1337:1337', [...entrypoint, '--version']).stdout.includes('0.1.0'), '--version');
  expect(
    inside(image, '1337:1337', ['/usr/local/bin/oarlock', '--version']).status === 0,
    'oarlock --version',
  );

  const state = join(work, 'state');
  mkdirSync(join(state, 'mesh'), { recursive: true });
  writeFileSync(join(state, 'mesh', 'mode.yaml'), STRICT);
  must('chown', ['-R', '1337:1337', state]);
  const issue = ['ca', 'issue', '--dir', `${STATE}/ca`, '--namespace', 'shop', '--service-account', 'web'];
  expect(inside(image, user, [...entrypoint, ...issue, '--out', `${STATE}/certs`]).status === 0, 'ca issue');

  const run = [
    'run',
    '--drain',
    '1s',
    '--config',
    `${STATE}/mesh`,
    '--cert-dir',
    `${STATE}/certs`,
    '--namespace',
    'shop',
  ];
  const before = performance.now();
  const child = spawn('ip', wrapped(image, user, [...entrypoint, ...run, '--service-account', 'web']), {
    env: image.env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  say(`ready after ${(performance.now() - before).toFixed(0)} ms, unshare and chroot among them`);
  expect(line.includes('"ready":true'), 'ready');
  expect(inside(image, user, healthcheck).status === 0, 'the health check says yes');
  expect(inside(image, user, [...entrypoint, 'wait', '--timeout', '5s']).status === 0, 'wait');
  child.kill('SIGTERM');
  const [status] = (await once(child, 'exit')) as [number | null];
  expect(status === 0, `stopped with ${status}`);
  expect(inside(image, user, healthcheck).status !== 0, 'the health check says no');

  expect(
    inside(image, user, [...entrypoint, 'iptables', '--dry-run']).stdout.includes('ISTIO_OUTPUT'),
    'dry run',
  );
  for (const backend of ['iptables', 'iptables-legacy', 'nft']) {
    const rules = [...entrypoint, 'iptables', '--backend', backend];
    for (const args of [rules, [...rules, '--check'], [...rules, '--clean']]) {
      expect(inside(image, '0:0', args).status === 0, args.slice(2).join(' '));
    }
  }
  say('all of it works');
}

/** Read-only, but for a volume at the state's folder, as an engine would have it. */
function mounts(folder: string): string {
  const state = join(work, 'state');
  return [
    `mount --bind ${folder} ${folder}`,
    `mount -o remount,ro,bind ${folder}`,
    `mount -t proc proc ${folder}/proc`,
    ...(existsSync(state) ? [`mount --bind ${state} ${folder}${STATE}`] : []),
  ].join(' && ');
}

/** The arguments of `ip`: in a network and a mount namespace, with what a container has of file systems. */
function wrapped({ folder }: Image, user: string, command: readonly string[]): readonly string[] {
  const chroot = `exec chroot --userspec=${user} --groups= ${folder} ${command.map(quoted).join(' ')}`;
  const script = `PATH=$PATH:/sbin:/bin; ${mounts(folder)} && ${chroot}`;
  // `ip netns exec` has a mount namespace made, whose changes must not come out.
  return ['netns', 'exec', network, 'unshare', '--mount', '/bin/sh', '-c', script];
}

function inside(
  of: Image,
  user: string,
  command: readonly string[],
): { status: number | null; stdout: string } {
  const { status, stdout, stderr } = spawnSync('ip', wrapped(of, user, command), {
    encoding: 'utf8',
    env: of.env,
  });
  process.stderr.write(stderr);
  return { status, stdout };
}

function must(program: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0) throw new Error(`${program} ${args[0]}: ${stdout.slice(-1_000)}${stderr.slice(-1_000)}`);
  return stdout;
}

function expect(holds: boolean, what: string): void {
  if (!holds) throw new Error(`not so: ${what}`);
  say(`ok: ${what}`);
}

function say(text: string): void {
  process.stderr.write(`image: ${text}\n`);
}
