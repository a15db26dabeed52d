/** Plays the corpus before other proxies and tells how many of its cases each holds: `npm run -s test:peers`. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { parseArgs } from 'node:util';
import { findEnvoy } from '../../bench/peers/envoy.ts';
import { findProgram } from '../../bench/peers/find-program.ts';
import { missingPeer, type PeerName, peerNames, startPeer } from '../../bench/peers/start-peer.ts';
import { connects } from '../../bench/request.ts';
import type { Case, Setup } from './case.ts';
import { groups } from './groups.ts';
import { judge, type Verdict } from './lenient.ts';
import { oursAlone, type Place } from './mendable.ts';
import { appServer, LOOPBACK, play, type Stand, WHOLE } from './play.ts';
import { type Sidecars, sidecars } from './sidecars.ts';

const HOST = '127.0.0.1';
/** Nothing is answered later than this but what is never answered. */
const PATIENCE = 1_500;
/** Of a case that did not hold: this machine may have been busy. */
const MORE_PATIENCE = 4_000;
/** Processes of a peer, each with one case at a time. */
const AT_ONCE = 12;

// Each peer that runs clears its folder when we end.
process.setMaxListeners(2 * AT_ONCE);

const { values: flags } = parseArgs({
  options: {
    peers: { type: 'string', default: ['oarlock', 'oarlock-pair', ...peerNames].join() },
    only: { type: 'string', default: '' },
    misses: { type: 'boolean', default: false },
  },
});

const places: readonly Place[] = Object.entries(groups).flatMap(([group, tables]) =>
  Object.entries(tables).flatMap(([table, rows]) =>
    rows.map((row: Case) => ({ table: `${group}.${table}`, row })),
  ),
);
const applicable = places
  .filter((place) => !oursAlone(place))
  .filter(({ table, row }) => `${table}: ${row.name}`.includes(flags.only));

/** @returns null where the peer's process ended over the case */
type Player = (place: Place) => Promise<Verdict | null>;

/** One process of a peer, before one server that the apps of its cases share, one after the other. */
async function withPeer<T>(
  name: PeerName,
  patience: number,
  use: (player: Player) => Promise<T>,
): Promise<T> {
  const server = appServer();
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
  const { port, stop } = await startPeer(name, { upstreamPort: (server.address() as AddressInfo).port });
  const stand: Stand = { host: HOST, server, patience, reading: 'lenient' };
  const enter = async () => ({ port, close: () => {} });
  try {
    return await use(async (place) => {
      const outcome = await play(place.row, enter, WHOLE, stand);
      return connects(port).then(
        () => judge(place, outcome),
        () => null,
      );
    });
  } finally {
    await stop();
    server.close();
  }
}

const CRASHED: Verdict = { misses: ['the process ended'], stricter: false };

async function playPeer(name: PeerName): Promise<ReadonlyMap<Place, Verdict>> {
  const verdicts = new Map<Place, Verdict>();
  const left = applicable.values();
  const again = new Set<Place>();
  /** @returns whether all are played: else the process ended, and another is needed */
  const playLeft = async (player: Player): Promise<boolean> => {
    let last: Place | null = null;
    for (const place of left) {
      const verdict = await player(place);
      verdicts.set(place, verdict ?? CRASHED);
      if (verdict === null || verdict.misses.length > 0 || verdict.stricter) again.add(place);
      if (verdict === null && last !== null) again.add(last);
      if (verdict === null) return false;
      last = place;
    }
    return true;
  };
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (!(await withPeer(name, PATIENCE, playLeft)));
    }),
  );
  // What one case leaves behind in the peer is not the next one's fault: it is a miss only on a fresh process too.
  const alone = (place: Place): Promise<Verdict | null> =>
    withPeer(name, MORE_PATIENCE, (player) => player(place));
  const repeat = again.values();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      // Two that start at once may take one port: one of them ends, and not over the case.
      for (const place of repeat)
        verdicts.set(place, (await alone(place)) ?? (await alone(place)) ?? CRASHED);
    }),
  );
  return verdicts;
}

async function playOurs({ enter }: Sidecars, setup: Setup): Promise<ReadonlyMap<Place, Verdict>> {
  const verdicts = new Map<Place, Verdict>();
  const stand: Stand = { host: LOOPBACK, server: null, patience: PATIENCE, reading: 'lenient' };
  const left = applicable.values();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (const place of left)
        verdicts.set(place, judge(place, await play(place.row, enter[setup], WHOLE, stand)));
    }),
  );
  return verdicts;
}

function versionOf(name: PeerName): string {
  if (name === 'undici' || name.startsWith('http-proxy')) {
    const file = new URL(`../../node_modules/${name}/package.json`, import.meta.url);
    const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
    return `${version}, Node ${process.versions.node}`;
  }
  const program = (name === 'envoy' ? findEnvoy() : findProgram(name)) ?? name;
  const { stdout, stderr } = spawnSync(program, [name === 'envoy' ? '--version' : '-v'], {
    encoding: 'utf8',
  });
  // Its own path may have a version in it, of something else.
  const said = `${stdout ?? ''}${stderr ?? ''}`.replaceAll(program, '');
  return /\d+\.\d+\.\d+/.exec(said)?.[0] ?? '';
}

const groupNames = Object.keys(groups).filter((group) =>
  applicable.some(({ table }) => table.startsWith(`${group}.`)),
);

/** Misses of each group, in the order of the columns. */
function byGroup(verdicts: ReadonlyMap<Place, Verdict>): string {
  const missed = [...verdicts].filter(([, { misses }]) => misses.length > 0);
  const counts = groupNames.map(
    (group) => missed.filter(([{ table }]) => table.startsWith(`${group}.`)).length,
  );
  return counts.map((count) => (count === 0 ? '–' : `${count}`)).join(' | ');
}

function tell(name: string, version: string, verdicts: ReadonlyMap<Place, Verdict>): void {
  const all = [...verdicts.values()];
  const held = all.filter(({ misses }) => misses.length === 0);
  const stricter = held.filter((verdict) => verdict.stricter).length;
  process.stdout.write(
    `| ${name} ${version} | ${held.length} / ${all.length} | ${stricter} | ${byGroup(verdicts)} |\n`,
  );
  if (!flags.misses) return;
  for (const [{ table, row }, { misses, stricter }] of verdicts) {
    if (misses.length > 0) process.stdout.write(`  ${table}: ${row.name}: ${misses.join('; ')}\n`);
    else if (stricter) process.stdout.write(`  (stricter) ${table}: ${row.name}\n`);
  }
}

process.stdout.write(
  `${applicable.length} of ${places.length} cases; misses by group\n\n` +
    `| | held | of them stricter | ${groupNames.join(' | ')} |\n|${' --- |'.repeat(3 + groupNames.length)}\n`,
);
for (const name of flags.peers.split(',')) {
  if (name === 'oarlock' || name === 'oarlock-pair') {
    const ends: (() => void)[] = [];
    const ours = await sidecars({ teardown: (end) => ends.push(end) });
    tell(name, '', await playOurs(ours, name === 'oarlock' ? 'inbound' : 'pair'));
    for (const end of ends) end();
    continue;
  }
  const peer = peerNames.find((known) => known === name);
  const why = peer === undefined ? 'no such peer' : missingPeer(peer);
  if (peer === undefined || why !== null) process.stdout.write(`| ${name} | – | | ${why} |\n`);
  else tell(peer, versionOf(peer), await playPeer(peer));
}
process.exit();
