/** `pair`: what two sidecars between two apps cost, beside the same load without them. */
import { ask } from './children.ts';
import type { Figures } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { memoryOf } from './proc.ts';
import { benchDir, type Pair, startPair } from './sidecars.ts';
import type { HandshakeResult, HandshakeTask, LoadResult, LoadTask } from './task.ts';

const WARM_UP_MS = 500;
/** A quiet second before memory is looked at. */
const QUIET_MS = 1_000;
/** Two keep-alive downloads at a time. */
const BULK_CONNECTIONS = 2;
const FRESH_CONNECTIONS = 32;
const HANDSHAKE_CONCURRENCY = 8;

type RowName = 'no proxy' | 'Oarlock pair';

interface Row {
  readonly name: RowName;
  readonly port: number;
  readonly pids: readonly number[];
}

/** Runs all rounds. @throws where an answer was wrong: figures of errors say nothing */
export async function benchPair(options: BenchOptions, figures: Figures): Promise<void> {
  const pair = await startPair({ dir: benchDir(), timedStarts: options.rounds });
  for (const ms of pair.startMs)
    figures.add('start', 'one sidecar, credentials from files', 'ms to the ready line', ms);
  await idle(QUIET_MS);
  addMemory(figures, pair, 'idle, before any request');
  const rows: readonly Row[] = [
    { name: 'no proxy', port: pair.ports.app, pids: [] },
    { name: 'Oarlock pair', port: pair.ports.egress, pids: pair.pids },
  ];
  const measureMs = options.seconds * 1000;
  // Each round has everything once, so that a noisy minute spoils a round and not a row.
  for (let round = 1; round <= options.rounds; round++) {
    process.stderr.write(`bench: round ${round} of ${options.rounds}\n`);
    for (const connections of options.connections) {
      for (const row of rows) await keepAlive(figures, row, connections, measureMs);
      pair.emptyLogs();
    }
    for (const row of rows) await bulk(figures, row, measureMs);
    for (const row of rows) await fresh(figures, row, measureMs);
    for (const resumed of [false, true]) await handshakes(figures, pair, resumed, measureMs);
    pair.emptyLogs();
  }
  await idle(QUIET_MS);
  addMemory(figures, pair, 'idle again, after all of it');
  if ((await pair.counted()) === 0) throw new Error('no request was counted as mutual TLS');
  await pair.stop();
}

function idle(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function addMemory(figures: Figures, { caller, callee }: Pair, when: string): void {
  for (const [name, child] of [
    ['caller', caller],
    ['callee', callee],
  ] as const) {
    const memory = memoryOf(child.pid);
    figures.add(`memory, ${when}`, name, 'RSS MB', memory?.rssMb ?? null);
    figures.add(`memory, ${when}`, name, 'RssAnon MB', memory?.rssAnonMb ?? null);
  }
}

type Load = Pick<LoadTask, 'path' | 'connections' | 'measureMs'> & { readonly fresh?: boolean };

/** One measurement of one row. CPU is that of the row's sidecars; null where there are none. */
export async function load(row: Pick<Row, 'port' | 'pids'>, what: Load): Promise<LoadResult> {
  const task: LoadTask = { ...what, fresh: what.fresh ?? false, ...row, warmUpMs: WARM_UP_MS };
  const result = await ask<LoadResult>('bench/load.ts', { ...task });
  if (result.errors > 0) throw new Error(`${what.path}: ${result.errors} of the answers were wrong`);
  if (result.requests === 0) throw new Error(`${what.path}: nothing was answered in time`);
  return row.pids.length > 0 ? result : { ...result, cpuMs: null };
}

async function keepAlive(figures: Figures, row: Row, connections: number, measureMs: number): Promise<void> {
  const result = await load(row, { path: '/small', connections, measureMs });
  const table = `1 KiB, keep-alive, ${connections} connection${connections === 1 ? '' : 's'}`;
  addRequests(figures, table, row.name, result);
}

function addRequests(figures: Figures, table: string, name: RowName, result: LoadResult): void {
  const { requests, seconds, cpuMs, p50Ms, p99Ms } = result;
  figures.add(table, name, 'CPU µs/request, both', cpuMs === null ? null : (cpuMs * 1000) / requests);
  figures.add(table, name, 'requests/s', requests / seconds);
  figures.add(table, name, 'p50 ms', p50Ms);
  figures.add(table, name, 'p99 ms', p99Ms);
}

async function bulk(figures: Figures, row: Row, measureMs: number): Promise<void> {
  const { bytes, seconds, cpuMs } = await load(row, {
    path: '/bulk',
    connections: BULK_CONNECTIONS,
    measureMs,
  });
  const hundredMb = bytes / 1e8;
  const table = `10 MB answers, ${BULK_CONNECTIONS} connections`;
  figures.add(table, row.name, 'CPU ms/100 MB, both', cpuMs === null ? null : cpuMs / hundredMb);
  figures.add(table, row.name, 'MB/s', bytes / 1e6 / seconds);
}

async function fresh(figures: Figures, row: Row, measureMs: number): Promise<void> {
  const what = { path: '/close', connections: FRESH_CONNECTIONS, measureMs, fresh: true };
  const table = `1 KiB, a connection a request at both apps, ${FRESH_CONNECTIONS} at a time`;
  addRequests(figures, table, row.name, await load(row, what));
}

async function handshakes(figures: Figures, pair: Pair, resumed: boolean, measureMs: number): Promise<void> {
  const task: HandshakeTask = {
    port: pair.ports.ingress,
    certDir: pair.certDir,
    concurrency: HANDSHAKE_CONCURRENCY,
    warmUpMs: WARM_UP_MS,
    measureMs,
    resumed,
    pids: [pair.callee.pid],
  };
  const result = await ask<HandshakeResult>('bench/handshakes.ts', task);
  if (result.errors > 0) throw new Error(`${result.errors} handshakes failed or were of the other kind`);
  if (result.handshakes === 0) throw new Error('no handshake was finished in time');
  const table = `mTLS handshakes with inbound, ${HANDSHAKE_CONCURRENCY} at a time`;
  const row = resumed ? 'resumed' : 'full';
  const { cpuMs } = result;
  figures.add(table, row, 'server CPU ms/handshake', cpuMs === null ? null : cpuMs / result.handshakes);
  figures.add(table, row, 'handshakes/s', result.handshakes / result.seconds);
}
