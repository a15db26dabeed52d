/** Modes that are still honoured after a switch, on a clock of the test's. */
import t, { type Test } from 'tap';
import type { EffectiveMode, Mode, Snapshot } from '../../mesh/snapshot.ts';
import { PortModes } from '../../proxy/port-modes.ts';

const GRACE = 3_000;

/** All that is asked of a snapshot. */
function snapshotOf(modes: Readonly<Record<number, Mode>>): Snapshot {
  const modeOf = (port: number): EffectiveMode => ({ mode: modes[port] ?? 'PERMISSIVE', source: null });
  return {
    modeOf,
    ingress: Object.keys(modes).map((port) => ({ port: Number(port) })),
  } as unknown as Snapshot;
}

function scene(t: Test, graceMs = GRACE) {
  const clock = { now: 0 };
  const modes = new PortModes(
    graceMs,
    () => {},
    () => clock.now,
  );
  t.teardown(() => modes.stop());
  let before: Snapshot | null = null;
  const apply = (port: Readonly<Record<number, Mode>>): unknown => {
    const after = snapshotOf(port);
    const switches = modes.replace(before, after);
    before = after;
    return switches;
  };
  return { clock, modes, apply };
}

t.test('the first set has nobody who goes by another', async (t) => {
  const { modes, apply } = scene(t);
  t.same(apply({ 80: 'STRICT' }), []);
  t.same(modes.former(80), []);
});

t.test('a switch honours the former mode for the grace time, of that port alone', async (t) => {
  const { clock, modes, apply } = scene(t);
  apply({ 80: 'PERMISSIVE', 81: 'STRICT' });
  t.same(apply({ 80: 'STRICT', 81: 'STRICT' }), [
    { port: 80, from: 'PERMISSIVE', to: { mode: 'STRICT', source: null } },
  ]);
  t.same(modes.former(80), ['PERMISSIVE']);
  t.same(modes.former(81), []);
  clock.now = GRACE - 1;
  t.same(modes.former(80), ['PERMISSIVE']);
  t.same(apply({ 80: 'STRICT', 81: 'STRICT' }), [], 'a set that changes no mode changes nothing');
  clock.now = GRACE;
  t.same(modes.former(80), []);
});

t.test('several switches within it, each with a grace time of its own, and one back', async (t) => {
  const { clock, modes, apply } = scene(t);
  apply({ 80: 'STRICT' });
  apply({ 80: 'PERMISSIVE' });
  clock.now = 1_000;
  apply({ 80: 'DISABLE' });
  t.same(modes.former(80), ['STRICT', 'PERMISSIVE']);
  clock.now = 2_000;
  apply({ 80: 'STRICT' });
  t.same(modes.former(80), ['PERMISSIVE', 'DISABLE'], 'what is in force needs no grace');
  clock.now = 4_500;
  t.same(modes.former(80), ['DISABLE']);
  clock.now = 5_000;
  t.same(modes.former(80), []);
});

t.test('a port that no ingress entry names, but that connections came by', async (t) => {
  const { modes, apply } = scene(t);
  modes.former(8080);
  const [before, after] = [
    snapshotOf({}),
    { ...snapshotOf({}), modeOf: () => ({ mode: 'STRICT', source: null }) },
  ];
  apply({});
  t.equal(modes.replace(before, after as Snapshot).length, 1);
  t.same(modes.former(8080), ['PERMISSIVE']);
});

t.test('without a grace time nothing is honoured', async (t) => {
  const { modes, apply } = scene(t, 0);
  apply({ 80: 'PERMISSIVE' });
  t.equal((apply({ 80: 'STRICT' }) as unknown[]).length, 1, 'though it is told');
  t.same(modes.former(80), []);
});

t.test('its end is told, once for each', async (t) => {
  let ends = 0;
  let told = (): void => {};
  const ended = new Promise<void>((resolve) => {
    told = resolve;
  });
  const modes = new PortModes(50, () => {
    ends++;
    told();
  });
  const alive = setTimeout(() => {}, 5_000);
  modes.replace(snapshotOf({ 80: 'PERMISSIVE' }), snapshotOf({ 80: 'STRICT' }));
  t.same(modes.former(80), ['PERMISSIVE']);
  await ended;
  t.same(modes.former(80), []);
  await new Promise((resolve) => setTimeout(resolve, 80));
  t.equal(ends, 1);
  clearTimeout(alive);
});
