/** `decide`, from outside: how many requests a second `oarlock authz check` answers, its start included. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { devNull, tmpdir } from 'node:os';
import { join } from 'node:path';
import { mixedSpec, nameOf } from './decide.ts';
import type { Figures } from './figures.ts';
import type { BenchOptions } from './options.ts';

const POLICIES = 200;
const REQUESTS = 500_000;
const MAIN = join(import.meta.dirname, '..', 'cli', 'main.ts');

/** Every caller in turn, and now and then one that nobody allows. */
function requestLine(i: number): string {
  const caller = i % 7 === 0 ? 'stranger' : nameOf(i % POLICIES);
  return JSON.stringify({
    id: i,
    principal: `cluster.local/ns/bench/sa/${caller}`,
    sourceIp: '10.0.0.9',
    method: 'GET',
    host: `${caller}.example`,
    path: `/${caller}/7?page=2`,
    headers: { 'x-caller': caller },
    port: 8080,
  });
}

/** Runs the command as anybody would, on files, its answers thrown away. */
export function benchAuthzCheck(options: BenchOptions, figures: Figures): void {
  const folder = mkdtempSync(join(tmpdir(), 'oarlock-bench-'));
  try {
    const items = Array.from({ length: POLICIES }, (_, i) => ({
      apiVersion: 'security.istio.io/v1',
      kind: 'AuthorizationPolicy',
      metadata: { name: nameOf(i), namespace: 'bench' },
      spec: mixedSpec(i),
    }));
    const config = join(folder, 'policies.json');
    const requests = join(folder, 'requests.jsonl');
    writeFileSync(config, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
    writeFileSync(requests, `${Array.from({ length: REQUESTS }, (_, i) => requestLine(i)).join('\n')}\n`);
    for (let round = 0; round < options.rounds; round++) {
      const ms = timeOf(config, requests);
      const row = `${POLICIES} policies, ${REQUESTS.toLocaleString('en')} requests`;
      figures.add('authz check, one process, start included', row, 'ms', ms);
      figures.add(
        'authz check, one process, start included',
        row,
        'decisions a second',
        REQUESTS / (ms / 1000),
      );
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function timeOf(config: string, requests: string): number {
  const sink = openSync(devNull, 'w');
  const flags = [
    '--config',
    config,
    '--namespace',
    'bench',
    '--labels',
    'app=orders',
    '--requests',
    requests,
  ];
  const began = performance.now();
  const { status } = spawnSync(process.execPath, [MAIN, 'authz', 'check', ...flags], {
    stdio: ['ignore', sink, 'inherit'],
  });
  const ms = performance.now() - began;
  closeSync(sink);
  if (status !== 0) throw new Error(`authz check ended with status ${status}`);
  return ms;
}
