/** Handshakes from where nobody was verified yet: two at once, all once one is good, none once the address is shunned. */
import t from 'tap';
import { Shunned } from '../../proxy/shunned.ts';
import { Strangers, type StrangersHandshake } from '../../proxy/strangers.ts';

/** A handshake that notes what becomes of it. */
class Fake implements StrangersHandshake {
  readonly caller: string | null;
  readonly #strangers: Strangers;
  state: string;

  constructor(strangers: Strangers, caller: string | null) {
    this.#strangers = strangers;
    this.caller = caller;
    this.state = strangers.admits(this) ? 'begun' : 'held';
  }

  proceed(): void {
    this.state = 'begun';
  }

  turnAway(ms: number): void {
    this.state = `turned away for ${ms}`;
    this.#strangers.done(this);
  }

  timedOut(): void {
    this.state = 'timed out';
    this.#strangers.done(this);
  }

  end(): void {
    this.state = 'over';
    this.#strangers.done(this);
  }
}

function scene(timeoutMs = 5_000) {
  const shunned = new Shunned(() => 0);
  const strangers = new Strangers(shunned, timeoutMs);
  const come = (count: number, caller: string | null) =>
    Array.from({ length: count }, () => new Fake(strangers, caller)) as [Fake, Fake, Fake, ...Fake[]];
  return { shunned, come };
}
const states = (list: readonly Fake[]): string => list.map(({ state }) => state).join(' ');

t.test('two of an address at once, in turn; others are none of its affair', (t) => {
  const { come } = scene();
  const here = come(4, '192.0.2.7');
  t.equal(states(here), 'begun begun held held');
  t.equal(states(come(2, '192.0.2.8')), 'begun begun');
  t.equal(states(come(9, null)), Array(9).fill('begun').join(' '), 'this machine');
  here[0].end();
  t.equal(states(here), 'over begun begun held');
  here[0].end();
  t.equal(states(here), 'over begun begun held', 'said again: nothing');
  here[1].end();
  here[2].end();
  here[3]?.end();
  t.equal(states(come(3, '192.0.2.7')), 'begun begun held', 'and from the beginning');
  t.end();
});

t.test('once a peer was verified, all go on', (t) => {
  const { shunned, come } = scene();
  const here = come(50, '192.0.2.7');
  shunned.trust('192.0.2.7');
  here[0].end();
  t.equal(here.filter(({ state }) => state === 'begun').length, 49);
  t.equal(states(come(3, '192.0.2.7')), 'begun begun begun');
  t.end();
});

t.test('once it is shunned, none does', (t) => {
  const { shunned, come } = scene();
  const here = come(4, '192.0.2.7');
  shunned.shun('192.0.2.7');
  here[0].end();
  t.equal(states(here), 'over begun turned away for 30000 turned away for 30000');
  t.end();
});

t.test('whoever leaves while it is held makes no room', (t) => {
  const { come } = scene();
  const here = come(4, '192.0.2.7');
  here[2].end();
  t.equal(states(here), 'begun begun over held');
  here[0].end();
  t.equal(states(here), 'over begun over begun');
  t.end();
});

t.test('nobody is held for ever', async (t) => {
  const { come } = scene(5);
  const here = come(3, '192.0.2.7');
  await t.resolves(until(() => here[2].state === 'timed out'));
  t.equal(states(here), 'begun begun timed out');
});

async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 1));
}
