/** How commands write for people: rows in columns, and times as what is left of them. */
import { printable } from '../telemetry/printable.ts';

/** Longer texts would push all else off the screen; `-o json` has them whole. The last cell of a row pushes nothing. */
const MAX_CELL = 200;
const MAX_LAST_CELL = 1_000;

/** Rows, indented, each column as wide as its widest cell. What is not printable is escaped. */
export function columns(rows: readonly (readonly string[])[]): readonly string[] {
  const cells = rows.map((row) =>
    row.map((cell, i) => printable(cell, i === row.length - 1 ? MAX_LAST_CELL : MAX_CELL)),
  );
  const widths: number[] = [];
  for (const row of cells) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  return cells.map(
    (row) =>
      `  ${row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd()}`,
  );
}

const UNITS = [
  ['d', 86_400],
  ['h', 3_600],
  ['m', 60],
  ['s', 1],
] as const;

/** `2d 3h`, `14m 5s`, `0s`: the two largest units of a time. */
export function span(seconds: number): string {
  const parts: string[] = [];
  let left = Math.floor(Math.abs(seconds));
  for (const [unit, length] of UNITS) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count > 0) parts.push(`${count}${unit}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(' ') || '0s';
}

/** What is left until `notAfter`, ISO 8601, from `now` on, milliseconds since the epoch. */
export function timeLeft(notAfter: string, now: number): string {
  const seconds = (Date.parse(notAfter) - now) / 1000;
  return seconds > 0 ? span(seconds) : `EXPIRED ${span(seconds)} ago`;
}
