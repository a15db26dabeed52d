/** Runs `oarlock ARGS` with text on stdin, as a shell would, and writes the files it is to read. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';

const ROOT = join(import.meta.dirname, '../..');

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** @param input all of stdin; pieces are written one after the other */
export function oarlock(
  args: readonly string[],
  input: string | readonly (string | Buffer)[] = '',
): Promise<Ran> {
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(process.execPath, [join(ROOT, 'cli/main.ts'), ...args], {
    env: { PATH, HOME },
    cwd: ROOT,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  // A process that refuses its flags reads nothing.
  child.stdin.on('error', () => {});
  for (const piece of typeof input === 'string' ? [input] : input) child.stdin.write(piece);
  child.stdin.end();
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** A folder that is gone after the test, and files in it. */
export function folder(t: Test, files: Readonly<Record<string, string>> = {}): string {
  const dir = mkdtempSync(join(tmpdir(), 'oarlock-cli-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
  return dir;
}

/** JSON Lines → values. */
export function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

/** An AuthorizationPolicy in `foo`; `spec` in YAML's flow style. */
export function authz(name: string, spec: string, metadata = ''): string {
  return `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: foo${metadata === '' ? '' : `, ${metadata}`}}
spec: ${spec}
`;
}
