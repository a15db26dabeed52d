/** `startup`: from a process's start to its first answer, ours as an image has it beside Envoy. */
import { join } from 'node:path';
import { bundledOarlock } from './bundle.ts';
import { Child } from './children.ts';
import type { Figures } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { benchDir, startApp } from './pairs.ts';
import { issueCredentials } from './peers/credentials.ts';
import { envoy } from './peers/envoy.ts';
import { oarlock } from './peers/oarlock.ts';
import { type PortPeer, type Side, USUAL_TLS } from './peers/peer.ts';
import { startPair } from './peers/start.ts';
import { freePort } from './ports.ts';
import { cpuMsOf } from './proc.ts';

const TO_ANSWER = "the caller's side: from its process to its first answer of 200, ms";
const TO_READY = 'from its process to its ready line, ms';
const SOURCE = 'Oarlock, from source';
const READY_MS = 15_000;

/** Rounds, each row in turn: what the machine does besides falls on all. */
export async function benchStartup({ rounds, accessLog }: BenchOptions, figures: Figures): Promise<void> {
  const dir = benchDir();
  const app = await startApp();
  const credentials = await issueCredentials(dir);
  const ours = [
    await bundledOarlock(join(dir, 'warm'), 'Oarlock', true),
    await bundledOarlock(join(dir, 'cold'), 'Oarlock, no cache of compiled code', false),
    { ...oarlock, name: SOURCE },
  ];
  const peers: readonly PortPeer[] = envoy.missing() === null ? [...ours, envoy] : ours;
  const wanted = {
    protocol: 'http1',
    tunnelled: null,
    app: app.ports.http1,
    credentials,
    accessLog,
  } as const;
  const pairs = [];
  for (const peer of peers) {
    pairs.push({ peer, pair: await startPair(peer, { ...wanted, dir: join(dir, peer.name) }) });
  }
  for (let round = 1; round <= rounds; round++) {
    for (const { peer, pair } of pairs) figures.add(TO_ANSWER, peer.name, 'ms', await pair.timedStart());
    for (const peer of ours.filter(({ name }) => name !== SOURCE)) {
      for (const intercept of ['none', 'redirect'] as const) {
        const column = `--intercept ${intercept}`;
        const side = { role: 'callee', listen: await freePort(), dial: app.ports.http1, dir } as const;
        const { ms, cpuMs } = await timeToReady(
          peer,
          { ...side, credentials: credentials.orders, ...rest, accessLog },
          intercept,
        );
        figures.add(TO_READY, peer.name, column, ms);
        figures.add(TO_READY, peer.name, `${column}, CPU`, cpuMs);
      }
    }
  }
  for (const { pair } of pairs) await pair.stop();
  await app.child.stop();
}

const rest = { protocol: 'http1', tunnelled: null, tls: USUAL_TLS, nodeFlags: [] } as const;

interface Ready {
  readonly ms: number;
  readonly cpuMs: number | null;
}

/** Ports are the kernel's choice, and no rules lead to those of capture: what is timed is the start. */
async function timeToReady(peer: PortPeer, side: Side, intercept: string): Promise<Ready> {
  const { program, args, env = {} } = peer.command(side);
  const captured = [
    ...['--inbound-port', '0', '--outbound-port', '0', '--allow-root'],
    // Without rules it would not be ready.
    ...['--canary-interval', '0s'],
  ];
  const all = args.map((arg, i) => (args[i - 1] === '--intercept' ? intercept : arg));
  // The shell is there for a moment: what is logged is of no interest.
  const quiet = ['-c', 'exec "$@" 2>/dev/null', 'sh', program, ...all, ...captured];
  const began = performance.now();
  const child = new Child({ program: 'sh', args: quiet, env }, 'line');
  await child.firstLine(READY_MS);
  const ms = performance.now() - began;
  const cpuMs = cpuMsOf([child.pid]);
  await child.stop();
  return { ms, cpuMs };
}
