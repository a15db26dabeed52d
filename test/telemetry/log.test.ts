/** The daemon's logger: form of a line, secrets struck out, last lines kept, floods of refusals bounded. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { LineWriter } from '../../telemetry/line-writer.ts';
import { createLogger, type Logger } from '../../telemetry/log.ts';
import { RefusalLimit } from '../../telemetry/refusal-limit.ts';

type Fields = Record<string, unknown>;

async function logged(path: string, write: (log: Logger) => void): Promise<Fields[]> {
  const writer = new LineWriter({ path });
  write(createLogger('info', writer));
  await writer.close();
  return readFileSync(path, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Fields);
}

const PEM = '-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIabc\n-----END EC PRIVATE KEY-----\n';

t.test('a line has level, ISO time and message, neither pid nor hostname', async (t) => {
  const [line, ...rest] = await logged(join(t.testdir(), 'log'), (log) => {
    log.debug('below the level');
    log.info({ port: 15006 }, 'listening');
  });
  t.equal(rest.length, 0);
  t.strictSame(Object.keys(line ?? {}).sort(), ['level', 'msg', 'port', 'time']);
  t.match(line, { level: 'info', port: 15006, msg: 'listening', time: /^\d{4}-\d\d-\d\dT[\d:.]+Z$/ });
});

t.test('secrets are struck out, by name at any depth and by form anywhere', async (t) => {
  const path = join(t.testdir(), 'log');
  const names = [
    'key',
    'keyPem',
    'privateKey',
    'client_key',
    'token',
    'bearerToken',
    'jwtTokens',
    'secret',
    'password',
    'authorization',
  ];
  const lines = await logged(path, (log) => {
    for (const name of names) log.info({ [name]: 'hunter2', nested: { list: [{ [name]: 'hunter2' }] } }, 'x');
    log.child({ token: 'hunter2' }).info('child');
    log.info(`read ${PEM}`);
    log.error(new Error(`cannot use ${PEM}`));
    log.info({ file: PEM }, 'whole');
    log.info({ text: '-----BEGIN PRIVATE KEY-----\nMHcCAQEEIabc' }, 'cut off');
    log.info(
      { publicKey: 'shown', keyUsage: 'shown', key_id: 'shown', token: null, monkey: 'shown', tokens: 3 },
      'harmless',
    );
  });
  const text = readFileSync(path, 'utf8');
  t.notMatch(text, 'hunter2');
  t.notMatch(text, 'MHcCAQEEI');
  t.notMatch(text, 'PRIVATE KEY');
  t.match(lines[0], { key: '[redacted]', nested: { list: [{ key: '[redacted]' }] }, msg: 'x' });
  t.match(lines.at(-3), { file: /\[redacted\]/, msg: 'whole' });
  t.match(lines.at(-1), {
    publicKey: 'shown',
    keyUsage: 'shown',
    key_id: 'shown',
    token: null,
    monkey: 'shown',
  });
});

t.test('errors keep type, message and stack; cycles and depth do no harm', async (t) => {
  const cyclic: Fields = {};
  cyclic.self = cyclic;
  const lines = await logged(join(t.testdir(), 'log'), (log) => {
    log.error(new TypeError('broken'));
    log.error({ err: new Error('inner') }, 'outer');
    log.info({ cyclic }, 'cycle');
  });
  t.match(lines[0], { level: 'error', err: { type: 'TypeError', message: 'broken', stack: /log\.test/ } });
  t.match(lines[1], { err: { message: 'inner' }, msg: 'outer' });
  t.match(lines[2], { msg: 'cycle' });
});

t.test('the last lines before an exit are not lost, nor those before a crash', (t) => {
  const dir = t.testdir();
  const module = (name: string) => JSON.stringify(new URL(`../../telemetry/${name}`, import.meta.url).href);
  const run = (name: string, end: string) => {
    const script = join(dir, `${name}.ts`);
    writeFileSync(
      script,
      `import { createLogger } from ${module('log.ts')};
       const log = createLogger('info');
       log.info('first');
       setTimeout(() => { log.error('last'); ${end} }, 50);`,
    );
    return spawnSync(process.execPath, [script], { encoding: 'utf8' });
  };
  const exited = run('exit', 'process.exit(3)');
  t.equal(exited.status, 3);
  // On a busy machine the first may still be on its way when the exit writes the rest: late, and not lost.
  t.match(exited.stderr, /"first"/);
  t.match(exited.stderr, /"last"/);
  t.match(run('crash', "throw new Error('boom')").stderr, /"last"/);
  t.match(run('end', '').stderr, /"first"[\s\S]*"last"/);
  t.match(
    run('fatal', "log.fatal('fatal'); process.kill(process.pid, 'SIGKILL')").stderr,
    /"last"[\s\S]*"fatal"/,
  );
  t.end();
});

t.test('a flood of refusals: a few lines a second for a reason, then how many more', async (t) => {
  const clock = { now: 0 };
  let admitted = 0;
  const lines = await logged(join(t.testdir(), 'log'), (log) => {
    const limit = new RefusalLimit({ log, now: () => clock.now });
    for (let i = 0; i < 10_000; i++) if (limit.admits('policy_denied', '10.0.0.1')) admitted++;
    t.equal(admitted, 5, 'one peer gets half');
    for (let i = 0; i < 10_000; i++)
      if (limit.admits('policy_denied', `10.1.${i >> 8}.${i & 255}`)) admitted++;
    t.equal(admitted, 10, 'all peers together ten');
    t.ok(limit.admits('no_route', '10.0.0.1'), 'another reason has its own count');
    clock.now = 1_000;
    t.ok(limit.admits('policy_denied', '10.0.0.1'), 'the next second begins anew');
    limit.flush();
  });
  t.equal(lines.length, 1);
  t.match(lines[0], { reason: 'policy_denied', suppressed: 19_990, msg: /19990 more/ });
});

t.test('the summary comes by itself, without another refusal', async (t) => {
  const path = join(t.testdir(), 'log');
  const writer = new LineWriter({ path });
  const limit = new RefusalLimit({ log: createLogger('info', writer), now: () => performance.now() });
  for (let i = 0; i < 100; i++) limit.admits('plaintext_to_strict', '10.0.0.9');
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  await writer.close();
  t.match(readFileSync(path, 'utf8'), /"suppressed":95/);
});
