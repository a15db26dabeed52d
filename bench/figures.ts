/** Collects figures round by round, and tells them as tables with median and spread, or as JSON. */
import { arch, cpus, loadavg, platform, release } from 'node:os';

interface Figure {
  readonly table: string;
  readonly row: string;
  readonly column: string;
  readonly rounds: number[];
}

/** What is made of the figures when all are there. */
export interface Summary {
  readonly name: string;
  readonly text: string;
  readonly data: unknown;
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

/** A Markdown table, its first line the heads. */
export function tableOf(lines: readonly (readonly string[])[]): string {
  const [head = []] = lines;
  const widths = head.map((_, i) => Math.max(3, ...lines.map((line) => line[i]?.length ?? 0)));
  const text = (line: readonly string[]): string =>
    `| ${line.map((one, i) => (i === 0 ? one.padEnd(widths[i] ?? 0) : one.padStart(widths[i] ?? 0))).join(' | ')} |`;
  const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`;
  return [text(head), rule, ...lines.slice(1).map(text)].join('\n');
}

export class Figures {
  readonly #figures: Figure[] = [];
  readonly #notes = new Set<string>();
  readonly #summaries: Summary[] = [];
  readonly #began = new Date();
  readonly #loadBefore = loadavg()[0] ?? 0;

  /** Adds one round's value; null (not available here) leaves the cell empty. */
  add(table: string, row: string, column: string, value: number | null): void {
    let figure = this.#find(table, row, column);
    if (figure === undefined) {
      figure = { table, row, column, rounds: [] };
      this.#figures.push(figure);
    }
    if (value !== null && Number.isFinite(value)) figure.rounds.push(value);
  }

  #find(table: string, row: string, column: string): Figure | undefined {
    return this.#figures.find((one) => one.table === table && one.row === row && one.column === column);
  }

  /** The value of each round; none where nothing was measured. */
  roundsOf(table: string, row: string, column: string): readonly number[] {
    return this.#find(table, row, column)?.rounds ?? [];
  }

  /** A sentence for below the tables. */
  note(text: string): void {
    this.#notes.add(text);
  }

  /** What comes after the tables. */
  after(...summaries: readonly Summary[]): void {
    this.#summaries.push(...summaries);
  }

  /** Markdown tables: each cell is median (lowest–highest of the rounds). */
  toString(): string {
    const tables = [...new Set(this.#figures.map(({ table }) => table))].map((name) => this.#table(name));
    const notes = [...this.#notes].map((note) => `- ${note}`).join('\n');
    const parts = [this.#machineLine(), ...tables, ...this.#summaries.map(({ text }) => text), notes];
    return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
  }

  #table(name: string): string {
    const figures = this.#figures.filter(({ table }) => table === name);
    const columns = [...new Set(figures.map(({ column }) => column))];
    const rows = [...new Set(figures.map(({ row }) => row))];
    const lines = rows.map((row) => [
      row,
      ...columns.map((column) => {
        const rounds = this.roundsOf(name, row, column);
        return rounds.length === 0 ? '–' : spread(rounds);
      }),
    ]);
    return tableOf([[name, ...columns], ...lines]);
  }

  #machineLine(): string {
    const date = this.#began.toISOString().slice(0, 16);
    const minutes = ((Date.now() - this.#began.getTime()) / 60_000).toFixed(1);
    const load = `load average before it ${this.#loadBefore.toFixed(2)}`;
    return `${date}Z, ${machine()}, Node ${process.version}; ${minutes} minutes, ${load}. Median (lowest–highest) of the rounds.`;
  }

  /** Everything, for programs. */
  toJSON(): unknown {
    return {
      date: this.#began.toISOString(),
      node: process.version,
      machine: machine(),
      loadAverageBefore: this.#loadBefore,
      figures: this.#figures.map((figure) => ({
        ...figure,
        median: figure.rounds.length === 0 ? null : median(figure.rounds),
        min: figure.rounds.length === 0 ? null : Math.min(...figure.rounds),
        max: figure.rounds.length === 0 ? null : Math.max(...figure.rounds),
      })),
      ...Object.fromEntries(this.#summaries.map(({ name, data }) => [name, data])),
      notes: [...this.#notes],
    };
  }
}

/** Median (lowest–highest). */
export function spread(rounds: readonly number[]): string {
  if (rounds.length === 1) return shown(rounds[0] ?? 0);
  return `${shown(median(rounds))} (${shown(Math.min(...rounds))}–${shown(Math.max(...rounds))})`;
}

function machine(): string {
  const all = cpus();
  const model = all[0]?.model ?? 'unknown';
  return `${all.length} × ${model}, ${platform()} ${release()} ${arch()}`;
}
