/** `memory`: what a sidecar keeps in memory, idle and with a thousand idle connections, ours as an image has it beside Envoy. */
import { join } from 'node:path';
import { bundledOarlock } from './bundle.ts';
import { Child, nodeScript } from './children.ts';
import type { Figures } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { benchDir, startApp } from './pairs.ts';
import { issueCredentials } from './peers/credentials.ts';
import { envoy } from './peers/envoy.ts';
import type { Pair } from './peers/peer.ts';
import { startPair } from './peers/start.ts';
import { ownMemoryOf } from './proc.ts';
import { type IdleTask, LOOPBACK } from './task.ts';

const CONNECTIONS = 1_000;
const READY_MS = 60_000;
/** Garbage of the start and of the handshakes goes by itself, if at all, within some seconds. */
const QUIET_MS = 5_000;

const IDLE = 'memory, idle, after one request';
const INBOUND = 'memory of the callee, 1,000 idle mTLS connections to it';
const OUTBOUND = 'memory of the caller, 1,000 idle connections of its app';
const AFTER = 'memory after both, when all connections are gone';

export async function benchMemory({ rounds, accessLog }: BenchOptions, figures: Figures): Promise<void> {
  const dir = benchDir();
  const app = await startApp();
  const credentials = await issueCredentials(dir);
  const peers = [await bundledOarlock(join(dir, 'bundle'), 'Oarlock', true), envoy];
  for (let round = 1; round <= rounds; round++) {
    for (const peer of peers) {
      const why = peer.missing();
      if (why !== null) {
        figures.note(`${peer.name}: **left out**: ${why}.`);
        continue;
      }
      const pair = await startPair(peer, {
        protocol: 'http1',
        tunnelled: null,
        app: app.ports.http1,
        dir: join(dir, `${peer.name}-${round}`),
        credentials,
        accessLog,
      });
      await quiet();
      add(figures, IDLE, peer.name, pair);
      const { cert, key, root } = credentials.web;
      await holding({ port: pair.ingress, tls: { cert, key, root } }, () =>
        add(figures, INBOUND, peer.name, pair),
      );
      await holding({ port: pair.egress, tls: null }, () => add(figures, OUTBOUND, peer.name, pair));
      await quiet();
      add(figures, AFTER, peer.name, pair);
      await pair.stop();
    }
  }
  await app.child.stop();
}

/** Both sides run, so that what they share of their program's file is no private memory of either. */
function add(figures: Figures, table: string, row: string, { callerPid, calleePid }: Pair): void {
  for (const [side, pid] of [
    ['caller', callerPid],
    ['callee', calleePid],
  ] as const) {
    if ((table === INBOUND && side === 'caller') || (table === OUTBOUND && side === 'callee')) continue;
    const now = ownMemoryOf(pid);
    figures.add(table, row, `${side} RSS MB`, now?.rssMb ?? null);
    figures.add(table, row, `${side} private MB`, now?.privateMb ?? null);
  }
}

async function holding(to: Pick<IdleTask, 'port' | 'tls'>, look: () => void): Promise<void> {
  const task: IdleTask = { host: LOOPBACK, connections: CONNECTIONS, ...to };
  const client = new Child(nodeScript('bench/idle.ts', [JSON.stringify(task)]), 'line');
  await client.firstLine(READY_MS);
  await quiet();
  look();
  await client.stop();
}

function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, QUIET_MS));
}
