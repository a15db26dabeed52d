/** `oarlock wait`: asks until it is told that all is ready, says what it waits for, and gives up in time. */
import { createServer, type ServerResponse } from 'node:http';
import t, { type Test } from 'tap';
import { type App, listen } from '../e2e/harness/apps.ts';
import { freePort } from '../e2e/harness/ports.ts';
import { runToEnd } from '../e2e/harness/processes.ts';

/** A health server that goes through these answers, the last for good. */
async function health(t: Test, answers: readonly ((response: ServerResponse) => void)[]): Promise<App> {
  let next = 0;
  const server = createServer((request, response) => {
    if (request.url === '/healthz/ready') answers[Math.min(next++, answers.length - 1)]?.(response);
    else response.writeHead(404).end();
  });
  return listen(t, server);
}

const says =
  (status: number, body: unknown) =>
  (response: ServerResponse): void =>
    void response.writeHead(status).end(typeof body === 'string' ? body : JSON.stringify(body));
const missing = (...waitingFor: string[]) => says(503, { ready: false, waitingFor, warnings: [] });
const ready = says(200, { ready: true });

t.test('ready after a while', async (t) => {
  const { port } = await health(t, [
    missing('a valid snapshot', 'credentials'),
    missing('credentials'),
    missing('credentials'),
    (response) => response.destroy(),
    ready,
  ]);
  const { code, stdout, stderr } = await runToEnd(t, ['wait', '--health-port', String(port)]);
  t.equal(code, 0);
  t.match(stdout, /^ready after \d+\.\d s$/);
  t.match(
    stderr.split('\n'),
    [
      'waiting for a valid snapshot, credentials',
      'waiting for credentials',
      /^waiting for the sidecar to start: ECONNRESET at http/,
    ],
    'each is said once',
  );
});

const rows: readonly (readonly [
  title: string,
  flags: (port: number) => string[],
  answer: (response: ServerResponse) => void,
  status: number,
  said: RegExp,
])[] = [
  ['by URL', (port) => ['--url', `http://localhost:${port}/healthz/ready`], ready, 0, /^$/],
  [
    'not in time',
    (port) => ['--health-port', `${port}`, '--timeout', '1500ms'],
    missing('credentials'),
    1,
    /not ready after 1.5 s: still waiting for credentials$/,
  ],
  [
    'no answer',
    (port) => ['--health-port', `${port}`, '--timeout', '700ms'],
    () => {},
    1,
    /no answer in 500 ms/,
  ],
  [
    'an answer in drops',
    (port) => ['--health-port', `${port}`, '--timeout', '700ms'],
    (response) => {
      response.writeHead(503);
      const drops = setInterval(() => response.write('.'), 50);
      response.once('close', () => clearInterval(drops));
    },
    1,
    /no answer in 500 ms/,
  ],
  [
    'somebody else',
    (port) => ['--url', `http://127.0.0.1:${port}/`, '--timeout', '1500ms'],
    ready,
    1,
    /it answers 404$/,
  ],
  ['a URL that is none', () => ['--url', 'localhost'], ready, 2, /--url must be/],
];
for (const [title, flags, answer, status, said] of rows) {
  t.test(title, async (t) => {
    const { port } = await health(t, [answer]);
    const { code, stderr } = await runToEnd(t, ['wait', ...flags(port)]);
    t.equal(code, status);
    t.match(stderr, said);
  });
}

t.test('nobody there', async (t) => {
  const flags = ['--health-port', `${await freePort()}`, '--timeout', '2s'];
  const { code, stderr } = await runToEnd(t, ['wait', ...flags]);
  t.equal(code, 1);
  t.match(stderr, /still waiting for the sidecar to start: ECONNREFUSED at http/);
});
