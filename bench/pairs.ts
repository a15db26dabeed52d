/** `pairs`: what two sidecars between two apps cost, ours beside every other proxy that is on the machine. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child, nodeScript } from './children.ts';
import { Figures } from './figures.ts';
import * as measure from './measure.ts';
import { type BenchOptions, type Measurement, measures } from './options.ts';
import { issueCredentials } from './peers/credentials.ts';
import type { AllCredentials, Pair } from './peers/peer.ts';
import { startPair } from './peers/start.ts';
import { freePort } from './ports.ts';
import { rows as allRows, isOurs, NONE, type Row } from './rows.ts';
import { aimsOf, ratiosOf, shortOf } from './summaries.ts';
import { LOOPBACK } from './task.ts';
import { verify } from './verify.ts';

const READY_MS = 15_000;
/** p99.9 of a second at 1,000 a second would be one request. */
const RATE_LASTS = 2;
const RATE_CONNECTIONS = 32;
const WARM_UP_MS = 8_000;

interface Running {
  readonly row: Row;
  readonly pair: Pair;
}

/** A row to load, or the app itself. */
interface BenchTarget extends measure.Target {
  readonly running: Running | null;
}

/** A folder for all that a bench writes; gone when the process ends. */
export function benchDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'oarlock-bench-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export interface App {
  readonly child: Child;
  readonly ports: { readonly http1: number; readonly http2: number };
}

export async function startApp(): Promise<App> {
  const child = new Child(nodeScript('bench/app.ts', []), 'line');
  const { ports } = (await child.firstLine(READY_MS)) as unknown as Pick<App, 'ports'>;
  return { child, ports };
}

/** Runs all rounds. @throws where our own row cannot start; a peer that cannot is left out, and said so */
export async function benchPairs(options: BenchOptions, figures: Figures): Promise<void> {
  const dir = benchDir();
  const app = await startApp();
  const credentials = await issueCredentials(dir);
  const running: Running[] = [];
  for (const row of wanted(options)) {
    const pair = await start(row, { app, credentials, dir, options, figures });
    if (pair !== null) running.push({ row, pair });
  }
  const bench = new Bench(options, figures, running, app);
  say('warming up');
  await bench.warmUp();
  for (let round = 1; round <= options.rounds; round++) {
    say(`round ${round} of ${options.rounds}`);
    await bench.round();
  }
  await bench.last();
  for (const { pair } of running) await pair.stop();
  await app.child.stop();
  const measured = running.map(({ row }) => row);
  figures.after(shortOf(figures, measured), ratiosOf(figures, measured), aimsOf(figures));
}

function wanted({ rows }: BenchOptions): readonly Row[] {
  for (const id of rows ?? []) {
    if (id !== NONE.id && !allRows.some((row) => row.id === id)) {
      throw new Error(
        `there is no row ${id}; there are ${[NONE, ...allRows].map(({ id }) => id).join(', ')}`,
      );
    }
  }
  return allRows.filter(({ id }) => rows === null || rows.includes(id));
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

interface StartOptions {
  readonly app: App;
  readonly credentials: AllCredentials;
  readonly dir: string;
  readonly options: BenchOptions;
  readonly figures: Figures;
}

/** @returns null where the peer is not there or does not do what it must */
async function start(
  row: Row,
  { app, credentials, dir, options, figures }: StartOptions,
): Promise<Pair | null> {
  const { peer, protocol, hbone, http2App } = row;
  const leaveOut = (why: string): null => {
    say(`!!! ${row.name} is LEFT OUT: ${why}`);
    figures.note(`${row.name}: **left out**: ${why}.`);
    return null;
  };
  const missing = peer.missing();
  if (missing !== null) return leaveOut(missing);
  try {
    const pair = await startPair(peer, {
      ...{ protocol, credentials },
      tunnelled: hbone ? await freePort() : null,
      app: http2App ? app.ports.http2 : app.ports.http1,
      dir: join(dir, row.id),
      accessLog: options.accessLog,
    });
    await verify(row, pair, credentials);
    if (measures(options, 'memory') && protocol !== 'tcp') await measure.memoryIdle(figures, row.name, pair);
    figures.note(`${row.name}: ${peer.note}.`);
    say(`${row.name}: serves, mutual TLS checked`);
    return pair;
  } catch (error) {
    if (isOurs(row)) throw error;
    return leaveOut((error as Error).message);
  }
}

class Bench {
  readonly #options: BenchOptions;
  readonly #figures: Figures;
  readonly #running: readonly Running[];
  readonly #app: App;
  readonly #targets: readonly BenchTarget[];

  constructor(options: BenchOptions, figures: Figures, running: readonly Running[], app: App) {
    this.#options = options;
    this.#figures = figures;
    this.#running = running;
    this.#app = app;
    const none = { name: NONE.name, host: LOOPBACK, port: app.ports.http1, pids: [], running: null };
    this.#targets = [
      ...(options.rows === null || options.rows.includes(NONE.id) ? [none] : []),
      ...running.map((one) => ({
        name: one.row.name,
        host: one.pair.host,
        port: one.pair.egress,
        pids: one.pair.pids,
        running: one,
      })),
    ];
  }

  /** A daemon runs for days: what its first seconds cost more (a JIT compiles, pools fill) is told by the row `start`. */
  async warmUp(): Promise<void> {
    const nowhere = new Figures();
    await this.#eachHttp((target) => measure.keepAlive(nowhere, target, RATE_CONNECTIONS, WARM_UP_MS));
    await this.#eachTarget((target) =>
      measure.fresh(nowhere, target, target.running?.row.protocol === 'tcp' ? WARM_UP_MS : WARM_UP_MS / 3),
    );
  }

  /** Everything once, each row after the other in each, so that a noisy minute spoils a round and not a row. */
  async round(): Promise<void> {
    const { seconds, connections, rate } = this.#options;
    const ms = seconds * 1000;
    const figures = this.#figures;
    const wanted = (name: Measurement): boolean => measures(this.#options, name);
    if (wanted('load')) {
      for (const count of connections) {
        await this.#eachHttp((target) => measure.keepAlive(figures, target, count, ms));
      }
    }
    if (wanted('rate')) {
      await this.#eachHttp((target) =>
        measure.fixedRate(figures, target, rate, RATE_CONNECTIONS, RATE_LASTS * ms),
      );
    }
    if (wanted('bulk')) await this.#eachHttp((target) => measure.bulk(figures, target, ms));
    if (wanted('fresh')) await this.#eachTarget((target) => measure.fresh(figures, target, ms));
    if (wanted('start')) {
      await this.#eachHttpPair(async ({ row, pair }) => {
        const table = "start: the caller's side, from its process to its first answer of 200";
        figures.add(table, row.name, 'ms', await pair.timedStart());
      });
    }
  }

  /** What would disturb the rounds. */
  async last(): Promise<void> {
    if (!measures(this.#options, 'memory')) return;
    const { http1 } = this.#app.ports;
    await this.#eachHttpPair(({ row, pair }) =>
      measure.memoryHeld(this.#figures, row.name, pair, pair.app ?? { host: LOOPBACK, port: http1 }),
    );
  }

  /** All but the rows of TCP. */
  async #eachHttp(of: (target: measure.Target) => Promise<void>): Promise<void> {
    await this.#eachTarget(of, (row) => row.protocol !== 'tcp');
  }

  async #eachTarget(
    of: (target: BenchTarget) => Promise<void>,
    isWanted: (row: Row) => boolean = () => true,
  ): Promise<void> {
    for (const target of this.#targets) {
      if (target.running !== null && !isWanted(target.running.row)) continue;
      await this.#attempt(target.running, () => of(target));
      target.running?.pair.emptyLogs();
    }
  }

  async #eachHttpPair(of: (running: Running) => Promise<void>): Promise<void> {
    for (const one of this.#running) {
      if (one.row.protocol !== 'tcp') await this.#attempt(one, () => of(one));
    }
  }

  /** A fault costs a cell and is told; of ours, or of the app, it makes the bench fail once all is measured. */
  async #attempt(running: Running | null, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      if (running === null || isOurs(running.row)) process.exitCode = 1;
      const { message } = error as Error;
      say(`!!! ${message}`);
      this.#figures.note(`**failed once**: ${message}.`);
    }
  }
}
