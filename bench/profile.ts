/** `profile`: where the pair's CPU time goes by function, from V8's sampling profiler. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { load } from './measure.ts';
import type { BenchOptions, Measurement } from './options.ts';
import { benchDir, startApp } from './pairs.ts';
import { issueCredentials } from './peers/credentials.ts';
import { startPair } from './peers/start.ts';
import { freePort } from './ports.ts';
import { OURS, type Row, rows } from './rows.ts';

const SHOWN = 25;
const ROOT = join(import.meta.dirname, '..');

/** The parts of a .cpuprofile that are read here. */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  /** Microseconds before each sample. */
  readonly timeDeltas: readonly number[];
}

/** Loads the pair under the profiler and prints the functions that took the most time of their own. */
export async function benchProfile(options: BenchOptions): Promise<void> {
  const dir = benchDir();
  const profiles = join(dir, 'profiles');
  mkdirSync(profiles);
  const app = await startApp();
  const row = wantedRow(options);
  const { peer, protocol, hbone, http2App } = row;
  const pair = await startPair(peer, {
    protocol,
    tunnelled: hbone ? await freePort() : null,
    app: http2App ? app.ports.http2 : app.ports.http1,
    dir,
    credentials: await issueCredentials(dir),
    accessLog: options.accessLog,
    nodeFlags: ['--cpu-prof', `--cpu-prof-dir=${profiles}`],
  });
  const [connections = 32] = options.connections;
  const target = { name: row.name, host: pair.host, port: pair.egress, pids: pair.pids };
  const measureMs = options.seconds * options.rounds * 1000;
  const { requests, seconds, cpuMs } = await load(target, {
    ...wantedLoad(options),
    ...{ connections, measureMs },
  });
  // The profiles are written as the processes leave.
  await pair.stop();
  await app.child.stop();
  const self = new Map<string, number>();
  let busy = 0;
  for (const name of readdirSync(profiles)) {
    busy += addTo(self, JSON.parse(readFileSync(join(profiles, name), 'utf8')) as CpuProfile, measureMs);
  }
  const perRequest = cpuMs === null ? '' : `, ${((cpuMs * 1000) / requests).toFixed(0)} µs CPU a request`;
  process.stdout.write(
    `${row.name}, ${connections} connections, ${Math.round(requests / seconds)} requests/s${perRequest}, both under the profiler.\n\n| share of busy time | function |\n| ---: | --- |\n`,
  );
  const top = [...self].toSorted(([, a], [, b]) => b - a).slice(0, SHOWN);
  for (const [name, micros] of top) {
    process.stdout.write(`| ${((micros / busy) * 100).toFixed(1)} % | ${name} |\n`);
  }
}

/** What may be profiled, by the name of its measurement. */
const LOADS: Partial<Record<Measurement, { readonly path: string; readonly fresh?: true }>> = {
  load: { path: '/small' },
  bulk: { path: '/bulk' },
  fresh: { path: '/close', fresh: true },
};

function wantedLoad({ measurements }: BenchOptions): { readonly path: string; readonly fresh?: true } {
  const [name = 'load'] = measurements ?? [];
  const found = LOADS[name];
  if (found === undefined) throw new Error(`profile takes --measure ${Object.keys(LOADS).join(', ')}`);
  return found;
}

function wantedRow(options: BenchOptions): Row {
  const [id = OURS] = options.rows ?? [];
  const row = rows.find((row) => row.id === id && id.startsWith(OURS));
  if (row === undefined) throw new Error(`there is no row of ours ${id}`);
  return row;
}

/**
 * Adds the time of their own that a profile's functions took in its last `lastMs`: what comes before is start-up.
 * @returns the time the thread was not idle
 */
function addTo(self: Map<string, number>, profile: CpuProfile, lastMs: number): number {
  const { nodes, samples, timeDeltas } = profile;
  const names = new Map(nodes.map(({ id, callFrame }) => [id, nameOf(callFrame)]));
  let busy = 0;
  let left = lastMs * 1000;
  for (let i = samples.length - 1; i >= 0 && left > 0; i--) {
    const micros = timeDeltas[i] ?? 0;
    left -= micros;
    const name = names.get(samples[i] ?? 0) ?? '';
    if (name === '(idle)' || name === '(root)') continue;
    busy += micros;
    self.set(name, (self.get(name) ?? 0) + micros);
  }
  return busy;
}

function nameOf({ functionName, url, lineNumber }: CpuProfile['nodes'][number]['callFrame']): string {
  if (url === '') return functionName;
  const file = url.startsWith('file:') ? relative(ROOT, fileURLToPath(url)) : url;
  return `\`${functionName === '' ? '(anonymous)' : functionName}\` ${file}:${lineNumber + 1}`;
}
