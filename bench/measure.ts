/** One measurement each of one row: loads, memory. */
import { ask, Child, nodeScript } from './children.ts';
import type { Figures } from './figures.ts';
import type { Address, Pair } from './peers/peer.ts';
import { connectionsTo, memoryOf } from './proc.ts';
import type { HeldResult, HeldTask, LoadResult, LoadTask } from './task.ts';

const WARM_UP_MS = 300;
/** A quiet moment before memory is looked at. */
const QUIET_MS = 500;
/** Two keep-alive downloads at a time. */
const BULK_CONNECTIONS = 2;
const FRESH_CONNECTIONS = 32;
const HELD_CONNECTIONS = 1_000;
const HELD_MS = 30_000;

/** Table and column of what the aims are about. */
export const CPU = 'CPU µs/request, both';
export const A_CPU_SECOND = 'requests a CPU second, both';
export const BULK_CPU = 'CPU ms/100 MB, both';

export const BULK_TABLE = `10 MB answers, ${BULK_CONNECTIONS} connections`;

export const FRESH_TABLE = `1 KiB, a connection a request at both apps, ${FRESH_CONNECTIONS} at a time`;

export const HELD_TABLE = memoryTable(`${HELD_CONNECTIONS.toLocaleString('en')} requests open`);

function memoryTable(when: string): string {
  return `memory, ${when}`;
}

export function keepAliveTable(connections: number): string {
  return `1 KiB, full load, ${connections} connection${connections === 1 ? '' : 's'}`;
}

export function rateTable(rate: number, connections: number): string {
  return `1 KiB, ${rate.toLocaleString('en')} requests/s, ${connections} connections`;
}

/** Where a load goes: through a pair, or to the app itself. */
export interface Target {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  /** Whose CPU counts; empty for none. */
  readonly pids: readonly number[];
}

type Load = Pick<LoadTask, 'path' | 'connections' | 'measureMs'> & Partial<LoadTask>;

/** @throws where an answer was wrong: figures of errors say nothing */
export async function load(target: Target, what: Load): Promise<LoadResult> {
  const { host, port, pids } = target;
  const task: LoadTask = { warmUpMs: WARM_UP_MS, fresh: false, rate: null, ...what, host, port, pids };
  const result = await ask<LoadResult>('bench/load.ts', { ...task });
  if (result.errors > 0) throw new Error(`${target.name}, ${what.path}: ${result.errors} answers were wrong`);
  if (result.requests === 0) throw new Error(`${target.name}, ${what.path}: nothing was answered in time`);
  return pids.length > 0 ? result : { ...result, cpuMs: null };
}

export async function keepAlive(
  figures: Figures,
  target: Target,
  connections: number,
  measureMs: number,
): Promise<void> {
  const result = await load(target, { path: '/small', connections, measureMs });
  addRequests(figures, keepAliveTable(connections), target.name, result);
}

export async function fixedRate(
  figures: Figures,
  target: Target,
  rate: number,
  connections: number,
  measureMs: number,
): Promise<void> {
  const result = await load(target, { path: '/small', connections, rate, measureMs });
  addRequests(figures, rateTable(rate, connections), target.name, result);
}

/**
 * The client opens a connection for each request, and the app closes its own after each. To a proxy of HTTP that is
 * `Connection: close`; to one of TCP a connection that is opened, carries a request and its answer, and ends.
 */
export async function fresh(figures: Figures, target: Target, measureMs: number): Promise<void> {
  const what = { path: '/close', connections: FRESH_CONNECTIONS, measureMs, fresh: true };
  const result = await load(target, what);
  addRequests(figures, FRESH_TABLE, target.name, result);
  const { requests, cpuMs } = result;
  figures.add(FRESH_TABLE, target.name, A_CPU_SECOND, cpuMs === null ? null : requests / (cpuMs / 1000));
}

function addRequests(figures: Figures, table: string, row: string, result: LoadResult): void {
  const { requests, seconds, cpuMs, p50Ms, p99Ms, p999Ms } = result;
  figures.add(table, row, CPU, cpuMs === null ? null : (cpuMs * 1000) / requests);
  figures.add(table, row, 'requests/s', requests / seconds);
  figures.add(table, row, 'p50 ms', p50Ms);
  figures.add(table, row, 'p99 ms', p99Ms);
  figures.add(table, row, 'p99.9 ms', p999Ms);
}

export async function bulk(figures: Figures, target: Target, measureMs: number): Promise<void> {
  const { bytes, seconds, cpuMs } = await load(target, {
    path: '/bulk',
    connections: BULK_CONNECTIONS,
    measureMs,
  });
  figures.add(BULK_TABLE, target.name, BULK_CPU, cpuMs === null ? null : cpuMs / (bytes / 1e8));
  figures.add(BULK_TABLE, target.name, 'MB/s', bytes / 1e6 / seconds);
}

/** Memory of both sides now. */
export async function memoryIdle(figures: Figures, row: string, pair: Pair): Promise<void> {
  await quiet();
  addMemory(figures, memoryTable('idle, after one request'), row, pair);
}

function addMemory(figures: Figures, table: string, row: string, pair: Pair): void {
  for (const [side, pid] of [
    ['caller', pair.callerPid],
    ['callee', pair.calleePid],
  ] as const) {
    const now = memoryOf(pid);
    figures.add(table, row, `${side} RSS MB`, now?.rssMb ?? null);
    figures.add(table, row, `${side} RssAnon MB`, now?.rssAnonMb ?? null);
  }
}

/** Memory while a thousand requests wait for the app, and how many connections lie between the sides meanwhile. */
export async function memoryHeld(figures: Figures, row: string, pair: Pair, app: Address): Promise<void> {
  const { host, egress: port } = pair;
  const task: HeldTask = { host, port, app, connections: HELD_CONNECTIONS, withinMs: HELD_MS };
  const child = new Child(nodeScript('bench/held.ts', [JSON.stringify(task)]), 'line');
  const { held } = (await child.firstLine(2 * HELD_MS)) as unknown as HeldResult;
  if (held !== HELD_CONNECTIONS) {
    await child.stop();
    throw new Error(`${row}: of ${HELD_CONNECTIONS} requests at once ${held} reached the app`);
  }
  await quiet();
  addMemory(figures, HELD_TABLE, row, pair);
  figures.add(HELD_TABLE, row, 'connections between', connectionsTo(pair.ingress, pair.callerPid));
  await child.stop();
}

function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, QUIET_MS));
}
