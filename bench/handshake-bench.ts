/** `handshakes`: what full and resumed mutual TLS handshakes cost each proxy, as their server and as their client. */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ask } from './children.ts';
import { type FarCounts, FarServer } from './far-server.ts';
import { Figures } from './figures.ts';
import {
  cellName,
  cellsOf,
  GROUPS,
  type HandshakeCell,
  type HandshakeKind,
  type HandshakeRow,
  handshakeRows,
  KEYS,
  type KeyId,
  OURS,
} from './handshake-rows.ts';
import { A_HANDSHAKE, handshakeSummaries } from './handshake-summaries.ts';
import { load } from './measure.ts';
import type { HandshakeOptions } from './options.ts';
import { type App, benchDir, startApp } from './pairs.ts';
import { issueCredentials, issueRsaCredentials } from './peers/credentials.ts';
import { envoy } from './peers/envoy.ts';
import type { AllCredentials, SideTls, Wanted } from './peers/peer.ts';
import { type Process, startSide } from './peers/start.ts';
import { askPlain, askTls } from './request.ts';
import { type HandshakeResult, type HandshakeTask, LOOPBACK } from './task.ts';

/** Connections under way at once. */
const CONCURRENCY = 8;
const WARM_UP_MS = 300;
/** Before its first round, where a row warms up. */
const FIRST_WARM_UP_MS = 2_500;
const ALPN = ['istio-http/1.1', 'istio', 'http/1.1'];
/** Some clients lose a session now and then, as nginx does where connections share one: told from the first share on. */
const OTHER_KIND = { told: 0.02, most: 0.2 } as const;

/** One proxy that runs, and is measured in one cell. */
interface Subject {
  readonly row: HandshakeRow;
  readonly cell: HandshakeCell;
  readonly process: Process;
  /** As the client: the server it dials. */
  readonly far: FarServer | null;
}

/** Measures every cell: all rows in each round, so that a noisy minute spoils a round and not a row. */
export async function benchHandshakes(options: HandshakeOptions, figures: Figures): Promise<void> {
  const dir = benchDir();
  const app = await startApp();
  const rows = wantedRows(options, figures);
  const hasFar = envoy.missing() === null;
  if (!hasFar) leaveOut('all as clients', envoy.missing() ?? '', figures);
  const cells: HandshakeCell[] = [];
  for (const key of options.keys) {
    const credentials = await credentialsOf(key, join(dir, key), figures);
    if (credentials === null) continue;
    for (const group of options.groups) {
      const some = cellsOf(key, group, key === options.keys[0]).filter(
        ({ side }) => side === 'server' || hasFar,
      );
      cells.push(...some);
      const subjects = await startAll(
        some,
        { rows, credentials, app, dir: join(dir, `${key}-${group}`) },
        figures,
      );
      await measureAll(subjects, credentials, options, figures);
      await stopAll(subjects);
    }
  }
  await app.child.stop();
  figures.after(
    ...handshakeSummaries(
      figures,
      cells,
      rows.map(({ name }) => name),
    ),
  );
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

/** @throws where one is asked for that there is not */
function wantedRows({ rows }: HandshakeOptions, figures: Figures): readonly HandshakeRow[] {
  const ids = handshakeRows.map(({ id }) => id);
  for (const id of rows ?? ids) {
    if (!ids.includes(id)) throw new Error(`there is no row ${id}; there are ${ids.join(', ')}`);
  }
  return handshakeRows.filter(({ id, name, peer }) => {
    if (rows !== null && !rows.includes(id)) return false;
    const missing = peer.missing();
    if (missing !== null) leaveOut(name, missing, figures);
    return missing === null;
  });
}

function leaveOut(what: string, why: string, figures: Figures): void {
  say(`!!! LEFT OUT: ${what}: ${why}`);
  figures.note(`**left out**: ${what}: ${why}.`);
}

/** @returns null where `openssl` is missing, which makes the RSA keys' certificates */
async function credentialsOf(key: KeyId, dir: string, figures: Figures): Promise<AllCredentials | null> {
  if (key === 'p256') return issueCredentials(dir);
  try {
    return issueRsaCredentials(dir);
  } catch (error) {
    leaveOut(`${KEYS[key]} keys`, (error as Error).message, figures);
    return null;
  }
}

interface Setting {
  readonly rows: readonly HandshakeRow[];
  readonly credentials: AllCredentials;
  readonly app: App;
  readonly dir: string;
}

/** Every row that has the group, once as the server and once a kind as the client. */
async function startAll(
  cells: readonly HandshakeCell[],
  setting: Setting,
  figures: Figures,
): Promise<readonly Subject[]> {
  const subjects: Subject[] = [];
  for (const row of setting.rows) {
    let server: Process | null = null;
    for (const cell of cells) {
      const group = GROUPS[cell.group];
      if (!row.peer.groups.includes(group)) {
        figures.note(`${row.name}: has no ${group} here.`);
        continue;
      }
      try {
        if (cell.side === 'client') subjects.push(await startClient(row, cell, setting));
        else {
          server ??= await startServer(row, cell, setting);
          subjects.push({ row, cell, process: server, far: null });
        }
      } catch (error) {
        failed(row, cell, error as Error, figures);
      }
    }
  }
  return subjects;
}

/** A fault costs a cell and is told; of ours, it makes the bench fail once all is measured. */
function failed(row: HandshakeRow, cell: HandshakeCell, error: Error, figures: Figures): void {
  if (row.id === OURS) process.exitCode = 1;
  leaveOut(`${row.name}, ${cellName(cell)}`, error.message, figures);
}

function wantedOf(row: HandshakeRow, cell: HandshakeCell, setting: Setting, tls: SideTls): Wanted {
  return {
    protocol: cell.side === 'server' ? 'http1' : row.asClient,
    tunnelled: null,
    app: setting.app.ports.http1,
    dir: setting.dir,
    credentials: setting.credentials,
    accessLog: true,
    tls,
  };
}

/** @throws where it does not start, or answers whom it must not */
async function startServer(row: HandshakeRow, cell: HandshakeCell, setting: Setting): Promise<Process> {
  const { app, dir, credentials } = setting;
  const wanted = wantedOf(row, cell, setting, { groups: [GROUPS[cell.group]], resumes: null, keeps: true });
  const process = await startSide(row.peer, wanted, 'callee', app.ports.http1, join(dir, `${row.id}-server`));
  const { cert, key, root } = credentials.web;
  const anyone = { ca: readFileSync(root), ALPNProtocols: [...ALPN] };
  const known = { ...anyone, cert: readFileSync(cert), key: readFileSync(key) };
  const allowed = await askTls(process.port, known);
  const anonymous = await askTls(process.port, anyone);
  const plain = await askPlain(process.port);
  if (allowed === 200 && anonymous !== 200 && plain !== 200) return process;
  await process.child.stop();
  throw new Error(`answers its caller ${allowed}, one without certificate ${anonymous}, plaintext ${plain}`);
}

/** @throws where no request comes through it */
async function startClient(row: HandshakeRow, cell: HandshakeCell, setting: Setting): Promise<Subject> {
  const { orders } = setting.credentials;
  const group = GROUPS[cell.group];
  const resumes = cell.kind === 'resumed';
  const dir = join(setting.dir, `${row.id}-client-${cell.kind}`);
  mkdirSync(dir, { recursive: true });
  const far = await FarServer.start({ dir, credentials: orders, group, resumes });
  try {
    const wanted = wantedOf(row, cell, setting, { groups: [group], resumes, keeps: false });
    return { row, cell, process: await startSide(row.peer, wanted, 'caller', far.port, dir), far };
  } catch (error) {
    await far.stop();
    throw error;
  }
}

async function stopAll(subjects: readonly Subject[]): Promise<void> {
  await Promise.all(subjects.flatMap(({ process, far }) => [process.child.stop(), far?.stop()]));
}

async function measureAll(
  subjects: readonly Subject[],
  credentials: AllCredentials,
  { rounds, seconds }: HandshakeOptions,
  figures: Figures,
): Promise<void> {
  const nowhere = new Figures();
  const [first] = subjects;
  if (first === undefined) return;
  for (let round = 0; round <= rounds; round++) {
    const { key, group } = first.cell;
    say(`${key} keys, ${group}: ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`);
    for (const subject of inTables(subjects)) {
      if (round === 0 && !subject.row.warmsUp) continue;
      const to = round === 0 ? nowhere : figures;
      const ms = round === 0 ? FIRST_WARM_UP_MS : seconds * 1000;
      try {
        if (subject.far === null) await measureServer(subject, credentials, ms, to);
        else await measureClient(subject, subject.far, ms, to);
      } catch (error) {
        failed(subject.row, subject.cell, error as Error, figures);
      }
    }
  }
}

/** Rows of a table behind each other: what is compared lies close. */
function inTables(subjects: readonly Subject[]): readonly Subject[] {
  const cells = new Set(subjects.map(({ cell }) => cell));
  return [...cells].flatMap((cell) => subjects.filter((subject) => subject.cell === cell));
}

interface Counted {
  readonly cpuMs: number | null;
  readonly count: number;
  readonly seconds: number;
}

function add(figures: Figures, cell: HandshakeCell, { name }: HandshakeRow, of: Counted): void {
  const { cpuMs, count, seconds } = of;
  const table = cellName(cell);
  figures.add(table, name, A_HANDSHAKE, cpuMs === null ? null : (cpuMs * 1000) / count);
  figures.add(table, name, 'handshakes a CPU second', cpuMs === null ? null : count / (cpuMs / 1000));
  figures.add(table, name, 'handshakes/s here', count / seconds);
}

async function measureServer(
  { row, cell, process }: Subject,
  { web: { cert, key, root } }: AllCredentials,
  measureMs: number,
  figures: Figures,
): Promise<void> {
  const task: HandshakeTask = {
    port: process.port,
    ...{ cert, key, root, measureMs },
    group: GROUPS[cell.group],
    resumed: cell.kind === 'resumed',
    concurrency: CONCURRENCY,
    warmUpMs: WARM_UP_MS,
    pids: [process.child.pid],
  };
  const { handshakes, errors, seconds, cpuMs } = await ask<HandshakeResult>('bench/handshakes.ts', task);
  if (errors > 0) throw new Error(`${errors} handshakes failed or were of the other kind`);
  if (handshakes === 0) throw new Error('no handshake was finished in time');
  add(figures, cell, row, { cpuMs, count: handshakes, seconds });
}

/** Each request comes on a connection of its own, which makes one of TLS: the far server has counted them. */
async function measureClient(
  { row, cell, process }: Subject,
  far: FarServer,
  measureMs: number,
  figures: Figures,
): Promise<void> {
  const before = await far.counts();
  const target = { name: row.name, host: LOOPBACK, port: process.port, pids: [process.child.pid] };
  const what = { path: '/close', connections: CONCURRENCY, measureMs, fresh: true };
  const { requests, seconds, cpuMs } = await load(target, what);
  const after = await far.counts();
  const made: FarCounts = { full: after.full - before.full, resumed: after.resumed - before.resumed };
  const other: HandshakeKind = cell.kind === 'full' ? 'resumed' : 'full';
  const share = made[other] / (made.full + made.resumed);
  const text = `${(share * 100).toFixed(0)} % of its handshakes were ${other}`;
  if (share > OTHER_KIND.most) throw new Error(text);
  if (share > OTHER_KIND.told) figures.note(`${row.name}, ${cellName(cell)}: ${text}.`);
  if (made.full + made.resumed < requests) throw new Error('some requests shared a connection');
  add(figures, cell, row, { cpuMs, count: requests, seconds });
}
