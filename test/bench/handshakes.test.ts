/** What the bench makes of its figures of handshakes: cells, ratios, and the verdict on each aim. */
import t from 'tap';
import { Figures } from '../../bench/figures.ts';
import { cellName, cellsOf, type HandshakeCell, handshakeRows } from '../../bench/handshake-rows.ts';
import { A_HANDSHAKE, handshakeSummaries } from '../../bench/handshake-summaries.ts';

const full: HandshakeCell = { side: 'server', kind: 'full', key: 'p256', group: 'hybrid' };
const resumed: HandshakeCell = { ...full, kind: 'resumed' };
const asClient: HandshakeCell = { ...full, side: 'client' };
const names = handshakeRows.map(({ name }) => name);

function measured(
  cell: HandshakeCell,
  rows: Readonly<Record<string, readonly number[]>>,
  figures = new Figures(),
): Figures {
  for (const [row, rounds] of Object.entries(rows)) {
    for (const value of rounds) figures.add(cellName(cell), row, A_HANDSHAKE, value);
  }
  return figures;
}

interface Judged {
  readonly cell: string;
  readonly verdict: string;
}

function dataOf(summary: string, figures: Figures, cells: readonly HandshakeCell[], of = names): unknown {
  const found = handshakeSummaries(figures, cells, of).find(({ name }) => name === summary);
  if (found === undefined) throw new Error(`no summary ${summary}`);
  return found.data;
}

function verdicts(figures: Figures, cells: readonly HandshakeCell[]): readonly (readonly [string, string])[] {
  const judged = dataOf('aims', figures, cells) as readonly Judged[];
  return judged.map(({ cell, verdict }) => [cell, verdict]);
}

t.test('every cell has a table of its own, and keys are told where they take part', async (t) => {
  const cells = [...cellsOf('p256', 'hybrid', true), ...cellsOf('rsa2048', 'hybrid', false)];
  t.strictSame(cells.map(cellName), [
    'full handshakes as server, P-256 keys, X25519MLKEM768',
    'resumed handshakes as server, X25519MLKEM768',
    'full handshakes as client, P-256 keys, X25519MLKEM768',
    'resumed handshakes as client, X25519MLKEM768',
    'full handshakes as server, RSA-2048 keys, X25519MLKEM768',
    'full handshakes as client, RSA-2048 keys, X25519MLKEM768',
  ]);
});

t.test("the server's CPU is judged beside Envoy's: in full by 1.2, resumed by 0.9", async (t) => {
  const cases: readonly (readonly [HandshakeCell, number, string])[] = [
    [full, 120, 'met'],
    [full, 121, 'MISSED'],
    [resumed, 90, 'met'],
    [resumed, 91, 'MISSED'],
  ];
  for (const [cell, ours, verdict] of cases) {
    const figures = measured(cell, { Oarlock: [ours], Envoy: [100], nginx: [1] });
    t.strictSame(verdicts(figures, [cell]), [[cellName(cell), verdict]], `${cell.kind} ${ours}`);
  }
  const alone = measured(full, { Oarlock: [1] });
  t.strictSame(verdicts(alone, [full]), [[cellName(full), 'not measured']], 'not without Envoy');
  const client = measured(asClient, { Oarlock: [1], Envoy: [100] });
  t.strictSame(verdicts(client, [asClient]), [], 'the client has no aim');
});

t.test('ratios are taken round by round, and what was not measured has none', async (t) => {
  const figures = measured(full, { Oarlock: [10, 1000, 20], Envoy: [20, 2000, 40] });
  measured(asClient, { Oarlock: [30] }, figures);
  t.strictSame(dataOf('ratios', figures, [full, asClient]), [
    { cell: cellName(full), peer: 'Envoy', median: 0.5, rounds: [0.5, 0.5, 0.5] },
  ]);
});

t.test('in short: a line a cell, medians, a dash where nothing was measured', async (t) => {
  const figures = measured(full, { Oarlock: [100, 300, 200], Envoy: [50] });
  const short = dataOf('short', figures, [full, resumed], ['Oarlock', 'Envoy']);
  t.strictSame(short, { [cellName(full)]: ['200', '50.0'], [cellName(resumed)]: ['–', '–'] });
});
