/** Plays one case: the downstream and the app are ours, and what each of them saw is written down. */

import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { type Case, type Milestone, OK, type Reply, type SeenAnswer, type Step } from './case.ts';
import { type Message, type Reading, statusOf, WireReader } from './wire.ts';

/** How the pieces are written: whole, or in pieces that end where this says (offsets, ascending). */
export type Splits = (length: number) => readonly number[];

export const WHOLE: Splits = () => [];

/** Where a request reaches a sidecar that sends it on to that app. */
export interface Entrance {
  readonly port: number;
  close(): void;
}

export type Enter = (appPort: number) => Promise<Entrance>;

export interface AppSaw {
  readonly message: Message;
  /** Number of the connection it came over, from 0. */
  readonly connection: number;
  /** Its connection ended before it did. */
  cut: boolean;
}

/** What both ends saw. */
export interface Outcome {
  readonly answers: readonly Message[];
  readonly interims: readonly number[];
  /** An answer whose end never came. */
  readonly partial: Message | null;
  readonly over: 'open' | 'fin' | 'reset';
  /** Why somebody's bytes could not be read, or what did not come in time. */
  readonly faults: readonly string[];
  readonly requests: readonly AppSaw[];
  readonly tunnel: { readonly app: string; readonly downstream: string } | null;
  /** The request sent last, to see that the connection is still good, was answered so; null: not sent or not answered. */
  readonly probe: number | null;
  readonly received: string;
}

/** An address of our own where the kernel has them: a stray client of another test must not find our ports. */
export const LOOPBACK = process.platform === 'linux' ? '127.0.53.1' : '127.0.0.1';

/** Where a case is played, and how. */
export interface Stand {
  /** Of the app and of the entrance. */
  readonly host: string;
  /** The app's, which listens already; null: each case has its own. */
  readonly server: Server | null;
  /** Milliseconds for anything that must come. */
  readonly patience: number;
  /** How both ends read, see {@link WireReader}. */
  readonly reading: Reading;
}

const OURS: Stand = { host: LOOPBACK, server: null, patience: 20_000, reading: 'strict' };
/** For who stands between to close its connections behind a case. */
const DRAIN = 1_000;

const PROBE = 'GET /probe HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n';
/** Told from every other answer: an answer to something else must not pass for it. */
const PROBED = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nprobed';

/** Everything both ends wait for. */
class Stage {
  readonly counts: Record<Milestone, number> = { heads: 0, requests: 0, answers: 0, interims: 0 };
  readonly faults: string[] = [];
  over = false;
  readonly #waiting = new Set<() => void>();
  readonly #patience: number;

  constructor(patience: number) {
    this.#patience = patience;
  }

  reach(milestone: Milestone): void {
    this.counts[milestone]++;
    this.wake();
  }

  wake(): void {
    for (const wake of this.#waiting) wake();
  }

  /** Resolves when it holds, or when it is too late: then that is a fault. */
  until(what: string, holds: () => boolean): Promise<void> {
    if (holds()) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const wake = (): void => {
        if (holds()) done();
      };
      const timer = setTimeout(() => {
        this.faults.push(`waited for ${what}`);
        done();
      }, this.#patience);
      this.#waiting.add(wake);
    });
  }
}

/** Takes the steps of one side. */
async function take(stage: Stage, socket: Socket, steps: readonly Step[], splits: Splits): Promise<void> {
  for (const step of steps) {
    if (socket.destroyed) return;
    if (step === 'FIN') socket.end();
    else if (step === 'RST') socket.resetAndDestroy();
    else if (typeof step === 'string') await write(socket, Buffer.from(step, 'latin1'), splits);
    else if ('pause' in step) await new Promise((resolve) => setTimeout(resolve, step.pause));
    else if ('slowly' in step) await trickle(socket, Buffer.from(step.slowly, 'latin1'), step.every);
    else {
      const { until, count } = step;
      await stage.until(`${count} ${until}`, () => stage.counts[until] >= count || socket.destroyed);
    }
  }
}

async function trickle(socket: Socket, bytes: Buffer, every: number): Promise<void> {
  for (let at = 0; at < bytes.length && !socket.destroyed && !socket.readableEnded; at++) {
    socket.write(bytes.subarray(at, at + 1));
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}

/** Writes in pieces, each with a turn of the loop of its own: the reader shares this loop. */
async function write(socket: Socket, bytes: Buffer, splits: Splits): Promise<void> {
  let at = 0;
  for (const split of splits(bytes.length)) {
    socket.write(bytes.subarray(at, split));
    at = split;
    await new Promise((resolve) => setImmediate(resolve));
  }
  socket.write(bytes.subarray(at));
}

/** What an app listens with. */
export function appServer(): Server {
  return createServer({ allowHalfOpen: true, noDelay: true });
}

/** The app: it answers by the case's script, whatever connection a request comes over. */
class ScriptedApp {
  readonly requests: AppSaw[] = [];
  readonly sockets = new Set<Socket>();
  readonly readers: WireReader[] = [];
  running = 0;
  readonly #stage: Stage;
  readonly #replies: readonly (string | Reply)[];
  readonly #splits: Splits;
  readonly #reading: Reading;
  readonly #server: Server;
  readonly #own: boolean;
  readonly #onConnection = (socket: Socket): void => this.#serve(socket);

  constructor(
    stage: Stage,
    replies: readonly (string | Reply)[],
    { splits, reading, server }: Stand & { splits: Splits },
  ) {
    this.#stage = stage;
    this.#replies = replies;
    this.#splits = splits;
    this.#reading = reading;
    this.#own = server === null;
    this.#server = (server ?? appServer()).on('connection', this.#onConnection);
  }

  async listen(host: string): Promise<number> {
    if (this.#own) await new Promise<void>((resolve) => this.#server.listen(0, host, resolve));
    return (this.#server.address() as AddressInfo).port;
  }

  close(): void {
    if (this.#own) this.#server.close();
    else this.#server.off('connection', this.#onConnection);
    for (const socket of this.sockets) socket.destroy();
  }

  /** Ends its connections and waits for the other side to do so: none is left to the next case. */
  async drain(): Promise<void> {
    const closed = [...this.sockets].map((socket) => new Promise((resolve) => socket.once('close', resolve)));
    for (const socket of this.sockets) socket.end();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, DRAIN);
    });
    await Promise.race([Promise.all(closed), late]);
    clearTimeout(timer);
  }

  #serve(socket: Socket): void {
    const connection = this.readers.length;
    this.sockets.add(socket);
    let current: AppSaw | null = null;
    let reply: Reply = { steps: [] };
    const reader = new WireReader('request', {
      reading: this.#reading,
      onHead: (message) => {
        current = { message, connection, cut: false };
        reply = this.#replyTo(message);
        this.requests.push(current);
        this.#stage.reach('heads');
        if (reply.at === 'head') void this.#answer(socket, reply);
      },
      onComplete: () => {
        current = null;
        this.#stage.reach('requests');
        if (reply.at !== 'head') void this.#answer(socket, reply);
      },
    });
    this.readers.push(reader);
    const over = (): void => {
      if (current !== null) current.cut = true;
      this.#stage.wake();
    };
    socket.on('data', (chunk: Buffer) => {
      reader.feed(chunk);
      this.#stage.wake();
    });
    socket.on('error', over);
    socket.on('end', () => {
      over();
      socket.end();
    });
    socket.on('close', () => {
      over();
      this.sockets.delete(socket);
    });
  }

  #replyTo(message: Message): Reply {
    if (message.start.startsWith('GET /probe ')) return { steps: [PROBED] };
    const reply = this.#replies[this.requests.length] ?? OK;
    return typeof reply === 'string' ? { steps: [reply] } : reply;
  }

  async #answer(socket: Socket, reply: Reply): Promise<void> {
    this.running++;
    await take(this.#stage, socket, reply.steps, this.#splits);
    this.running--;
    this.#stage.wake();
  }
}

/** Plays a case through a sidecar, or through what another stand has. */
export async function play(
  row: Case,
  enter: Enter,
  splits: Splits = WHOLE,
  stand: Stand = OURS,
): Promise<Outcome> {
  const { host, patience, reading } = stand;
  const stage = new Stage(patience);
  const replies = row.app === undefined ? [] : typeof row.app === 'string' ? [row.app] : row.app;
  const app = new ScriptedApp(stage, replies, { ...stand, splits });
  const entrance = await enter(await app.listen(host));
  const socket = connect({ port: entrance.port, host, allowHalfOpen: true, noDelay: true });
  try {
    return await exchange(row, { stage, app, socket, splits, reading });
  } finally {
    socket.destroy();
    entrance.close();
    if (stand !== OURS) await app.drain();
    app.close();
  }
}

interface Playing {
  readonly stage: Stage;
  readonly app: ScriptedApp;
  readonly socket: Socket;
  readonly splits: Splits;
  readonly reading: Reading;
}

async function exchange(row: Case, { stage, app, socket, splits, reading }: Playing): Promise<Outcome> {
  const { expect } = row;
  let over: 'open' | 'fin' | 'reset' = 'open';
  const wanted = (final: number): SeenAnswer | null => {
    const answer = expect.answers[final];
    return answer === undefined || typeof answer === 'number' ? null : answer;
  };
  const isInterim = (message: Message): boolean => /^HTTP\/1\.[01] 1(?!01)/.test(message.start);
  const reader = new WireReader('answer', {
    reading,
    toHead: (final) => wanted(final)?.toHead === true,
    onComplete: (message) => stage.reach(isInterim(message) ? 'interims' : 'answers'),
  });
  socket.on('data', (chunk: Buffer) => {
    reader.feed(chunk);
    stage.wake();
  });
  socket.on('end', () => {
    if (over === 'open') over = 'fin';
    reader.ended();
    stage.wake();
  });
  socket.on('error', () => {
    // Behind a FIN nothing more is read: who writes on is reset, and that is its own affair.
    if (over === 'open') over = 'reset';
    stage.wake();
  });
  socket.on('close', () => {
    if (over === 'open') over = 'reset';
    stage.wake();
  });
  const settled = (): boolean => over !== 'open' || socket.destroyed || reader.fault !== null;

  const steps = typeof row.send === 'string' ? [row.send] : row.send;
  await take(stage, socket, steps, splits);
  const count = expect.answers.length;
  await stage.until(`${count} answers`, () => stage.counts.answers >= count || settled());
  await stage.until('the app to have said all', () => app.running === 0);
  let probe: number | null = null;
  if (expect.end === 'open') {
    if (!settled()) {
      // Whatever the app said behind its answer is on its way: let it arrive before.
      await new Promise((resolve) => setTimeout(resolve, row.app === undefined ? 0 : 5));
      socket.write(PROBE);
      await stage.until(
        'an answer to the request that follows',
        () => stage.counts.answers > count || settled(),
      );
      await stage.until('the end behind it', settled);
    }
  } else if (expect.end === 'tunnel') {
    const { app: up = '', downstream: down = '' } = expect.tunnel ?? {};
    await stage.until('what the tunnel carries', () => {
      const got = app.readers.some(({ raw }) => raw.endsWith(up));
      return (got && (reader.tunnel ?? '').length >= down.length) || settled();
    });
  } else if (expect.end !== 'any') await stage.until('the end of the connection', settled);
  const answers = reader.messages.filter((message) => message.complete && !isInterim(message));
  if (expect.end === 'open' && answers.at(-1)?.body === 'probed') probe = statusOf(answers.pop() as Message);
  // What was written before the connection ended is in the app's socket by now: one more look at it.
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  await stage.until('the rest of a request', () =>
    app.requests.every((seen) => seen.message.complete || seen.cut),
  );
  const faults = [...stage.faults];
  if (reader.fault !== null) faults.push(`the answer cannot be read: ${reader.fault}`);
  for (const { fault } of app.readers)
    if (fault !== null) faults.push(`the app got what it cannot read: ${fault}`);
  return {
    answers,
    interims: reader.messages.filter(isInterim).map(statusOf),
    partial: reader.partial,
    over,
    faults,
    requests: [...app.requests],
    tunnel:
      reader.tunnel === null
        ? null
        : { app: app.readers.map(({ raw }) => raw).join(''), downstream: reader.tunnel },
    probe,
    received: reader.raw,
  };
}
