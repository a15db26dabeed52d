/** Messages of the corpus, and what becomes of them by chance: the same for the same seed. */
import type { Case, Step } from '../corpus/case.ts';
import { groups } from '../corpus/groups.ts';
import { random } from '../corpus/run.ts';

/** Longer ones tell nothing more and take their time. */
const LONGEST = 4_000;

const cases: readonly Case[] = Object.values(groups).flatMap((tables) => Object.values(tables).flat());

/** What the corpus's downstreams send. */
export const requests = texts(cases.map(({ send }) => send));
/** What its apps answer. */
export const answers = texts(
  cases.flatMap(({ app = [] }) =>
    typeof app === 'string' ? app : app.map((reply) => (typeof reply === 'string' ? reply : reply.steps)),
  ),
);

function texts(sent: readonly (string | readonly Step[])[]): readonly string[] {
  const all = sent.map((steps) =>
    typeof steps === 'string' ? steps : steps.filter((step) => typeof step === 'string').join(''),
  );
  return [...new Set(all)].filter((text) => text.length > 0 && text.length <= LONGEST);
}

/** How a run is made and replayed. */
export interface Chance {
  readonly seed: number;
  readonly next: () => number;
  /** Performance time at which it ends. */
  readonly until: number;
}

/** Of each of the four fuzzers: a minute in all, unless told otherwise. */
const seconds = Number(process.env.OARLOCK_FUZZ_SECONDS ?? 8);

/** Milliseconds within which a fuzzer's file is over, whatever hangs; told to the runner, who ends it sooner otherwise. */
export const OVER = (seconds + 90) * 1_000;

/** `OARLOCK_FUZZ_SECONDS` says how long, `OARLOCK_FUZZ_SEED` which run; without one it is always the same. */
export function chance(): Chance {
  const seed = Number(process.env.OARLOCK_FUZZ_SEED ?? 20_260_821);
  return { seed, next: random(seed), until: performance.now() + seconds * 1_000 };
}

/** Bytes on which parsers disagree. */
const ODD = [
  '\r',
  '\n',
  '\r\n',
  '\n\n',
  '\0',
  '\t',
  ' ',
  '\x0b',
  '\x0c',
  ':',
  ';',
  ',',
  '/',
  '\\',
  '#',
  '?',
  '%',
  '"',
  '=',
  '+',
  '-',
  '0',
  '1',
  '5',
  'f',
  'x',
  '_',
  '\x7f',
  '\x80',
  '\x85',
  '\xa0',
  '\xff',
  '\r\n ',
  '\r\n\t',
  '\r\n\r\n',
];
const LINES = [
  'Content-Length: 5\r\n',
  'Content-Length: 0\r\n',
  'Content-Length: 5, 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Transfer-Encoding: gzip, chunked\r\n',
  'Connection: close\r\n',
  'Connection: keep-alive, X-A\r\n',
  'Host: app.test\r\n',
  'Host: other.test\r\n',
  'Expect: 100-continue\r\n',
  'Upgrade: websocket\r\nConnection: Upgrade\r\n',
  'X-Forwarded-Client-Cert: By=spoof\r\n',
  'X-A: 1\r\n',
  'TE: trailers\r\n',
];

/** One message, with up to four things done to it. */
export function mutated(seeds: readonly string[], next: () => number): string {
  let text = pick(seeds, next);
  for (let times = Math.floor(next() * 5); times > 0; times--) text = mutateOnce(text, seeds, next);
  return text.slice(0, LONGEST);
}

function mutateOnce(text: string, seeds: readonly string[], next: () => number): string {
  const at = Math.floor(next() * (text.length + 1));
  switch (Math.floor(next() * 10)) {
    case 0:
      return text.slice(0, at) + pick(ODD, next) + text.slice(at);
    case 1:
      return text.slice(0, at) + pick(ODD, next) + text.slice(at + 1);
    case 2:
      return text.slice(0, at) + text.slice(at + 1 + Math.floor(next() * 4));
    case 3:
      return text.slice(0, at) + String.fromCharCode(Math.floor(next() * 256)) + text.slice(at + 1);
    case 4: {
      // Another line, behind one that is there.
      const line = text.indexOf('\r\n', at);
      return line < 0
        ? text + pick(LINES, next)
        : text.slice(0, line + 2) + pick(LINES, next) + text.slice(line + 2);
    }
    case 5: {
      const lines = text.split('\r\n');
      const [from, to] = [Math.floor(next() * lines.length), Math.floor(next() * lines.length)];
      lines.splice(to, 0, lines[from] ?? '');
      return lines.join('\r\n');
    }
    case 6: {
      const lines = text.split('\r\n');
      lines.splice(Math.floor(next() * lines.length), 1);
      return lines.join('\r\n');
    }
    case 7:
      return text.slice(0, at) + pick(seeds, next).slice(Math.floor(next() * 60));
    case 8: {
      const to = Math.min(text.length, at + Math.floor(next() * 12));
      const part = text.slice(at, to);
      return text.slice(0, at) + (next() < 0.5 ? part.toUpperCase() : part.toLowerCase()) + text.slice(to);
    }
    default:
      return text.slice(0, at) + text.slice(at, at + 8) + text.slice(at);
  }
}

function pick<T>(list: readonly T[], next: () => number): T {
  return list[Math.floor(next() * list.length)] as T;
}
