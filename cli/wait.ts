/** `oarlock wait`: ends once the sidecar is ready, so that an app may start behind it. */
import { get } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import { duration } from '../config/options.ts';
import { UsageError } from '../config/usage-error.ts';
import { ports } from '../mesh/ports.ts';

/** Between two questions: what waits for us has nothing better to do, and start-up takes less than a second. */
const ASK_AGAIN_MS = 100;
/** One question: pilot-agent's. */
const ANSWER_MS = 500;
/** Of an answer: a list of what is waited for. */
const MAX_ANSWER = 65_536;

/** The `wait` command: exit status 0 when ready, 1 when not in time, 2 for bad usage. */
export function waitCommand(): Command {
  return new Command('wait')
    .description('Waits until the sidecar is ready: for a postStart hook, an init step or a script.')
    .addOption(
      new Option('--url <url>', 'what to ask (default: /healthz/ready of --health-port on this machine)'),
    )
    .addOption(
      new Option('--health-port <port>', "the sidecar's")
        .env('OARLOCK_HEALTH_PORT')
        .argParser(port)
        .default(ports.health),
    )
    .addOption(
      new Option('--timeout <duration>', 'give up after this time')
        .argParser(duration)
        .default(60_000, '60s'),
    )
    .action(run);
}

interface WaitOptions {
  readonly url?: string;
  readonly healthPort: number;
  readonly timeout: number;
}

async function run({ url, healthPort, timeout }: WaitOptions): Promise<void> {
  const asked = url ?? `http://127.0.0.1:${healthPort}/healthz/ready`;
  if (!URL.canParse(asked) || new URL(asked).protocol !== 'http:')
    throw new UsageError(`--url must be a plain http URL, not ${asked}`);
  const began = performance.now();
  let said = '';
  for (;;) {
    const missing = await whatIsMissing(asked);
    const waited = performance.now() - began;
    if (missing === null) {
      process.stdout.write(`ready after ${(waited / 1000).toFixed(1)} s\n`);
      return;
    }
    // Once each: a minute of the same line helps nobody.
    if (missing !== said) process.stderr.write(`waiting for ${missing}\n`);
    said = missing;
    if (waited >= timeout) {
      process.stderr.write(`oarlock: not ready after ${timeout / 1000} s: still waiting for ${missing}\n`);
      process.exitCode = 1;
      return;
    }
    await pause(Math.min(ASK_AGAIN_MS, timeout - waited));
  }
}

/** @returns for people; null: nothing, it is ready */
function whatIsMissing(url: string): Promise<string | null> {
  return new Promise((resolve) => {
    // Of the whole answer: one that comes in drops is none.
    const late = setTimeout(() => question.destroy(new Error(`no answer in ${ANSWER_MS} ms`)), ANSWER_MS);
    const question = get(url, { agent: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (piece: string) => {
        if (text.length < MAX_ANSWER) text += piece;
      });
      answer.on('error', ({ message }) => resolve(`${url}: ${message}`));
      answer.on('end', () =>
        resolve(answer.statusCode === 200 ? null : waitedFor(text, url, answer.statusCode)),
      );
    });
    question.on('close', () => clearTimeout(late));
    question.on('error', ({ code, message }: NodeJS.ErrnoException) =>
      resolve(`the sidecar to start: ${code ?? message} at ${url}`),
    );
  });
}

/** Ours says what it waits for; anyone else at least a status. */
function waitedFor(text: string, url: string, status: number | undefined): string {
  try {
    const { waitingFor } = JSON.parse(text) as { waitingFor?: unknown };
    if (Array.isArray(waitingFor) && waitingFor.length > 0) return waitingFor.map(String).join(', ');
  } catch {
    // Not ours.
  }
  return `${url}: it answers ${status}`;
}

function port(value: string): number {
  const number = Number(value);
  if (/^[0-9]{1,5}$/.test(value) && number > 0 && number <= 65_535) return number;
  throw new InvalidArgumentError('must be a port number.');
}
