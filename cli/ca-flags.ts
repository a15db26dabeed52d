/** What the commands of `oarlock ca` share: flags, their checks, and how they answer. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type HostPort, parseHostPort } from '../ca-client/address.ts';
import type { Rate } from '../ca-client/ca-rates.ts';
import { parseDuration } from '../mesh/duration.ts';
import { parseIdentity } from '../mesh/identity.ts';

/** Exit status of an answer that is no (CLI.md). */
export const NEGATIVE = 1;
/** Nothing shorter makes sense: certificates and tokens count whole seconds. */
const SHORTEST_TTL_MS = 1_000;

export interface OutputOption {
  readonly output?: 'json';
}

/** Adds `-o json`. */
export function withOutput(command: Command): Command {
  return command.addOption(
    new Option('-o, --output <format>', 'json: for machines, nothing else on stdout').choices(['json']),
  );
}

/** One JSON value, or lines for people. */
export function answer({ output }: OutputOption, value: unknown, lines: readonly string[]): void {
  process.stdout.write(`${output === 'json' ? JSON.stringify(value) : lines.join('\n')}\n`);
}

export function listenAddress(text: string): HostPort {
  const address = parseHostPort(text);
  if (address === null)
    throw new InvalidArgumentError('It must be HOST:PORT, as 127.0.0.1:15012 or [::1]:0.');
  return address;
}

export function trustDomain(text: string): string {
  if (parseIdentity(`spiffe://${text}/x`)?.trustDomain === text) return text;
  throw new InvalidArgumentError('It must be lower-case letters, digits, dots, dashes and underscores.');
}

export function ttl(text: string): number {
  const ms = parseDuration(text);
  if (ms === null || ms < SHORTEST_TTL_MS) {
    throw new InvalidArgumentError('It must be a duration of at least 1s, as 24h, 90m or 30s.');
  }
  return ms;
}

/** `10/1s`: a count, and in how long. */
export function rate(text: string): Rate {
  const [, count, period = ''] = /^(\d{1,6})\/(.+)$/.exec(text) ?? [];
  const periodMs = parseDuration(period);
  if (Number(count) >= 1 && periodMs !== null && periodMs > 0) return { count: Number(count), periodMs };
  throw new InvalidArgumentError('It must be a count and a duration, as 10/1s or 60/1m.');
}

/** Resolves at the first SIGINT or SIGTERM; a second one ends the process as if we did not listen. */
export function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    const stop = () => {
      process.off('SIGINT', stop).off('SIGTERM', stop);
      resolve();
    };
    process.on('SIGINT', stop).on('SIGTERM', stop);
  });
}
