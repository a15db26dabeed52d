/** The load generator: a closed loop of HTTP/1.1 requests over raw sockets, in a process of its own. */
import { connect, type Socket } from 'node:net';
import { cpuMsOf } from './proc.ts';
import { answer, type LoadTask, taskOf } from './task.ts';

const task = taskOf<LoadTask>();
const request = Buffer.from(
  `GET ${task.path} HTTP/1.1\r\nHost: orders.bench.svc.cluster.local\r\n${task.fresh ? 'Connection: close\r\n' : ''}\r\n`,
);
const HEAD_END = Buffer.from('\r\n\r\n');

/** Latencies in steps of 1 µs; what takes longer than the last counts as the last. */
const latencies = new Uint32Array(4_000_000);
/** Every socket reads into this one: nothing of it is kept past the call it came with. */
const buffer = Buffer.allocUnsafe(256 * 1024);

let requests = 0;
let bytes = 0;
let errors = 0;

/** The last head, and the body length it told: an equal one is not read again. */
let knownHead: Buffer = Buffer.alloc(0);
let knownLength = 0;

function bodyLength(head: Buffer): number {
  if (head.equals(knownHead)) return knownLength;
  const text = head.toString('latin1');
  const length = /^content-length: *(\d+)\r?$/im.exec(text)?.[1];
  if (!text.startsWith('HTTP/1.1 200 ') || length === undefined) {
    errors++;
    if (errors === 1) process.stderr.write(`bench: an answer other than 200 with a length: ${text}\n`);
  }
  knownHead = Buffer.from(head);
  knownLength = Number(length ?? 0);
  return knownLength;
}

class Loop {
  #socket: Socket;
  #sentAt = 0;
  #inBody = false;
  /** Bytes of the body still to come. */
  #body = 0;
  /** An answer is under way. */
  #waiting = false;
  /** A head cut by a read's end. */
  #rest: Buffer | null = null;

  constructor() {
    this.#socket = this.#open();
  }

  #open(): Socket {
    this.#sentAt = performance.now();
    this.#waiting = true;
    const socket = connect({
      host: '127.0.0.1',
      port: task.port,
      noDelay: true,
      onread: { buffer, callback: (size) => this.#read(size) },
    });
    socket.once('connect', () => this.#send());
    socket.on('error', () => {});
    socket.once('close', () => this.#closed());
    return socket;
  }

  #send(): void {
    if (!task.fresh) this.#sentAt = performance.now();
    this.#waiting = true;
    this.#socket.write(request);
  }

  #closed(): void {
    if (this.#waiting) errors++;
    this.#inBody = false;
    this.#rest = null;
    // A refused connection must not become a busy loop.
    const again = (): void => {
      this.#socket = this.#open();
    };
    if (this.#waiting) setTimeout(again, 10);
    else again();
  }

  #read(size: number): boolean {
    let chunk: Buffer = buffer.subarray(0, size);
    if (this.#rest !== null) {
      chunk = Buffer.concat([this.#rest, chunk]);
      this.#rest = null;
    }
    let at = 0;
    while (at < chunk.length) {
      if (!this.#inBody) {
        const end = chunk.indexOf(HEAD_END, at);
        if (end < 0) {
          this.#rest = Buffer.from(chunk.subarray(at));
          return true;
        }
        this.#body = bodyLength(chunk.subarray(at, end + 4));
        at = end + 4;
        this.#inBody = true;
      }
      const used = Math.min(this.#body, chunk.length - at);
      this.#body -= used;
      at += used;
      bytes += used;
      if (this.#body === 0) this.#answered();
    }
    return true;
  }

  #answered(): void {
    const micros = Math.round((performance.now() - this.#sentAt) * 1000);
    const step = Math.min(micros, latencies.length - 1);
    latencies[step] = (latencies[step] ?? 0) + 1;
    requests++;
    this.#inBody = false;
    this.#waiting = false;
    // Else the other end closes, as it was asked to.
    if (!task.fresh) this.#send();
  }
}

/** The latency that this share of the requests did not exceed, in milliseconds. */
function quantile(share: number): number {
  let left = Math.ceil(requests * share);
  for (let step = 0; step < latencies.length; step++) {
    left -= latencies[step] ?? 0;
    if (left <= 0) return step / 1000;
  }
  return latencies.length / 1000;
}

for (let i = 0; i < task.connections; i++) new Loop();

setTimeout(() => {
  requests = 0;
  bytes = 0;
  latencies.fill(0);
  const began = performance.now();
  const cpuBefore = cpuMsOf(task.pids);
  const ownBefore = process.cpuUsage();
  setTimeout(() => {
    const seconds = (performance.now() - began) / 1000;
    const cpuAfter = cpuMsOf(task.pids);
    const own = process.cpuUsage(ownBefore);
    answer({
      seconds,
      requests,
      bytes,
      errors,
      p50Ms: quantile(0.5),
      p99Ms: quantile(0.99),
      cpuMs: cpuBefore === null || cpuAfter === null ? null : cpuAfter - cpuBefore,
      ownCpuMs: (own.user + own.system) / 1000,
    });
  }, task.measureMs);
}, task.warmUpMs);
