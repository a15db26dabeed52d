/** What the tables come to: each row in short, our figures beside each peer's, and which of the aims are met. */
import { type Figures, median, type Summary, spread, tableOf } from './figures.ts';
import {
  A_CPU_SECOND,
  BULK_CPU,
  BULK_TABLE,
  CPU,
  FRESH_TABLE,
  HELD_TABLE,
  keepAliveTable,
  rateTable,
} from './measure.ts';
import { isOurs, NONE, OURS, OURS_HBONE, OURS_HBONE_TCP, type Row, rows } from './rows.ts';

/** A figure by its table and column. */
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

const p50Alone: Measure = { name: 'p50 at 1 connection', table: keepAliveTable(1), column: 'p50 ms' };
const fresh: Measure = { name: 'CPU a request, a connection each', table: FRESH_TABLE, column: CPU };
const connections = (what: string): Measure => ({
  name: `${what} a CPU second`,
  table: FRESH_TABLE,
  column: A_CPU_SECOND,
});

interface Aim {
  /** Ids of the row that is judged, and of the one beside it. */
  readonly row: string;
  readonly peer: string;
  readonly measure: Measure;
  /** The ratio's bound. */
  readonly bound: 'at most' | 'at least';
  readonly of: number;
}

const aims: readonly Aim[] = [
  ...[
    { measure: cpu, peer: 'envoy', of: 0.5 },
    { measure: cpu, peer: 'haproxy', of: 1.3 },
    { measure: bulk, peer: 'envoy', of: 1.5 },
    { measure: p99, peer: 'envoy', of: 1 },
  ].map((aim) => ({ ...aim, row: OURS, bound: 'at most' }) as const),
  ...[
    { measure: cpu, peer: 'envoy', of: 0.25 },
    { measure: cpu, peer: 'haproxy-h2', of: 1 },
    { measure: p50Alone, peer: OURS, of: 1 },
    { measure: bulk, peer: 'envoy', of: 1.5 },
  ].map((aim) => ({ ...aim, row: OURS_HBONE, bound: 'at most' }) as const),
  // A new connection of the app is a TLS connection of Envoy's where it carries TCP; where it carries HTTP, it keeps those.
  ...[
    { measure: connections('new connections'), row: OURS_HBONE_TCP, peer: 'envoy-tcp', of: 5 },
    { measure: connections('new connections with HTTP'), row: OURS_HBONE, peer: 'envoy', of: 5 },
  ].map((aim) => ({ ...aim, bound: 'at least' }) as const),
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
  { ...p50Alone, name: 'p50 at full load, 1 connection' },
  bulk,
  fresh,
];

function nameOf(id: string): string {
  return rows.find((row) => row.id === id)?.name ?? id;
}

/** Ours divided by the peer's, round by round where both have all rounds: what disturbed one disturbed the other. Null where either is missing. */
export function ratio(
  figures: Figures,
  { table, column }: Omit<Measure, 'name'>,
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
  const columns: readonly (readonly [string, (row: string) => readonly number[]])[] = [
    ['CPU µs a request', (row) => figures.roundsOf(cpu.table, row, cpu.column)],
    ['CPU ms a 100 MB', (row) => figures.roundsOf(bulk.table, row, bulk.column)],
    ['CPU µs a request, a connection each', (row) => figures.roundsOf(fresh.table, row, fresh.column)],
    ['p99 ms at 1,000/s', (row) => figures.roundsOf(p99.table, row, p99.column)],
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

/** Whether two rows carry the same: HTTP, or TCP, or whatever there is. */
function comparable(a: Row, b: Row): boolean {
  const isTcp = (row: Row): boolean => row.protocol === 'tcp';
  return isTcp(a) === isTcp(b) || b.peer.carriesBytes === true;
}

/** The id of the row that is this one but for the tunnel; null for a row that has none. */
function withoutTunnel({ id, hbone }: Row): string | null {
  return hbone ? id.replace('-hbone', '') : null;
}

/** Each measure of each of our rows, divided by each peer's, our tunnel alone being one of them; those with a tunnel also by that without. */
export function ratiosOf(figures: Figures, running: readonly Row[]): Summary {
  const ours = running.filter(isOurs);
  const data: { row: string; measure: string; peer: string; median: number; rounds: readonly number[] }[] =
    [];
  const tables = ours.map((row) => {
    const { name } = row;
    const peers = running.filter(
      (peer) =>
        peer !== row &&
        comparable(row, peer) &&
        (peer.id === withoutTunnel(row) || !peer.id.startsWith(OURS)),
    );
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

/** The aims, with what was measured. */
export function aimsOf(figures: Figures): Summary {
  const judged = aims.map(({ row, measure, peer, bound, of }) => {
    const rounds = ratio(figures, measure, nameOf(row), nameOf(peer));
    const value = rounds === null ? null : median(rounds);
    const isMet = value !== null && (bound === 'at most' ? value <= of : value >= of);
    const verdict = value === null ? 'not measured' : isMet ? 'met' : 'MISSED';
    const names = { row: nameOf(row), measure: measure.name, peer: nameOf(peer) };
    return { ...names, bound, of, rounds, median: value, verdict };
  });
  const lines = judged.map(({ row, measure, peer, bound, of, rounds, verdict }) => [
    `${row}: ${measure}, ${bound} ${of} of that of ${peer}`,
    rounds === null ? '–' : spread(rounds),
    verdict,
  ]);
  return { name: 'aims', data: judged, text: tableOf([['aim', 'measured', ''], ...lines]) };
}
