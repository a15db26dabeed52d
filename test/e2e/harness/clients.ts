/** The clients: HTTP over node:http or as raw bytes, TCP, and foreign tools where they show more. */
import { spawn, spawnSync } from 'node:child_process';
import { Agent, type OutgoingHttpHeaders, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import type { Test } from 'tap';
import { PATIENCE, within } from './wait.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
  /** Local port of the connection it came over: the same where it was kept. */
  readonly localPort: number;
}

export interface Call {
  readonly method?: string;
  readonly headers?: OutgoingHttpHeaders;
  /** Sent with Content-Length unless `chunked`. */
  readonly body?: Buffer | string;
  readonly chunked?: boolean;
  readonly agent?: Agent;
  /** Where to, if not 127.0.0.1. */
  readonly address?: string;
}

/** One request to 127.0.0.1; rejects where there is no whole answer. */
export function call(port: number, path: string, options: Call = {}): Promise<Answer> {
  const { body, chunked = false } = options;
  const length = body === undefined || chunked ? {} : { 'content-length': Buffer.byteLength(body) };
  const answered = new Promise<Answer>((resolve, reject) => {
    const outgoing = request({
      host: options.address ?? '127.0.0.1',
      port,
      path,
      method: options.method ?? 'GET',
      headers: { host: 'orders.shop.svc.cluster.local', ...length, ...options.headers },
      agent: options.agent ?? false,
    });
    outgoing.on('error', reject);
    outgoing.on('response', (response) => {
      const localPort = response.socket.localPort ?? 0;
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('error', reject);
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: Buffer.concat(parts),
          localPort,
        }),
      );
    });
    outgoing.end(body);
  });
  return within(`an answer to ${path}`, answered);
}

/** An agent that keeps one connection. */
export function keepAlive(t: Test): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  return agent;
}

/** A TCP connection with everything it received, and how it ended. */
export class Peer {
  readonly socket: Socket;
  /** `end`: a FIN came. `ECONNRESET` and its like: an abort. `closed`: closed without either. */
  over: string | null = null;
  readonly #waiting = new Set<() => void>();
  /** Joined when asked for: once a chunk would take the square of what comes. */
  #chunks: Buffer[] = [];

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#wake();
    });
    socket.on('end', () => this.#end('end'));
    socket.on('error', (error: NodeJS.ErrnoException) => this.#end(error.code ?? error.message));
    socket.on('close', () => this.#end('closed'));
  }

  get received(): Buffer {
    const all = this.#chunks.length === 1 ? this.#chunks[0] : undefined;
    if (all !== undefined) return all;
    const joined = Buffer.concat(this.#chunks);
    this.#chunks = [joined];
    return joined;
  }

  get text(): string {
    return this.received.toString('latin1');
  }

  write(data: Buffer | string): void {
    this.socket.write(data);
  }

  /** Waits until what was received so far satisfies the test. */
  async until(what: string, test: (text: string) => boolean, ms = PATIENCE): Promise<string> {
    await this.#wait(
      `${what} (so far: ${JSON.stringify(this.text.slice(0, 200))})`,
      () => test(this.text),
      ms,
    );
    return this.text;
  }

  /** Waits until the other side has ended it; says how. */
  async ended(ms = PATIENCE): Promise<string> {
    await this.#wait('the end of the connection', () => this.over !== null, ms);
    return this.over ?? '';
  }

  /** Sends a FIN. */
  end(): void {
    this.socket.end();
  }

  /** Sends a reset. */
  abort(): void {
    this.socket.resetAndDestroy();
  }

  async #wait(what: string, test: () => boolean, ms: number): Promise<void> {
    let wake = (): void => {};
    const done = new Promise<void>((resolve, reject) => {
      wake = () => {
        if (test()) resolve();
        else if (this.over !== null) reject(new Error(`${this.over} instead of ${what}`));
      };
      this.#waiting.add(wake);
      wake();
    });
    try {
      await within(what, done, ms);
    } finally {
      this.#waiting.delete(wake);
    }
  }

  #end(how: string): void {
    this.over ??= how;
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }
}

/** Opens a TCP connection to 127.0.0.1; half-open is allowed. */
export async function open(t: Test, port: number): Promise<Peer> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  const peer = new Peer(socket);
  t.teardown(() => socket.destroy());
  await within(
    `a connection to port ${port}`,
    new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    }),
  );
  return peer;
}

export interface Ran {
  readonly status: number | null;
  readonly output: string;
}

/** True where the tool is on this machine. */
export function hasTool(name: string): boolean {
  return spawnSync(name, [name === 'openssl' ? 'version' : '--version']).error === undefined;
}

/**
 * Runs a foreign tool to its end, giving it `input`. The output is stdout, then stderr: as they came, words of the one
 * would stand in the midst of the other's.
 */
export function run(name: string, args: readonly string[], input = '', ms = PATIENCE): Promise<Ran> {
  const child = spawn(name, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const said = ['', ''];
  for (const [i, stream] of [child.stdout, child.stderr].entries()) {
    stream.on('data', (chunk: Buffer) => {
      said[i] += chunk.toString('latin1');
    });
  }
  // A tool that ends before it has read all of its input is its own affair.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const ended = new Promise<Ran>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => resolve({ status, output: said.join('') }));
  });
  return within(`${name} to end`, ended, ms).finally(() => child.kill('SIGKILL'));
}
