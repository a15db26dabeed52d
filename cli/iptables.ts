/** `oarlock iptables`: sets, checks and removes the rules that redirect a workload's connections to its sidecar. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { UsageError } from '../config/usage-error.ts';
import { NEEDS_NET_ADMIN } from '../intercept/explain.ts';
import {
  bringAbout,
  emptyPlace,
  findings,
  findPlace,
  type Ipv6,
  ipv6Choices,
  stepsTo,
  takenBefore,
} from '../intercept/intercept.ts';
import { type Backend, backends, type Finding } from '../intercept/store.ts';
import { hasCapability, InterceptError, type Step } from '../intercept/tools.ts';
import { parseDuration } from '../mesh/duration.ts';
import { findingLine } from './iptables-findings.ts';
import { addCaptureFlags, captureOptions } from './iptables-flags.ts';
import { hold, someOf } from './iptables-hold.ts';
import { addOutputOption, printJson } from './query.ts';

/** Exit status of an answer that is no (CLI.md). */
const NEGATIVE = 1;

/** The `iptables` command. What goes wrong is thrown, for the caller to say. */
export function iptablesCommand(): Command {
  const command = new Command('iptables').description(
    "sets the rules that redirect a workload's connections to its sidecar, in this network namespace",
  );
  addCaptureFlags(command);
  command
    .addOption(
      new Option('--backend <name>', 'what holds the rules (default: what is in use, else installed)')
        .env('OARLOCK_IPTABLES_BACKEND')
        .choices(backends),
    )
    .addOption(
      new Option('--ipv6 <how>', 'auto: where the kernel has it')
        .env('OARLOCK_IPTABLES_IPV6')
        .choices(ipv6Choices)
        .default('auto'),
    )
    .option('--clean', "remove the rules, Istio's too, whatever holds them")
    .option('--check', 'change nothing; say what is missing or foreign, with exit status 1')
    .option('--dry-run', 'change nothing; print what would be fed to the tools')
    .addOption(
      new Option('--hold [interval]', 'stay, look each interval (5s), and set again what was changed')
        .preset('5s')
        .argParser(interval),
    );
  return addOutputOption(command).action((parsed: Record<string, unknown>) => run(parsed));
}

interface Modes {
  readonly clean?: true;
  readonly check?: true;
  readonly dryRun?: true;
  /** Milliseconds. */
  readonly hold?: number;
  readonly output?: 'json';
}

/** A look takes some hundredths of a second of a CPU. */
const SHORTEST_INTERVAL_MS = 1_000;
const LONGEST_INTERVAL_MS = 3_600_000;

function interval(text: string): number {
  const ms = parseDuration(text);
  if (ms !== null && ms >= SHORTEST_INTERVAL_MS && ms <= LONGEST_INTERVAL_MS) return ms;
  throw new InvalidArgumentError('It must be a duration from 1s to 1h, as 5s.');
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const { clean, check, dryRun, output, hold: intervalMs } = parsed as Modes;
  if (intervalMs !== undefined && (clean || check || dryRun))
    throw new UsageError('--hold sets the rules and stays: leave out --clean, --check and --dry-run');
  if (clean && check) throw new UsageError('--clean removes, --check looks: give one of them');
  if (dryRun && check) throw new UsageError('--check changes nothing by itself: leave out --dry-run');
  if (process.platform !== 'linux') throw new UsageError('the rules of capture are a matter of Linux');
  const options = clean ? null : captureOptions(parsed);
  const privileged = hasCapability('NET_ADMIN');
  if (!privileged && !dryRun) throw new InterceptError(NEEDS_NET_ADMIN);
  const backend = (parsed.backend as Backend | undefined) ?? null;
  // What is to be removed is removed of both families, wherever it can be.
  const ipv6 = clean ? 'off' : (parsed.ipv6 as Ipv6);
  const place = (privileged ? findPlace : emptyPlace)(backend, ipv6);
  place.warnings.forEach(warn);
  if (check) {
    const found = findings(options, place);
    if (output === 'json')
      printJson({ backend: place.store.backend, ok: found.length === 0, findings: found });
    else process.stdout.write(`${checkLines(place.store.backend, found).join('\n')}\n`);
    if (found.length > 0) process.exitCode = NEGATIVE;
    return;
  }
  if (dryRun) {
    const steps = stepsTo(options, place);
    if (output === 'json') printJson({ backend: place.store.backend, steps });
    else process.stdout.write(steps.map(shown).join(''));
    if (steps.length === 0) warn('there is nothing to change');
    return;
  }
  const { changed, warnings, place: now } = bringAbout(options, place, ipv6);
  warnings.forEach(warn);
  const before = takenBefore(options, now);
  for (const finding of before) warn(findingLine(finding));
  if (output === 'json') printJson({ backend: place.store.backend, changed });
  else process.stdout.write(`${summary(place.store.backend, changed, clean === true)}\n`);
  if (options !== null && intervalMs !== undefined)
    await hold({ options, backend: place.store.backend, ipv6, intervalMs, told: someOf(before) });
}

function warn(text: string): void {
  process.stderr.write(`oarlock: ${text}\n`);
}

function checkLines(backend: Backend, found: readonly Finding[]): readonly string[] {
  if (found.length === 0) return [`The rules of capture stand (${backend}).`];
  return found.map(findingLine);
}

function shown({ tool, args, input }: Step): string {
  return `# ${[tool, ...args].join(' ')}\n${input}`;
}

function summary(backend: Backend, changed: boolean, clean: boolean): string {
  if (clean) return changed ? 'The rules of capture are removed.' : 'There are no rules of capture.';
  return `The rules of capture ${changed ? 'are set' : 'stood already'} (${backend}).`;
}
