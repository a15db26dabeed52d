/** Durations as Go writes them. */
import t from 'tap';
import { parseDuration } from '../../mesh/duration.ts';

const rows: readonly (readonly [string, number | null])[] = [
  ['24h', 86_400_000],
  ['30m', 1_800_000],
  ['10s', 10_000],
  ['500ms', 500],
  ['1h30m', 5_400_000],
  ['1.5s', 1_500],
  ['.5s', 500],
  ['0.5ms', 1],
  ['0', 0],
  ['0s', 0],
  ['8760h', 31_536_000_000],
  ['', null],
  ['10', null],
  ['s', null],
  ['-1s', null],
  ['+1s', null],
  ['1 s', null],
  [' 1s', null],
  ['1s ', null],
  ['1d', null],
  ['1e3s', null],
  ['1.s', null],
  ['1S', null],
  ['1h30', null],
  [`${'9'.repeat(30)}h`, null],
  ['1s'.repeat(40), null],
];

for (const [text, ms] of rows) t.equal(parseDuration(text), ms, JSON.stringify(text));
