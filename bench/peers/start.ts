/** Starts a peer: both sides of it as a pair, or one side alone, on ports that were free. */
import { closeSync, mkdirSync, openSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { Child } from '../children.ts';
import { freePort } from '../ports.ts';
import { LOOPBACK } from '../task.ts';
import { type Pair, type Peer, type PortPeer, type Side, USUAL_TLS, type Wanted } from './peer.ts';
import { listens, SERVED_MS, serves, until } from './until.ts';

/** A chosen port may be taken before its process listens there. */
const ATTEMPTS = 3;

export interface Process {
  readonly child: Child;
  readonly port: number;
  /** From the start to the first answer; null where nothing was asked. */
  readonly servedMs: number | null;
  readonly dir: string;
}

class LoopbackPair implements Pair {
  readonly host = LOOPBACK;
  /** The bench's. */
  readonly app = null;
  readonly #peer: PortPeer;
  readonly #wanted: Wanted;
  readonly #callee: Process;
  readonly #caller: Process;
  #more = 0;

  constructor(peer: PortPeer, wanted: Wanted, callee: Process, caller: Process) {
    this.#peer = peer;
    this.#wanted = wanted;
    this.#callee = callee;
    this.#caller = caller;
  }

  get egress(): number {
    return this.#caller.port;
  }

  get ingress(): number {
    return this.#callee.port;
  }

  get tunnelled(): number | null {
    return this.#wanted.tunnelled;
  }

  get callerPid(): number {
    return this.#caller.child.pid;
  }

  get calleePid(): number {
    return this.#callee.child.pid;
  }

  get pids(): readonly number[] {
    return [this.callerPid, this.calleePid];
  }

  async timedStart(port = this.ingress, withinMs = SERVED_MS): Promise<number> {
    this.#more++;
    const dir = join(this.#wanted.dir, `caller-${this.#more}`);
    const process = await startSide(this.#peer, this.#wanted, 'caller', port, dir, withinMs);
    await process.child.stop();
    return process.servedMs ?? 0;
  }

  emptyLogs(): void {
    for (const { dir } of [this.#caller, this.#callee]) {
      for (const name of ['access.log', 'output.log']) {
        try {
          truncateSync(join(dir, name));
        } catch {
          // Not everyone writes both.
        }
      }
    }
  }

  async stop(): Promise<void> {
    await Promise.all([this.#caller.child.stop(), this.#callee.child.stop()]);
  }
}

/** Starts both sides; resolves when a request went through them. @throws with what the peer said, where it does not */
export async function startPair(peer: Peer, wanted: Wanted): Promise<Pair> {
  if ('startPair' in peer) return peer.startPair(wanted);
  const callee = await startSide(peer, wanted, 'callee', wanted.app, join(wanted.dir, 'callee'));
  try {
    const caller = await startSide(peer, wanted, 'caller', callee.port, join(wanted.dir, 'caller'));
    return new LoopbackPair(peer, wanted, callee, caller);
  } catch (error) {
    await callee.child.stop();
    throw error;
  }
}

/** Starts one process. @returns when a caller's side answers, and when another listens */
export async function startSide(
  peer: PortPeer,
  wanted: Wanted,
  role: Side['role'],
  dial: number,
  dir: string,
  withinMs = SERVED_MS,
): Promise<Process> {
  mkdirSync(dir, { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const listen = await freePort();
    const { credentials, protocol, tunnelled, accessLog, tls = USUAL_TLS, nodeFlags = [] } = wanted;
    const own = role === 'caller' ? credentials.web : credentials.orders;
    const command = peer.command({
      role,
      listen,
      dial,
      dir,
      credentials: own,
      protocol,
      tunnelled,
      accessLog,
      tls,
      nodeFlags,
    });
    const output = openSync(join(dir, 'output.log'), 'a');
    const began = performance.now();
    const child = new Child(command, output);
    closeSync(output);
    const why = await until(
      child,
      withinMs,
      role === 'caller' ? () => serves(listen) : () => listens(listen),
    );
    if (why === null) {
      return { child, port: listen, dir, servedMs: role === 'caller' ? performance.now() - began : null };
    }
    const ended = child.gone;
    await child.stop();
    // Only a process that ended may have found its port taken.
    if (!ended || attempt === ATTEMPTS) throw new Error(`${peer.name}, ${role}: ${why}${lastWords(dir)}`);
  }
}

function lastWords(dir: string): string {
  const text = readFileSync(join(dir, 'output.log'), 'utf8').trim();
  return text === '' ? '' : `: ${text.split('\n').slice(-3).join(' ').slice(-500)}`;
}
