/** `npm run bench`: reads what to measure, measures it, and tells the figures. */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Figures } from './figures.ts';
import { GROUPS, KEYS } from './handshake-rows.ts';
import { type BenchOptions, type HandshakeOptions, MEASUREMENTS, type Measurement } from './options.ts';

const USAGE = `npm run bench -- [pairs|handshakes|startup|memory|decide|micro|profile] [options]
  --rows LIST          rows of pairs (default all, bench/README.md has them; what is not on the machine is left out);
                       profile takes the first, oarlock; handshakes those of oarlock, pipe, nginx, haproxy, envoy
  --measure LIST       of ${MEASUREMENTS.join(', ')} (default all)
  --seconds N          measured time of each load (default 1; twice that at the fixed rate)
  --connections LIST   keep-alive connections, one load each (default 1,32,256; profile takes the first, 32)
  --rate N             requests a second of the open loop (default 1000)
  --no-access-log      without access logs, ours too
  --keys LIST          of handshakes: p256,rsa2048 (both by default)
  --groups LIST        of handshakes: hybrid,x25519,p256 (default the first two)
  --rounds N           how often everything is measured (default 3)
  --json FILE          the figures as JSON too
`;

class UsageError extends Error {}

function positive(text: string, name: string): number {
  const value = Number(text);
  if (/^[0-9]+(\.[0-9]+)?$/.test(text) && value > 0 && value <= 100_000) return value;
  throw new UsageError(`--${name} must be a number above 0`);
}

function measurements(list: string): readonly Measurement[] {
  return list.split(',').map((name) => {
    const found = MEASUREMENTS.find((one) => one === name);
    if (found === undefined) throw new UsageError(`--measure has no ${name}`);
    return found;
  });
}

function namesIn<T extends string>(
  list: string,
  all: Readonly<Record<T, string>>,
  flag: string,
): readonly T[] {
  return list.split(',').map((name) => {
    if (Object.hasOwn(all, name)) return name as T;
    throw new UsageError(`--${flag} has no ${name}; it has ${Object.keys(all).join(', ')}`);
  });
}

function read(): {
  readonly which: string;
  readonly json: string | undefined;
  readonly options: BenchOptions & HandshakeOptions;
} {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rows: { type: 'string' },
      seconds: { type: 'string', default: '1' },
      rate: { type: 'string', default: '1000' },
      'no-access-log': { type: 'boolean', default: false },
      connections: { type: 'string' },
      measure: { type: 'string' },
      keys: { type: 'string', default: 'p256,rsa2048' },
      groups: { type: 'string', default: 'hybrid,x25519' },
      rounds: { type: 'string', default: '3' },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const [which = 'pairs', ...others] = positionals;
  if (others.length > 0) throw new UsageError('one thing at a time');
  const connections = values.connections ?? (which === 'profile' ? '32' : '1,32,256');
  return {
    which: values.help ? 'help' : which,
    json: values.json,
    options: {
      seconds: positive(values.seconds, 'seconds'),
      connections: connections.split(',').map((text) => Math.round(positive(text, 'connections'))),
      rounds: Math.round(positive(values.rounds, 'rounds')),
      rows: values.rows?.split(',') ?? null,
      measurements: values.measure === undefined ? null : measurements(values.measure),
      rate: positive(values.rate, 'rate'),
      accessLog: !values['no-access-log'],
      keys: namesIn(values.keys, KEYS, 'keys'),
      groups: namesIn(values.groups, GROUPS, 'groups'),
    },
  };
}

async function main(): Promise<void> {
  const { which, json, options } = read();
  const figures = new Figures();
  // Each loads what it measures: the others' code would only warm the wrong paths.
  if (which === 'pairs') await (await import('./pairs.ts')).benchPairs(options, figures);
  else if (which === 'handshakes') {
    await (await import('./handshake-bench.ts')).benchHandshakes(options, figures);
  } else if (which === 'decide') {
    (await import('./decide.ts')).benchDecide(options, figures);
    (await import('./authz-check.ts')).benchAuthzCheck(options, figures);
  } else if (which === 'startup') await (await import('./startup.ts')).benchStartup(options, figures);
  else if (which === 'memory') await (await import('./memory.ts')).benchMemory(options, figures);
  else if (which === 'micro') await (await import('./micro.ts')).benchMicro(options, figures);
  else if (which === 'profile') return (await import('./profile.ts')).benchProfile(options);
  else if (which === 'help') return void process.stdout.write(USAGE);
  else throw new UsageError(`there is no bench ${JSON.stringify(which)}`);
  process.stdout.write(figures.toString());
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(figures, null, 2)}\n`);
}

try {
  await main();
  process.exit();
} catch (error) {
  const { message } = error as Error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const usage = error instanceof UsageError || code.startsWith('ERR_PARSE_ARGS');
  process.stderr.write(`bench: ${message}\n${usage ? USAGE : ''}`);
  process.exit(usage ? 2 : 1);
}
