/** `npm run bench`: reads what to measure, measures it, and tells the figures. */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Figures } from './figures.ts';
import { type BenchOptions, MEASUREMENTS, type Measurement } from './options.ts';

const USAGE = `npm run bench -- [pairs|decide|micro|profile] [options]
  --rows LIST          rows of pairs (default all, bench/README.md has them; what is not on the machine is left out);
                       profile takes the first, oarlock
  --measure LIST       of ${MEASUREMENTS.join(', ')} (default all)
  --seconds N          measured time of each load (default 1; twice that at the fixed rate)
  --connections LIST   keep-alive connections, one load each (default 1,32,256; profile takes the first, 32)
  --rate N             requests a second of the open loop (default 1000)
  --no-access-log      without access logs, ours too
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

function read(): {
  readonly which: string;
  readonly json: string | undefined;
  readonly options: BenchOptions;
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
    },
  };
}

async function main(): Promise<void> {
  const { which, json, options } = read();
  const figures = new Figures();
  // Each loads what it measures: the others' code would only warm the wrong paths.
  if (which === 'pairs') await (await import('./pairs.ts')).benchPairs(options, figures);
  else if (which === 'decide') {
    (await import('./decide.ts')).benchDecide(options, figures);
    (await import('./authz-check.ts')).benchAuthzCheck(options, figures);
  } else if (which === 'micro') await (await import('./micro.ts')).benchMicro(options, figures);
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
