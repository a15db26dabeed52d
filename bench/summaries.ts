/** What the tables come to: each row in short, our figures beside each peer's, and which of the aims are met. */
import { type Figures, median, type Summary, spread, tableOf } from './figures.ts';
import {
  BULK_CPU,
  BULK_TABLE,
  CPU,
  HANDSHAKE_CPU,
  HELD_TABLE,
  handshakeTable,
  keepAliveTable,
  rateTable,
} from './measure.ts';
import { NONE, OURS, type Row, rows } from './rows.ts';

/** A figure by its table and column, less being better. */
interface Measure {
  readonly name: string;
  readonly table: string;
  readonly column: string;
}

const CONNECTIONS = 32;
const RATE = 1_000;

const cpu: Measure = { name: 'CPU a request', table: keepAliveTable(CONNECTIONS), column: CPU };
const bulk: Measure = { name: 'CPU a byte', table: BULK_TABLE, column: BULK_CPU };
const p99: Measure = { name: 'p99 at 1,000/s', table: rateTable(RATE, CONNECTIONS), column: 'p99 ms' };
const handshake = (group: string, resumed: boolean): Measure => ({
  name: `${resumed ? 'resumed' : 'full'} handshake, ${group}`,
  table: handshakeTable(group, resumed),
  column: HANDSHAKE_CPU,
});

interface Aim {
  readonly measure: Measure;
  /** The row's id. */
  readonly peer: string;
  readonly atMost: number;
}

const aims: readonly Aim[] = [
  { measure: cpu, peer: 'envoy', atMost: 0.5 },
  { measure: cpu, peer: 'haproxy', atMost: 1.3 },
  { measure: bulk, peer: 'envoy', atMost: 1.5 },
  { measure: handshake('X25519', false), peer: 'envoy', atMost: 1.2 },
  { measure: handshake('X25519MLKEM768', false), peer: 'envoy', atMost: 1.2 },
  { measure: handshake('X25519', true), peer: 'envoy', atMost: 0.9 },
  { measure: handshake('X25519MLKEM768', true), peer: 'envoy', atMost: 0.9 },
  { measure: p99, peer: 'envoy', atMost: 1 },
];

const compared: readonly Measure[] = [
  { name: 'CPU a request, 1 connection', table: keepAliveTable(1), column: CPU },
  { name: 'CPU a request, 32 connections', table: keepAliveTable(CONNECTIONS), column: CPU },
  { name: 'CPU a request, 256 connections', table: keepAliveTable(256), column: CPU },
  { name: 'p99 at full load, 32 connections', table: keepAliveTable(CONNECTIONS), column: 'p99 ms' },
  { ...p99, name: 'p50 at 1,000/s', column: 'p50 ms' },
  p99,
  { ...p99, name: 'p99.9 at 1,000/s', column: 'p99.9 ms' },
  { ...p99, name: 'CPU a request at 1,000/s', column: CPU },
  bulk,
  handshake('X25519', false),
  handshake('X25519', true),
  handshake('X25519MLKEM768', false),
  handshake('X25519MLKEM768', true),
];

function nameOf(id: string): string {
  return rows.find((row) => row.id === id)?.name ?? id;
}

/** Ours divided by the peer's, round by round where both have all rounds: what disturbed one disturbed the other. Null where either is missing. */
function ratio(
  figures: Figures,
  { table, column }: Measure,
  row: string,
  peer: string,
): readonly number[] | null {
  const ours = figures.roundsOf(table, row, column);
  const theirs = figures.roundsOf(table, peer, column);
  if (ours.length === 0 || theirs.length === 0) return null;
  if (ours.length !== theirs.length) return [median(ours) / median(theirs)];
  return ours.map((value, round) => value / (theirs[round] ?? Number.NaN));
}

/** Few figures of each row, for a README: medians alone. */
export function shortOf(figures: Figures, running: readonly Row[]): Summary {
  const full = handshake('X25519', false);
  const columns: readonly (readonly [string, (row: string) => readonly number[]])[] = [
    ['CPU µs a request', (row) => figures.roundsOf(cpu.table, row, cpu.column)],
    ['CPU ms a 100 MB', (row) => figures.roundsOf(bulk.table, row, bulk.column)],
    ['p99 ms at 1,000/s', (row) => figures.roundsOf(p99.table, row, p99.column)],
    ['CPU ms a full handshake', (row) => figures.roundsOf(full.table, row, full.column)],
    ['private MB, both, 1,000 requests open', (row) => bothSides(figures, row)],
  ];
  const cells = (row: string): string[] =>
    columns.map(([, rounds]) => (rounds(row).length === 0 ? '–' : spread([median(rounds(row))])));
  const names = [NONE.name, ...running.map(({ name }) => name)];
  const lines = names.map((name) => [name, ...cells(name)]);
  const told = lines.filter((line) => line.some((cell, i) => i > 0 && cell !== '–'));
  const text = tableOf([['in short', ...columns.map(([name]) => name)], ...told]);
  return { name: 'short', data: Object.fromEntries(told.map(([name = '', ...rest]) => [name, rest])), text };
}

function bothSides(figures: Figures, row: string): readonly number[] {
  const caller = figures.roundsOf(HELD_TABLE, row, 'caller RssAnon MB');
  const callee = figures.roundsOf(HELD_TABLE, row, 'callee RssAnon MB');
  return caller.map((mb, round) => mb + (callee[round] ?? Number.NaN));
}

/** Each measure of each of our rows, divided by each peer's. */
export function ratiosOf(figures: Figures, running: readonly Row[]): Summary {
  const ours = running.filter(({ id }) => id.startsWith(OURS));
  const peers = running.filter(({ id }) => !id.startsWith(OURS));
  const data: { row: string; measure: string; peer: string; median: number; rounds: readonly number[] }[] =
    [];
  const tables = ours.map(({ name }) => {
    const lines = compared.map((measure) => [
      measure.name,
      ...peers.map((peer) => {
        const rounds = ratio(figures, measure, name, peer.name);
        if (rounds === null) return '–';
        data.push({ row: name, measure: measure.name, peer: peer.name, median: median(rounds), rounds });
        return spread(rounds);
      }),
    ]);
    const told = lines.filter((line) => line.some((cell, i) => i > 0 && cell !== '–'));
    return told.length === 0
      ? ''
      : tableOf([[`${name} divided by`, ...peers.map((peer) => peer.name)], ...told]);
  });
  return { name: 'ratios', data, text: tables.filter((table) => table !== '').join('\n\n') };
}

/** The aims for our HTTP/1.1 row, with what was measured. */
export function aimsOf(figures: Figures): Summary {
  const judged = aims.map(({ measure, peer, atMost }) => {
    const rounds = ratio(figures, measure, nameOf(OURS), nameOf(peer));
    const value = rounds === null ? null : median(rounds);
    const verdict = value === null ? 'not measured' : value <= atMost ? 'met' : 'MISSED';
    return { measure: measure.name, peer: nameOf(peer), atMost, rounds, median: value, verdict };
  });
  const lines = judged.map(({ measure, peer, atMost, rounds, verdict }) => [
    `${measure}, at most ${atMost} of ${peer}'s`,
    rounds === null ? '–' : spread(rounds),
    verdict,
  ]);
  return { name: 'aims', data: judged, text: tableOf([['aim', 'measured', ''], ...lines]) };
}
