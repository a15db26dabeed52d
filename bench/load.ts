/** The load generator: HTTP/1.1 requests over raw sockets, in a closed loop or at a fixed rate, in a process of its own. */
import { connect, type Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { Latencies } from './latencies.ts';
import { cpuMsOf } from './proc.ts';
import { answer, type LoadTask, taskOf } from './task.ts';
import type { Ticks } from './ticker.ts';

const task = taskOf<LoadTask>();
const request = Buffer.from(
  `GET ${task.path} HTTP/1.1\r\nHost: orders.bench.svc.cluster.local\r\n${task.fresh ? 'Connection: close\r\n' : ''}\r\n`,
);
const HEAD_END = Buffer.from('\r\n\r\n');

/** Every socket reads into this one: nothing of it is kept past the call it came with. */
const buffer = Buffer.allocUnsafe(256 * 1024);

const latencies = new Latencies();
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

/** At a fixed rate: when each request is due, whether or not a connection is free to send it. */
class Schedule {
  readonly #everyMs: number;
  readonly #began: number;
  /** Requests handed to connections so far. */
  #sent = 0;
  readonly #free: Loop[] = [];

  constructor(rate: number) {
    this.#everyMs = 1000 / rate;
    this.#began = performance.now();
    const ticks: Ticks = { startNs: process.hrtime.bigint(), everyNs: BigInt(Math.round(1e9 / rate)) };
    new Worker(new URL('./ticker.ts', import.meta.url), { workerData: ticks }).on('message', () =>
      this.#send(),
    );
  }

  #dueAt(index: number): number {
    return this.#began + index * this.#everyMs;
  }

  /** A connection that has nothing to send: the next due request that no other takes before is its own. */
  free(loop: Loop): void {
    this.#free.push(loop);
    this.#send();
  }

  /** Its connection closed. */
  gone(loop: Loop): void {
    const at = this.#free.indexOf(loop);
    if (at >= 0) this.#free.splice(at, 1);
  }

  #send(): void {
    const now = performance.now();
    while (this.#free.length > 0 && this.#dueAt(this.#sent) <= now) {
      this.#free.shift()?.send(this.#dueAt(this.#sent));
      this.#sent++;
    }
  }

  /** How long each request waits by now that is due and was not sent. */
  *overdue(now: number): Generator<number> {
    for (let index = this.#sent; this.#dueAt(index) <= now; index++) yield now - this.#dueAt(index);
  }
}

const schedule = task.rate === null ? null : new Schedule(task.rate);
/** Requests due before this moment belong to the warm-up. */
let measuredFrom = 0;

class Loop {
  #socket: Socket;
  #startedAt = 0;
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
    this.#startedAt = performance.now();
    this.#waiting = schedule === null;
    const socket = connect({
      host: task.host,
      port: task.port,
      noDelay: true,
      onread: { buffer, callback: (size) => this.#read(size) },
    });
    socket.once('connect', () => this.#next());
    socket.on('error', () => {});
    socket.once('close', () => this.#closed());
    return socket;
  }

  #next(): void {
    if (schedule !== null) schedule.free(this);
    else this.send(task.fresh ? this.#startedAt : performance.now());
  }

  /** @param startedAt from when on this request's latency counts */
  send(startedAt: number): void {
    this.#startedAt = startedAt;
    this.#waiting = true;
    this.#socket.write(request);
  }

  #closed(): void {
    if (this.#waiting) errors++;
    schedule?.gone(this);
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
    if (schedule === null || this.#startedAt >= measuredFrom) {
      latencies.add(performance.now() - this.#startedAt);
      requests++;
    }
    this.#inBody = false;
    this.#waiting = false;
    // Else the other end closes, as it was asked to.
    if (!task.fresh) this.#next();
  }

  /** At the end: how long the request under way waits by now. */
  overdue(now: number): number | null {
    return this.#waiting && this.#startedAt >= measuredFrom ? now - this.#startedAt : null;
  }
}

const loops = Array.from({ length: task.connections }, () => new Loop());

setTimeout(() => {
  requests = 0;
  bytes = 0;
  latencies.clear();
  measuredFrom = performance.now();
  const cpuBefore = cpuMsOf(task.pids);
  const ownBefore = process.cpuUsage();
  setTimeout(() => {
    const now = performance.now();
    const cpuAfter = cpuMsOf(task.pids);
    const own = process.cpuUsage(ownBefore);
    if (schedule !== null) {
      // What was due and is not answered yet took at least so long: left out, it would flatter the slow.
      for (const ms of schedule.overdue(now)) latencies.add(ms);
      for (const loop of loops) {
        const ms = loop.overdue(now);
        if (ms !== null) latencies.add(ms);
      }
    }
    answer({
      seconds: (now - measuredFrom) / 1000,
      requests,
      bytes,
      errors,
      p50Ms: latencies.quantile(0.5),
      p99Ms: latencies.quantile(0.99),
      p999Ms: latencies.quantile(0.999),
      cpuMs: cpuBefore === null || cpuAfter === null ? null : cpuAfter - cpuBefore,
      ownCpuMs: (own.user + own.system) / 1000,
    });
  }, task.measureMs);
}, task.warmUpMs);
