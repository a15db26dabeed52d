/** When memory is given back: at the first quiet look, then where there is enough of it, and never while we are at work. */
import t from 'tap';
import { GiveBack } from '../../cli/give-back.ts';

const MB = 2 ** 20;

/** What a look finds, MB, and what is done then. */
interface Step {
  readonly why: string;
  readonly own: number;
  readonly allocated?: number;
  readonly busy?: number;
  /** MB left of our own where it is given back; undefined: it must not be. */
  readonly left?: number;
  /** Whether the files' pages go too. */
  readonly files?: boolean;
}

const tables: Record<string, readonly Step[]> = {
  'a start, then a peak of what malloc does not know of': [
    { why: 'still at work with the start', own: 40, busy: 0.04 },
    { why: 'the first quiet look', own: 40, busy: 0.03, left: 27, files: true },
    { why: 'nothing new', own: 28 },
    { why: 'a little more', own: 42 },
    { why: '16 MB more', own: 43, left: 30 },
    { why: 'but not at work', own: 100, busy: 0.9 },
    { why: 'the peak is over', own: 100, left: 31 },
  ],
  'what was freed stays with malloc': [
    { why: 'the first quiet look', own: 30, allocated: 5, left: 26, files: true },
    { why: 'connections come, a few at a look', own: 40, allocated: 15 },
    { why: 'and go: 10 MB are not enough', own: 41, allocated: 5 },
    { why: 'more come: it grew', own: 110, allocated: 65, left: 100 },
    { why: 'some go: 24 MB of a hundred', own: 100, allocated: 41 },
    { why: 'more go: a quarter of what we had', own: 100, allocated: 40, left: 80 },
    { why: 'counted from there', own: 80, allocated: 34 },
  ],
  'another thread gave back what was ours': [
    { why: 'the first quiet look', own: 60, left: 50, files: true },
    { why: 'less without us', own: 30 },
    { why: 'grown from there', own: 46, left: 31 },
  ],
};

t.test('where nothing can be read of ourselves, all else goes on', async (t) => {
  const failures = ['own', 'allocated', 'collect', 'trim', 'forgetFiles'] as const;
  for (const fails of failures) {
    const done: string[] = [];
    const told: string[] = [];
    let broken = true;
    const step = <T>(name: string, value: T): T => {
      if (broken && name === fails) throw new Error('EMFILE: too many open files');
      done.push(name);
      return value;
    };
    const giveBack = new GiveBack(
      {
        busy: () => 0,
        own: () => step('own', 40 * MB),
        allocated: () => step('allocated', 0),
        collect: () => step('collect', undefined),
        trim: () => step('trim', undefined),
        forgetFiles: () => step('forgetFiles', undefined),
      },
      { debug: (_fields: unknown, text: string) => told.push(text) },
    );
    giveBack.look();
    t.same(told, ['memory could not be given back'], fails);
    broken = false;
    done.length = 0;
    giveBack.look();
    giveBack.look();
    const collected = done.filter((one) => one === 'collect').length;
    t.ok(collected <= 1, `${fails}: collected ${collected} times after that`);
  }
});

for (const [name, steps] of Object.entries(tables)) {
  t.test(name, async (t) => {
    let now: Step = { why: '', own: 0 };
    let done: string[] = [];
    const giveBack = new GiveBack(
      {
        busy: () => now.busy ?? 0,
        own: () => (done.includes('trim') ? (now.left ?? Number.NaN) : now.own) * MB,
        allocated: () => (now.allocated ?? 0) * MB,
        collect: () => done.push('collect'),
        trim: () => done.push('trim'),
        forgetFiles: () => done.push('files'),
      },
      { debug: () => {} },
    );
    for (const step of steps) {
      now = step;
      done = [];
      giveBack.look();
      const { why, left, files = false } = step;
      t.same(done, left === undefined ? [] : ['collect', 'trim', ...(files ? ['files'] : [])], why);
    }
  });
}
