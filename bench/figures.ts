/** Collects figures round by round, and tells them as tables with median and spread, or as JSON. */
import { arch, cpus, platform, release } from 'node:os';

interface Figure {
  readonly table: string;
  readonly row: string;
  readonly column: string;
  readonly rounds: number[];
}

/** Median of what was measured; of an even number the mean of the middle two. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

/** Three digits are more than these machines are good for. */
function shown(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en');
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

export class Figures {
  readonly #figures: Figure[] = [];
  readonly #began = new Date();

  /** Adds one round's value; null (not available here) leaves the cell empty. */
  add(table: string, row: string, column: string, value: number | null): void {
    let figure = this.#figures.find((one) => one.table === table && one.row === row && one.column === column);
    if (figure === undefined) {
      figure = { table, row, column, rounds: [] };
      this.#figures.push(figure);
    }
    if (value !== null && Number.isFinite(value)) figure.rounds.push(value);
  }

  /** Markdown tables: each cell is median (lowest–highest of the rounds). */
  toString(): string {
    const tables = [...new Set(this.#figures.map(({ table }) => table))];
    return `${machineLine(this.#began)}\n\n${tables.map((name) => this.#table(name)).join('\n\n')}\n`;
  }

  #table(name: string): string {
    const figures = this.#figures.filter(({ table }) => table === name);
    const columns = [...new Set(figures.map(({ column }) => column))];
    const rows = [...new Set(figures.map(({ row }) => row))];
    const lines = [[name, ...columns]];
    for (const row of rows) {
      const cells = columns.map((column) => {
        const rounds = figures.find((one) => one.row === row && one.column === column)?.rounds ?? [];
        return rounds.length === 0 ? '–' : cell(rounds);
      });
      lines.push([row, ...cells]);
    }
    const widths = [name, ...columns].map((_, i) =>
      Math.max(3, ...lines.map((line) => line[i]?.length ?? 0)),
    );
    const text = (line: readonly string[]): string =>
      `| ${line.map((one, i) => (i === 0 ? one.padEnd(widths[i] ?? 0) : one.padStart(widths[i] ?? 0))).join(' | ')} |`;
    const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`;
    return [text(lines[0] ?? []), rule, ...lines.slice(1).map(text)].join('\n');
  }

  /** Everything, for programs. */
  toJSON(): unknown {
    return {
      date: this.#began.toISOString(),
      node: process.version,
      machine: machine(),
      figures: this.#figures.map((figure) => ({
        ...figure,
        median: figure.rounds.length === 0 ? null : median(figure.rounds),
        min: figure.rounds.length === 0 ? null : Math.min(...figure.rounds),
        max: figure.rounds.length === 0 ? null : Math.max(...figure.rounds),
      })),
    };
  }
}

function cell(rounds: readonly number[]): string {
  if (rounds.length === 1) return shown(rounds[0] ?? 0);
  return `${shown(median(rounds))} (${shown(Math.min(...rounds))}–${shown(Math.max(...rounds))})`;
}

function machine(): string {
  const all = cpus();
  const model = all[0]?.model ?? 'unknown';
  return `${all.length} × ${model}, ${platform()} ${release()} ${arch()}`;
}

function machineLine(date: Date): string {
  return `${date.toISOString().slice(0, 16)}Z, ${machine()}, Node ${process.version}. Median (lowest–highest) of the rounds.`;
}
