/** Handshakes under way are bounded: others wait their turn, stalled ones give way, and nobody waits for ever. */
import t from 'tap';
import { Handshakes, type PendingHandshake } from '../../proxy/handshakes.ts';

class Recorded implements PendingHandshake {
  readonly name: string;
  readonly #said: string[];

  constructor(name: string, said: string[]) {
    this.name = name;
    this.#said = said;
  }

  begin(): void {
    this.#said.push(`${this.name} begins`);
  }

  timedOut(): void {
    this.#said.push(`${this.name} timed out`);
  }

  giveWay(): void {
    this.#said.push(`${this.name} gives way`);
  }
}

function world(max: number, timeoutMs: number) {
  const said: string[] = [];
  const handshakes = new Handshakes(max, timeoutMs);
  return { said, handshakes, make: (name: string) => new Recorded(name, said) };
}

t.test('while there is room each begins at once', async (t) => {
  const { said, handshakes, make } = world(2, 10_000);
  t.ok(handshakes.enter(make('a')));
  t.ok(handshakes.enter(make('b')));
  t.same(said, ['a begins', 'b begins']);
  t.equal(handshakes.running, 2);
  handshakes.stop();
});

t.test('beyond it they wait in order, and one that left is passed over', async (t) => {
  const { said, handshakes, make } = world(1, 10_000);
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(make) as [Recorded, Recorded, Recorded, Recorded];
  handshakes.enter(a);
  for (const one of [b, c, d]) t.notOk(handshakes.enter(one), `${one.name} waits`);
  t.equal(handshakes.waiting, 3);
  handshakes.done(b);
  handshakes.done(a);
  handshakes.done(a);
  t.same(said, ['a begins', 'c begins']);
  handshakes.done(c);
  t.same(said.slice(2), ['d begins']);
  t.equal(handshakes.waiting, 0);
  handshakes.stop();
});

t.test('whoever waits too long is told so', async (t) => {
  const { said, handshakes, make } = world(1, 100);
  handshakes.enter(make('a'));
  const waited = new Promise<void>((resolve) => {
    const one = make('b');
    one.timedOut = () => {
      said.push('b timed out');
      resolve();
    };
    handshakes.enter(one);
  });
  // The timer of the waiting does not hold the process.
  const hold = setInterval(() => {}, 1_000);
  await waited;
  clearInterval(hold);
  t.same(said, ['a begins', 'b timed out']);
  t.equal(handshakes.waiting, 0);
  handshakes.stop();
});

t.test('a stalled one gives way as soon as another waits', async (t) => {
  const { said, handshakes, make } = world(1, 20_000);
  const stalled = make('stalled');
  handshakes.enter(stalled);
  await new Promise<void>((resolve) => {
    stalled.giveWay = () => {
      said.push('stalled gives way');
      handshakes.done(stalled);
    };
    const next = make('next');
    next.begin = () => {
      said.push('next begins');
      resolve();
    };
    handshakes.enter(next);
    const hold = setInterval(() => said.includes('next begins') && clearInterval(hold), 50);
  });
  t.same(said, ['stalled begins', 'stalled gives way', 'next begins']);
  handshakes.stop();
});
