/** Apps that close idle connections by the clock never cost a request: their connections are retired before. */
import { createServer, type ServerResponse } from 'node:http';
import t, { type Test } from 'tap';
import { type App, echo, listen, tcpApp } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { startPair } from './harness/pair.ts';
import { pause, until } from './harness/wait.ts';

t.setTimeout(120_000);
t.jobs = 3;

/** Connections that are idle at the same time, each since a moment of its own. */
const KEPT = 40;
/** Between two of these moments (ms). */
const STEP = 4;

interface Row {
  readonly title: string;
  /** The app closes what was idle for so long (ms). */
  readonly closesAfter: number;
  /** It says so in `Keep-Alive: timeout=N`. */
  readonly announced: boolean;
  readonly rounds: number;
}

/** A fifth of the time is what a sidecar may be late by on a busy machine: its own clock begins when it sees the answer. */
const rows: readonly Row[] = [
  { title: 'after 3 s, announced', closesAfter: 3_000, announced: true, rounds: 4 },
  { title: 'after 3 s, of which it says nothing', closesAfter: 3_000, announced: false, rounds: 4 },
  { title: 'after 5 s, announced', closesAfter: 5_000, announced: true, rounds: 2 },
];

/** A Node app that holds its answers back until the test lets them go. */
async function holdingApp(t: Test, row: Row): Promise<App & { readonly held: ServerResponse[] }> {
  const held: ServerResponse[] = [];
  const server = createServer((request, response) => {
    request.resume();
    request.on('end', () => held.push(response));
  });
  server.keepAliveTimeout = row.closesAfter;
  // Without this Node closes a second later than it says, which few servers do.
  server.keepAliveTimeoutBuffer = 0;
  return { ...(await listen(t, server)), held };
}

/** Leaves connections idle whose ages are about the app's time when the next requests come; the statuses of these. */
async function round(port: number, held: ServerResponse[], row: Row, late: number): Promise<number[]> {
  const wave = (): Promise<number>[] =>
    // None of these may be sent twice, so that no replay can hide a lost race.
    Array.from({ length: KEPT }, () =>
      call(port, '/', { method: 'POST', body: 'x' }).then(({ status }) => status),
    );
  const first = wave();
  await until('all of them at the app', () => held.length === KEPT);
  let lastAnswered = 0;
  for (const response of held.splice(0)) {
    answer(response, row);
    lastAnswered = performance.now();
    await pause(STEP);
  }
  await Promise.all(first);
  await pause(lastAnswered + row.closesAfter + late - performance.now());
  const second = wave();
  const answering = setInterval(() => {
    for (const response of held.splice(0)) answer(response, row);
  }, 1);
  try {
    return await Promise.all(second);
  } finally {
    clearInterval(answering);
  }
}

function answer(response: ServerResponse, { announced }: Row): void {
  if (!announced) response.setHeader('connection', 'keep-alive');
  response.end('ok');
}

await Promise.all(
  rows.map((row) =>
    t.test(row.title, async (t) => {
      const app = await holdingApp(t, row);
      const tcp = await tcpApp(t, echo);
      const { ports } = await startPair(t, { http: app.port, tcp: tcp.port });
      // What is not announced has to be seen once.
      if (!row.announced) await round(ports.http, app.held, row, 500);
      const statuses = new Map<number, number>();
      for (let i = 0; i < row.rounds; i++) {
        // The last that went idle is then just not closed, the first long since.
        const late = -STEP * i * 4;
        for (const status of await round(ports.http, app.held, row, late))
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
      t.same([...statuses], [[200, KEPT * row.rounds]], 'each is answered');
    }),
  ),
);
