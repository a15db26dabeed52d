/**
 * The app of a pod that is replaced, run by Node inside the pod: it serves, calls others without a pause, and ends in
 * order. Commands come on stdin, a word or two a line; what became of them goes to stdout, an object a line.
 */
import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { connect, createServer as createTcpServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';

/** As JSON, the one argument. */
export interface RolledOptions {
  readonly name: string;
  readonly http: number;
  readonly echo: number;
  /** What it calls once more when nothing else is left. */
  readonly last: string;
  /** Hosts, as URLs have them, of the service it calls without a pause; empty: none. */
  readonly calls: readonly string[];
}

/** Between two calls of one loop, and two lines of one of the long ones (ms). */
const STEP = 10;
/** `more` is answered after so many of each kind. */
const MORE = 5;
/** Connections made until one is at the replica that is asked for; balancing finds it long before. */
const TRIES = 200;

const options = JSON.parse(process.argv[2] ?? '') as RolledOptions;
const { name, http, echo, last, calls } = options;

/** What went well, by kind. */
const served = new Map<string, number>();
/** Called when a count has grown. */
let counted = (): void => {};
/** Nothing new is called. */
let leaving = false;
/** Our long calls, and the downloads we serve, come to their end; anew each time. */
let finish = new AbortController();
const underWay = new Set<Promise<void>>();
const downloads = new Set<ServerResponse>();

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function count(kind: string): void {
  served.set(kind, (served.get(kind) ?? 0) + 1);
  counted();
}

// ---- what it serves

const web = createServer((incoming, response) => {
  incoming.resume();
  if (incoming.url === '/download') void serveDownload(response);
  else incoming.on('end', () => setTimeout(() => response.end(name), STEP));
});

/** Numbered lines until it is told to finish. */
async function serveDownload(response: ServerResponse): Promise<void> {
  const { signal } = finish;
  downloads.add(response);
  response.on('close', () => downloads.delete(response));
  for (let line = 0; !signal.aborted && !response.destroyed; line++) {
    response.write(`${name} ${line}\n`);
    await pause(STEP);
  }
  response.end(`${name} ends\n`);
}

const tcp = createTcpServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', (error) => say({ failed: `echo at ${name}: ${error.message}` }));
  socket.write(`${name}\n`);
  socket.pipe(socket);
});

// ---- what it calls

/** A request that nobody may send twice, and so not hide a lost race behind a second try. */
async function post(url: string, agent: Agent): Promise<void> {
  const outgoing = request(url, { agent, method: 'POST' });
  outgoing.on('error', ignore).end('x');
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  const body = await textOf(answer);
  if (answer.statusCode !== 200) throw new Error(`${answer.statusCode} ${body}`);
}

/** Whoever waits for the answer, or reads it, hears of it too. */
function ignore(): void {}

async function textOf(answer: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of answer) text += String(chunk);
  return text;
}

/** Throws where the stream is cut. */
async function* linesOf(stream: Readable): AsyncGenerator<string, undefined> {
  let text = '';
  for await (const chunk of stream) {
    const lines = (text + String(chunk)).split('\n');
    text = lines.pop() ?? '';
    yield* lines;
  }
  if (text !== '') yield text;
}

async function loop(kind: string, url: string, keepAlive: boolean): Promise<void> {
  const agent = new Agent({ keepAlive, maxSockets: 1 });
  while (!leaving) {
    try {
      await post(url, agent);
      count(kind);
    } catch (error) {
      say({ failed: `${kind} to ${url}: ${(error as Error).message}` });
    }
    await pause(STEP);
  }
  agent.destroy();
}

/** One that is whole only if all its lines are there, in order, and its end is. */
async function download(host: string, replica: string): Promise<void> {
  const outgoing = request(`http://${host}/download`, { agent: false });
  outgoing.on('error', ignore).end();
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  const lines = linesOf(answer);
  const { value: first } = await lines.next();
  if (first !== `${replica} 0`) {
    outgoing.destroy();
    throw new Elsewhere();
  }
  track('download', async () => {
    let ends = '';
    for (let line = 1; ends === ''; line++) {
      const { value, done } = await lines.next();
      if (value === `${replica} ends`) ends = value;
      else if (done === true || value !== `${replica} ${line}`) throw new Error(`${value} for line ${line}`);
      count('download');
    }
    const { done } = await lines.next();
    if (done !== true || !answer.complete) throw new Error('no end');
  });
}

function connectTo(host: string): Socket {
  return connect({ host: host.replace(/[[\]]/g, ''), port: echo });
}

/** What it says comes back, line by line, and its end behind that. */
async function converse(host: string, replica: string): Promise<void> {
  const socket = connectTo(host);
  const lines = linesOf(socket);
  const { value: first } = await lines.next();
  if (first !== replica) {
    socket.end();
    throw new Elsewhere();
  }
  const { signal } = finish;
  track('echo', async () => {
    for (let line = 0; !signal.aborted; line++) {
      socket.write(`${line}\n`);
      const { value } = await lines.next();
      if (value !== String(line)) throw new Error(`${value} for line ${line}`);
      count('echo');
      await pause(STEP);
    }
    socket.end('the last\n');
    const { value } = await lines.next();
    const { done } = await lines.next();
    if (value !== 'the last' || done !== true) throw new Error(`${value} for its end`);
  });
}

class Elsewhere extends Error {}

/** Has a long call go on beside all else, and tells how it ended. */
function track(kind: string, run: () => Promise<void>): void {
  const over = run()
    .then(
      () => say({ whole: kind }),
      (error: Error) => say({ failed: `${kind}: ${error.message}` }),
    )
    .finally(() => {
      served.delete(kind);
      underWay.delete(over);
    });
  served.set(kind, 0);
  underWay.add(over);
}

/** Calls until it is that replica who answers. */
async function hold(call: typeof download, replica: string): Promise<void> {
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      await call(calls[tries % calls.length] ?? '', replica);
      return;
    } catch (error) {
      if (!(error instanceof Elsewhere)) {
        say({ failed: `to ${replica}: ${(error as Error).message}` });
        return;
      }
    }
  }
  say({ failed: `no way to ${replica}` });
}

// ---- what it is told

const commands: Readonly<Record<string, (argument: string, ...more: string[]) => Promise<void>>> = {
  /** Begins a download and a conversation with one replica. */
  hold: async (replica) => {
    await hold(download, replica);
    await hold(converse, replica);
    say({ held: replica });
  },
  /** Begins so many conversations with one replica at once, at its own address. */
  crowd: async (replica, host = '', length = '') => {
    const all = Array.from({ length: Number(length) }, () => converse(host, replica));
    for (const one of await Promise.allSettled(all))
      if (one.status === 'rejected') say({ failed: `in a crowd: ${(one.reason as Error).message}` });
    say({ crowded: replica });
  },
  /** Says so when more of each kind went well. */
  more: async () => {
    const before = new Map(served);
    await new Promise<void>((resolve) => {
      counted = () => {
        // A kind that is not there any more has ended.
        for (const [kind, times] of before)
          if ((served.get(kind) ?? Number.POSITIVE_INFINITY) < times + MORE) return;
        counted = () => {};
        resolve();
      };
      counted();
    });
    say({ more: true });
  },
  finish: async () => {
    finish.abort();
    finish = new AbortController();
    await Promise.all(underWay);
    say({ finished: true });
  },
  /** What a process does between SIGTERM and its end: takes nothing new, ends what runs, and tells somebody. */
  leave: async () => {
    await told;
    leaving = true;
    const closed = [once(web, 'close'), once(tcp, 'close')];
    web.close();
    tcp.close();
    await Promise.all([...closed, ...loops, ...underWay]);
    const error = await post(last, new Agent({ keepAlive: false })).then(
      () => '',
      ({ message }: Error) => message,
    );
    say({ left: true, error });
    process.exit(0);
  },
};

const told = once(process, 'SIGTERM');
web.listen(http);
tcp.listen(echo);
await Promise.all([once(web, 'listening'), once(tcp, 'listening')]);
const loops = calls.flatMap((host) => [
  loop('kept', `http://${host}/`, true),
  loop('fresh', `http://${host}/`, false),
  loop('fresh', `http://${host}/`, false),
]);
createInterface({ input: process.stdin }).on('line', (line) => {
  const [command = '', argument = '', ...more] = line.split(' ');
  commands[command]?.(argument, ...more).catch((error: Error) =>
    say({ failed: `${line}: ${error.message}` }),
  );
});
say({ listening: true });
