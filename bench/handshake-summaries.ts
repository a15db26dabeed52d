/** What the figures of handshakes come to: all cells in short, ours beside each peer's, and which of the aims are met. */
import { type Figures, median, type Summary, spread, tableOf } from './figures.ts';
import { cellName, ENVOY, type HandshakeCell, handshakeRows, OURS } from './handshake-rows.ts';
import { ratio } from './summaries.ts';

export const A_HANDSHAKE = 'CPU µs/handshake';

/** Of the server's CPU time, beside Envoy's with the same keys and groups. */
const AIMS = { full: 1.2, resumed: 0.9 } as const;

/** @param names of the rows measured */
export function handshakeSummaries(
  figures: Figures,
  cells: readonly HandshakeCell[],
  names: readonly string[],
): readonly Summary[] {
  return [shortOf(figures, cells, names), ratiosOf(figures, cells, names), aimsOf(figures, cells)];
}

/** A line a cell, a column a row: medians alone. */
function shortOf(figures: Figures, cells: readonly HandshakeCell[], names: readonly string[]): Summary {
  const lines = cells.map((cell) => {
    const medians = names.map((name) => figures.roundsOf(cellName(cell), name, A_HANDSHAKE));
    return [
      cellName(cell),
      ...medians.map((rounds) => (rounds.length === 0 ? '–' : spread([median(rounds)]))),
    ];
  });
  const text = tableOf([[A_HANDSHAKE, ...names], ...lines]);
  return { name: 'short', data: Object.fromEntries(lines.map(([cell = '', ...rest]) => [cell, rest])), text };
}

function ratiosOf(figures: Figures, cells: readonly HandshakeCell[], names: readonly string[]): Summary {
  const ours = nameOf(OURS);
  const peers = names.filter((name) => name !== ours);
  const data: { cell: string; peer: string; median: number; rounds: readonly number[] }[] = [];
  const lines = cells.map((cell) => [
    cellName(cell),
    ...peers.map((peer) => {
      const rounds = besides(figures, cell, peer);
      if (rounds === null) return '–';
      data.push({ cell: cellName(cell), peer, median: median(rounds), rounds });
      return spread(rounds);
    }),
  ]);
  return { name: 'ratios', data, text: tableOf([[`${ours} divided by`, ...peers], ...lines]) };
}

function aimsOf(figures: Figures, cells: readonly HandshakeCell[]): Summary {
  const peer = nameOf(ENVOY);
  const judged = cells
    .filter(({ side }) => side === 'server')
    .map((cell) => {
      const rounds = besides(figures, cell, peer);
      const value = rounds === null ? null : median(rounds);
      const of = AIMS[cell.kind];
      const verdict = value === null ? 'not measured' : value <= of ? 'met' : 'MISSED';
      return { cell: cellName(cell), peer, of, rounds, median: value, verdict };
    });
  const lines = judged.map(({ cell, of, rounds, verdict }) => [
    `${cell}: at most ${of} of that of ${peer}`,
    rounds === null ? '–' : spread(rounds),
    verdict,
  ]);
  return { name: 'aims', data: judged, text: tableOf([['aim', 'measured', ''], ...lines]) };
}

function besides(figures: Figures, cell: HandshakeCell, peer: string): readonly number[] | null {
  return ratio(figures, { table: cellName(cell), column: A_HANDSHAKE }, nameOf(OURS), peer);
}

function nameOf(id: string): string {
  return handshakeRows.find((row) => row.id === id)?.name ?? id;
}
