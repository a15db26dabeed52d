/** Keeps many requests open that are never answered, so that every hop has a connection for each, in a process of its own. */
import { connect, type Socket } from 'node:net';
import { type HeldTask, taskOf } from './task.ts';

const task = taskOf<HeldTask>();
/** Handshakes of a thousand at once would be refused as an attack, or time out: so many are opened at a time. */
const STEP = 50;
const POLL_MS = 20;
const SETTLED_MS = 300;

const sockets: Socket[] = [];

function hold(): void {
  const socket = connect(task.port, task.host);
  socket.write('GET /held HTTP/1.1\r\nHost: orders.bench.svc.cluster.local\r\n\r\n');
  socket.on('error', () => {}).resume();
  sockets.push(socket);
}

async function waiting(): Promise<number> {
  return Number(await (await fetch(`http://${task.app.host}:${task.app.port}/waiting`)).text());
}

function pause(ms = POLL_MS): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** @returns how many requests wait when their number has stopped falling */
async function settled(): Promise<number> {
  for (let last = await waiting(); ; ) {
    await pause(SETTLED_MS);
    const now = await waiting();
    if (now === 0 || now >= last) return now;
    last = now;
  }
}

// A client that only half-closes might still want its answer; a reset says that it does not.
process.once('SIGTERM', () => {
  for (const socket of sockets) socket.resetAndDestroy();
  setImmediate(() => process.exit(0));
});

const end = performance.now() + task.withinMs;
// Whoever came before us may still be being cleared away.
const before = await settled();
let opened = 0;
let held = 0;
while (held < task.connections && performance.now() < end) {
  for (; opened < Math.min(held + STEP, task.connections); opened++) hold();
  await pause();
  held = (await waiting()) - before;
}
process.stdout.write(`${JSON.stringify({ held })}\n`);
