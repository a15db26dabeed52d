/** The access log: Istio's field names, safe text whatever the wire says, and lines dropped rather than waited for. */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type AccessLog, createAccessLog } from '../../telemetry/access-log.ts';
import {
  type AccessRecord,
  connectionRecord,
  LoggedConnection,
  LoggedUpstream,
} from '../../telemetry/access-record.ts';

const CONNECTION = {
  direction: 'inbound',
  downstreamLocalAddress: '10.0.0.2:15006',
  downstreamRemoteAddress: '10.0.0.1:51234',
  requestedServerName: 'outbound_.9080_._.orders.shop.svc.cluster.local',
  sourcePrincipal: 'spiffe://cluster.local/ns/shop/sa/web',
  connectionSecurityPolicy: 'mutual_tls',
} as const;
const UPSTREAM = {
  host: '127.0.0.1:8080',
  localAddress: '127.0.0.1:40000',
  cluster: 'inbound|8080||',
  routeName: 'default',
  destinationPrincipal: 'spiffe://cluster.local/ns/shop/sa/orders',
};
const connection: AccessRecord = {
  ...connectionRecord(new LoggedConnection(CONNECTION), new LoggedUpstream({ ...UPSTREAM, routeName: null })),
  startTime: Date.UTC(2026, 7, 9, 10, 11, 12, 7),
  durationMs: 12.6,
  bytesReceived: 100,
  bytesSent: 2_000,
};
const request: AccessRecord = {
  ...connection,
  upstream: new LoggedUpstream(UPSTREAM),
  method: 'GET',
  path: '/orders?id=1',
  protocol: 'HTTP/1.1',
  responseCode: 200,
  responseCodeDetails: 'via_upstream',
  upstreamServiceTime: 11.9,
  userAgent: 'curl/8',
  requestId: '6b1c',
  authority: 'orders:9080',
};

/** Istio's EnvoyJSONLogFormatIstio (pilot/pkg/model/telemetry_logging.go). */
const ISTIO_FIELDS = [
  'authority',
  'bytes_received',
  'bytes_sent',
  'connection_termination_details',
  'downstream_local_address',
  'downstream_remote_address',
  'duration',
  'method',
  'path',
  'protocol',
  'request_id',
  'requested_server_name',
  'response_code',
  'response_code_details',
  'response_flags',
  'route_name',
  'start_time',
  'upstream_cluster',
  'upstream_host',
  'upstream_local_address',
  'upstream_service_time',
  'upstream_transport_failure_reason',
  'user_agent',
  'x_forwarded_for',
];
const OUR_FIELDS = [
  'connection_security_policy',
  'destination_principal',
  'direction',
  'grpc_response_status',
  'policy',
  'reason',
  'source_principal',
  'type',
];

type Fields = Record<string, unknown>;

async function linesOf(path: string, write: (log: AccessLog) => void): Promise<Fields[]> {
  const log = createAccessLog({ path });
  write(log);
  await log.close();
  return readFileSync(path, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Fields);
}

t.test('a request and a connection have the same fields: Istio’s and ours', async (t) => {
  const [first, second] = await linesOf(join(t.testdir(), 'access.log'), (log) => {
    log.write(request);
    log.write({ ...connection, responseFlags: 'UF', reason: 'connect_failed' });
  });
  t.strictSame(Object.keys(first ?? {}).sort(), [...ISTIO_FIELDS, ...OUR_FIELDS].sort());
  t.strictSame(Object.keys(second ?? {}).sort(), [...ISTIO_FIELDS, ...OUR_FIELDS].sort());
  t.match(first, {
    type: 'access',
    direction: 'inbound',
    start_time: '2026-08-09T10:11:12.007Z',
    // Both are cut to whole milliseconds, as Envoy does.
    duration: 12,
    method: 'GET',
    path: '/orders?id=1',
    response_code: 200,
    upstream_service_time: '11',
    bytes_received: 100,
    bytes_sent: 2_000,
    user_agent: 'curl/8',
    x_forwarded_for: null,
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
    connection_security_policy: 'mutual_tls',
  });
  t.match(second, { method: null, response_code: 0, response_flags: 'UF', reason: 'connect_failed' });
});

t.test('text from the wire stays text: quotes, line feeds, controls, broken pairs', async (t) => {
  const path = join(t.testdir(), 'access.log');
  const rows = [
    'say "hi"',
    'back\\slash',
    'two\nlines\r\n{"type":"access"}',
    'esc\u001b[31m and C1 \u009b31m',
    'sep\u2028par\u2029',
    '\ud83d\ude00 whole',
    'half \ud83d',
    'é',
    '\u0000',
  ];
  const lines = await linesOf(path, (log) => {
    for (const row of rows) log.write({ ...request, path: row, userAgent: row });
  });
  t.equal(lines.length, rows.length, 'one line each');
  t.strictSame(
    lines.map((line) => line.path),
    rows,
  );
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
  t.notMatch(readFileSync(path, 'utf8'), /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/);
});

t.test('long text is cut', async (t) => {
  const [line] = await linesOf(join(t.testdir(), 'access.log'), (log) => {
    log.write({ ...request, path: `/${'a'.repeat(60_000)}`, userAgent: 'b'.repeat(60_000) });
  });
  t.equal(String(line?.path).length, 1_024);
  t.equal(String(line?.user_agent).length, 512);
});

t.test('times across seconds, and numbers that are none', async (t) => {
  const base = Date.UTC(2026, 0, 1);
  const starts = [base, base + 1, base + 99, base + 999, base + 1_000, base + 60_000.7, base + 5];
  const lines = await linesOf(join(t.testdir(), 'access.log'), (log) => {
    for (const startTime of starts) log.write({ ...connection, startTime, durationMs: Number.NaN });
  });
  t.strictSame(
    lines.map((line) => line.start_time),
    starts.map((start) => new Date(Math.floor(start)).toISOString()),
  );
  t.ok(lines.every((line) => line.duration === 0));
});

t.test(
  'a stuck destination loses lines, counts them, blocks nobody, and later ones get through',
  async (t) => {
    const dir = t.testdir();
    const fifo = join(dir, 'stuck');
    execFileSync('mkfifo', [fifo]);
    // Our own read end, never read until later; opened first, so that the writer's open does not wait.
    const readEnd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const writeEnd = openSync(fifo, constants.O_WRONLY);
    const log = createAccessLog({ fd: writeEnd });
    const before = performance.now();
    for (let i = 0; i < 20_000; i++) log.write(request);
    t.ok(performance.now() - before < 2_000, `${performance.now() - before} ms for 20,000 lines`);
    t.ok(log.dropped > 10_000, `${log.dropped} dropped`);
    const dropped = log.dropped;
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (let i = 0; i < 2_000; i++) log.write(request);
    t.ok(log.dropped >= dropped + 1_900, 'still full, but for what the pipe itself took');

    let text = '';
    const chunk = Buffer.alloc(65_536);
    const drain = () => {
      try {
        for (let n = 1; n > 0; ) {
          n = readSync(readEnd, chunk);
          text += chunk.toString('utf8', 0, n);
        }
      } catch {
        // EAGAIN: empty for now
      }
    };
    for (let i = 0; i < 200 && text.split('\n').length < 22_001 - log.dropped; i++) {
      drain();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    log.write({ ...request, path: '/after' });
    const draining = setInterval(drain, 10);
    await log.flush();
    clearInterval(draining);
    drain();
    const lines = text.split('\n').slice(0, -1);
    for (const line of lines) JSON.parse(line);
    t.equal(lines.length, 22_001 - log.dropped, 'every line is either whole or counted');
    t.match(lines.at(-1), /"path":"\/after"/);
    await log.close();
    closeSync(readEnd);
  },
);

t.test(
  'a reader that is gone and a disk that is full are counted, not thrown',
  { skip: process.platform !== 'linux' },
  async (t) => {
    const log = createAccessLog({ path: '/dev/full' });
    log.write(request);
    log.write(request);
    await log.flush();
    t.equal(log.dropped, 2);
    await log.close();
    log.write(request);
    t.equal(log.dropped, 3, 'after the end as well');
  },
);

t.test('a file that cannot be opened says so at once', (t) => {
  t.throws(() => createAccessLog({ path: join(t.testdir(), 'no', 'such', 'dir') }), { code: 'ENOENT' });
  t.end();
});

/** Runs a child that logs 500 lines, far more than a pipe holds, to stderr and leaves by `process.exit`; nobody reads for `readAfterMs`. */
async function child(dir: string, readAfterMs: number): Promise<{ text: string; exitMs: number }> {
  const script = join(dir, 'child.ts');
  const telemetry = new URL('../../telemetry/', import.meta.url);
  writeFileSync(
    script,
    `import { createAccessLog } from ${JSON.stringify(new URL('access-log.ts', telemetry))};
     import { connectionRecord, LoggedConnection, LoggedUpstream } from ${JSON.stringify(new URL('access-record.ts', telemetry))};
     const log = createAccessLog('stderr');
     const entry = connectionRecord(
       new LoggedConnection(${JSON.stringify(CONNECTION)}),
       new LoggedUpstream(${JSON.stringify(UPSTREAM)}),
     );
     for (let i = 0; i < 500; i++) log.write(entry);
     setTimeout(() => { log.write({ ...entry, reason: 'last' }); process.exit(0); }, 100);`,
  );
  const fifo = join(dir, 'stderr');
  execFileSync('mkfifo', [fifo]);
  const readEnd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(fifo, constants.O_WRONLY);
  const started = performance.now();
  const running = spawn(process.execPath, [script], { stdio: ['ignore', 'ignore', writeEnd] });
  closeSync(writeEnd);
  let text = '';
  const chunk = Buffer.alloc(65_536);
  const reader = setInterval(() => {
    if (performance.now() - started < readAfterMs) return;
    try {
      for (let n = 1; n > 0; ) {
        n = readSync(readEnd, chunk);
        text += chunk.toString('utf8', 0, n);
      }
    } catch {
      // EAGAIN
    }
  }, 5);
  await new Promise((resolve) => running.once('exit', resolve));
  const exitMs = performance.now() - started;
  await new Promise((resolve) => setTimeout(resolve, 50));
  clearInterval(reader);
  closeSync(readEnd);
  running.kill('SIGKILL');
  return { text, exitMs };
}

t.test('the last lines reach a pipe that is read', { skip: process.platform !== 'linux' }, async (t) => {
  const { text } = await child(t.testdir(), 0);
  t.equal(text.split('\n').length - 1, 501);
  t.match(text, /"reason":"last"/);
});

t.test(
  'a stderr that nobody reads does not keep the process from leaving',
  { skip: process.platform !== 'linux' },
  async (t) => {
    const { exitMs } = await child(t.testdir(), 60_000);
    // It would never leave.
    t.ok(exitMs < 30_000, `${exitMs} ms`);
  },
);
