/** Starts a peer: both sides of it as a pair, or one side alone, on ports that were free. */
import { closeSync, mkdirSync, openSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { Child } from '../children.ts';
import { freePort } from '../ports.ts';
import { askPlain, connects } from '../request.ts';
import type { AllCredentials } from './credentials.ts';
import type { Peer, Protocol, Side } from './peer.ts';

/** Until the first request is answered. */
const SERVED_MS = 15_000;
const POLL_MS = 2;
/** A chosen port may be taken before its process listens there. */
const ATTEMPTS = 3;

/** What a pair is started with. */
export interface Wanted {
  readonly peer: Peer;
  readonly protocol: Protocol;
  /** As {@link Side} has it, free so far. */
  readonly tunnelled: number | null;
  /** Port of the app, in the version the callee's side speaks to it. */
  readonly app: number;
  /** A folder of its own; it need not exist. */
  readonly dir: string;
  readonly credentials: AllCredentials;
  readonly accessLog: boolean;
  readonly nodeFlags?: readonly string[];
}

interface Process {
  readonly child: Child;
  readonly port: number;
  /** From the start to the first answer; null where nothing was asked. */
  readonly servedMs: number | null;
  readonly dir: string;
}

export class Pair {
  readonly #wanted: Wanted;
  readonly #callee: Process;
  readonly #caller: Process;
  #more = 0;

  constructor(wanted: Wanted, callee: Process, caller: Process) {
    this.#wanted = wanted;
    this.#callee = callee;
    this.#caller = caller;
  }

  /** Where the caller's app dials, in plaintext. */
  get egress(): number {
    return this.#caller.port;
  }

  /** Where the caller's side dials, in mutual TLS: for each connection, or a tunnel. */
  get ingress(): number {
    return this.#callee.port;
  }

  /** The port that streams of a tunnel name; null for none. */
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

  /** Starts one more caller's side, dialling `port`, and stops it again. @returns ms to its first answer of 200; throws where none comes */
  async timedStart(port = this.ingress, withinMs = SERVED_MS): Promise<number> {
    this.#more++;
    const dir = join(this.#wanted.dir, `caller-${this.#more}`);
    const process = await startSide(this.#wanted, 'caller', port, dir, withinMs);
    await process.child.stop();
    return process.servedMs ?? 0;
  }

  /** Empties what was logged: it grows by megabytes a second. */
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
export async function startPair(wanted: Wanted): Promise<Pair> {
  const callee = await startSide(wanted, 'callee', wanted.app, join(wanted.dir, 'callee'));
  try {
    const caller = await startSide(wanted, 'caller', callee.port, join(wanted.dir, 'caller'));
    return new Pair(wanted, callee, caller);
  } catch (error) {
    await callee.child.stop();
    throw error;
  }
}

/** Starts one process. @returns when a caller's side answers, and when another listens */
export async function startSide(
  wanted: Wanted,
  role: Side['role'],
  dial: number,
  dir: string,
  withinMs = SERVED_MS,
): Promise<Process> {
  mkdirSync(dir, { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const listen = await freePort();
    const { peer, credentials, protocol, tunnelled, accessLog, nodeFlags = [] } = wanted;
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

/** Tries until it works. @returns null, or why it never did */
async function until(
  child: Child,
  withinMs: number,
  works: () => Promise<string | null>,
): Promise<string | null> {
  const end = performance.now() + withinMs;
  for (;;) {
    const why = await works().catch((error: Error) => error.message);
    if (why === null) return null;
    if (child.gone) return 'it ended';
    if (performance.now() > end) return why;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function listens(port: number): Promise<string | null> {
  await connects(port);
  return null;
}

async function serves(port: number): Promise<string | null> {
  const status = await askPlain(port);
  return status === 200 ? null : `its first answers are ${status === 0 ? 'none' : status}, not 200`;
}

function lastWords(dir: string): string {
  const text = readFileSync(join(dir, 'output.log'), 'utf8').trim();
  return text === '' ? '' : `: ${text.split('\n').slice(-3).join(' ').slice(-500)}`;
}
