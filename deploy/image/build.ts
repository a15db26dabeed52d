/** Builds the image without a container engine: carries out the Dockerfile's own steps, each stage in a chroot of its own. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { type Instruction, readDockerfile, type Stage, sentToBuild } from './dockerfile.ts';

const root = join(import.meta.dirname, '..', '..');

/** What the last stage says of how it is to be run. */
export interface Image {
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  /** UID:GID. */
  readonly user: string;
  readonly entrypoint: readonly string[];
  readonly healthcheck: readonly string[];
}

/** @param base a root file system with Debian, Node and npm, in the base image's place @param work an empty folder */
export function buildImage(base: string, work: string): Image {
  const stages = readDockerfile(
    readFileSync(join(root, 'Dockerfile'), 'utf8'),
    new Map([['BASE_IMAGE', base]]),
  );
  const folders = new Map<string, string>();
  let image: Image | null = null;
  for (const stage of stages) {
    const folder = join(work, stage.name === '' ? 'image' : stage.name);
    folders.set(stage.name, folder);
    image = buildStage(stage, folder, folders);
  }
  if (image === null) throw new Error('the Dockerfile has no stage');
  return image;
}

function buildStage(stage: Stage, folder: string, folders: ReadonlyMap<string, string>): Image {
  if (stage.base === 'scratch') mkdirSync(folder, { recursive: true });
  else sh(`cp -a --reflink=auto ${stage.base} ${folder}`);
  const env: Record<string, string> = {};
  let [user, cwd] = ['0:0', '/'];
  let entrypoint: readonly string[] = [];
  let healthcheck: readonly string[] = [];
  for (const instruction of stage.instructions) {
    const { name, rest } = instruction;
    if (name === 'RUN') run(instruction, { folder, user, cwd });
    else if (name === 'COPY') copy(instruction, { folder, cwd, folders });
    else if (name === 'USER') user = rest;
    else if (name === 'WORKDIR') {
      cwd = rest;
      mkdirSync(join(folder, cwd), { recursive: true });
    } else if (name === 'ENV') {
      const [key = '', value = ''] = rest.split('=');
      env[key] = value;
    } else if (name === 'ENTRYPOINT') entrypoint = JSON.parse(rest) as string[];
    else if (name === 'HEALTHCHECK') healthcheck = JSON.parse(rest.slice(rest.indexOf('['))) as string[];
  }
  return { folder, env, user, entrypoint, healthcheck };
}

/** With this machine's network and its cache of npm, as an engine keeps one. */
function run(
  { flags, rest }: Instruction,
  { folder, user, cwd }: { readonly folder: string; readonly user: string; readonly cwd: string },
): void {
  const [, target] = /^type=cache,target=(.+)$/.exec(flags.get('mount') ?? '') ?? [];
  const cache =
    target === undefined
      ? ''
      : `mkdir -p ${folder}${target} && mount --bind ${homedir()}/.npm ${folder}${target} &&`;
  const mounts = `mount -t proc proc ${folder}/proc && mount --bind /dev ${folder}/dev && ${cache} cp /etc/resolv.conf ${folder}/etc/`;
  const { NODE_EXTRA_CA_CERTS: authorities } = process.env;
  if (authorities !== undefined) cpSync(authorities, join(folder, 'tmp', basename(authorities)));
  const env = {
    PATH: '/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    DEBIAN_FRONTEND: 'noninteractive',
    npm_config_prefer_offline: 'true',
    ...(authorities === undefined ? {} : { NODE_EXTRA_CA_CERTS: `/tmp/${basename(authorities)}` }),
  };
  // The outer shell goes with its mounts.
  sh(
    `${mounts} && exec chroot --userspec=${user} ${folder} /bin/sh -c ${quoted(`cd ${cwd} && ${rest}`)}`,
    env,
  );
}

interface CopyPlace {
  readonly folder: string;
  readonly cwd: string;
  readonly folders: ReadonlyMap<string, string>;
}

function copy({ flags, rest }: Instruction, { folder, cwd, folders }: CopyPlace): void {
  const words = rest.split(/\s+/);
  const to = words.pop() ?? '';
  const target = join(folder, to.startsWith('/') ? '/' : cwd, to);
  const stage = flags.get('from');
  const from = stage === undefined ? root : folders.get(stage);
  if (from === undefined) throw new Error(`no stage ${stage}`);
  const sent = sentToBuild(readFileSync(join(root, '.dockerignore'), 'utf8'));
  for (const word of words) {
    if (stage === undefined && word === '.') {
      for (const name of sent)
        if (existsSync(join(root, name))) copyTree(join(root, name), join(target, name));
    } else if (stage === undefined && !sent.includes(word))
      throw new Error(`${word} is not sent to the build`);
    else if (word.endsWith('/')) sh(`mkdir -p ${target} && cp -a ${from}${word}. ${target}`);
    else copyTree(join(from, word), to.endsWith('/') ? join(target, basename(word)) : target);
  }
}

function copyTree(from: string, to: string): void {
  sh(`mkdir -p $(dirname ${to}) && cp -a ${from} ${to}`);
}

export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** In a mount namespace of its own. @throws with what was said, where it fails */
function sh(script: string, env: Readonly<Record<string, string>> = {}): void {
  const { status, stdout, stderr } = spawnSync('unshare', ['--mount', '--', 'sh', '-c', script], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH ?? '', ...env },
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0) throw new Error(`${script}\n${stdout.slice(-2_000)}${stderr.slice(-2_000)}`);
}
