/** `oarlock iptables`: sets, checks and removes the rules that redirect a workload's connections to its sidecar. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { UsageError } from '../config/usage-error.ts';
import { NEEDS_NET_ADMIN } from '../intercept/explain.ts';
import {
  carryOut,
  emptyPlace,
  findings,
  findPlace,
  type Ipv6,
  ipv6Choices,
  stepsTo,
} from '../intercept/intercept.ts';
import {
  type CaptureOptions,
  defaultCapture,
  readBlocks,
  readBlocksOrAll,
  readIds,
  readInterfaces,
  readPort,
  readPorts,
  readPortsOrAll,
} from '../intercept/options.ts';
import { type Backend, backends, type Finding } from '../intercept/store.ts';
import { InterceptError, mayChangeRules, type Step } from '../intercept/tools.ts';
import { addOutputOption, printJson } from './query.ts';

/** Exit status of an answer that is no (CLI.md). */
const NEGATIVE = 1;

/** A flag that says what is captured. */
interface CaptureFlag {
  readonly flag: string;
  readonly value: string;
  readonly text: string;
  readonly field: keyof CaptureOptions;
  readonly read: (text: string) => unknown;
  /** Istio's annotation `traffic.sidecar.istio.io/…`, taken as a flag too. */
  readonly annotation?: string;
}

const captureFlags: readonly CaptureFlag[] = [
  {
    flag: '--outbound-port',
    value: '<port>',
    text: 'where outbound connections are sent',
    field: 'outboundPort',
    read: readPort,
  },
  {
    flag: '--inbound-port',
    value: '<port>',
    text: 'where inbound connections are sent',
    field: 'inboundPort',
    read: readPort,
  },
  {
    flag: '--hbone-port',
    value: '<port>',
    text: 'of inbound HBONE, which is not captured',
    field: 'hbonePort',
    read: readPort,
  },
  {
    flag: '--uid',
    value: '<ids>',
    text: "the sidecar's users, whose own connections pass",
    field: 'uids',
    read: readIds,
  },
  {
    flag: '--gid',
    value: '<ids>',
    text: "the sidecar's groups, likewise (default: as --uid)",
    field: 'gids',
    read: readIds,
  },
  {
    flag: '--include-inbound-ports',
    value: '<ports>',
    text: 'captured coming in; *: all but excluded ones',
    field: 'includeInboundPorts',
    read: readPortsOrAll,
    annotation: 'includeInboundPorts',
  },
  {
    flag: '--exclude-inbound-ports',
    value: '<ports>',
    text: 'not captured coming in',
    field: 'excludeInboundPorts',
    read: readPorts,
    annotation: 'excludeInboundPorts',
  },
  {
    flag: '--include-outbound-cidrs',
    value: '<blocks>',
    text: 'captured going out; *: all but excluded ones',
    field: 'includeOutboundBlocks',
    read: readBlocksOrAll,
    annotation: 'includeOutboundIPRanges',
  },
  {
    flag: '--exclude-outbound-cidrs',
    value: '<blocks>',
    text: 'not captured going out',
    field: 'excludeOutboundBlocks',
    read: readBlocks,
    annotation: 'excludeOutboundIPRanges',
  },
  {
    flag: '--include-outbound-ports',
    value: '<ports>',
    text: 'captured going out to any address',
    field: 'includeOutboundPorts',
    read: readPorts,
    annotation: 'includeOutboundPorts',
  },
  {
    flag: '--exclude-outbound-ports',
    value: '<ports>',
    text: 'not captured going out',
    field: 'excludeOutboundPorts',
    read: readPorts,
    annotation: 'excludeOutboundPorts',
  },
  {
    flag: '--exclude-interfaces',
    value: '<names>',
    text: 'nothing is captured there',
    field: 'excludeInterfaces',
    read: readInterfaces,
    annotation: 'excludeInterfaces',
  },
  {
    flag: '--kubevirt-interfaces',
    value: '<names>',
    text: 'of virtual machines: what comes in there is captured as outbound',
    field: 'kubevirtInterfaces',
    read: readInterfaces,
    annotation: 'kubevirtInterfaces',
  },
];

/** The `iptables` command. What goes wrong is thrown, for the caller to say. */
export function iptablesCommand(): Command {
  const command = new Command('iptables').description(
    "sets the rules that redirect a workload's connections to its sidecar, in this network namespace",
  );
  for (const { flag, value, text, read, annotation } of captureFlags) {
    command.addOption(new Option(`${flag} ${value}`, text).env(envOf(flag)).argParser(argument(read)));
    if (annotation === undefined) continue;
    command.addOption(new Option(`--${annotation} ${value}`).argParser(argument(read)).hideHelp());
  }
  command
    .addOption(
      new Option('--backend <name>', 'what holds the rules (default: what is in use, else installed)')
        .env('OARLOCK_BACKEND')
        .choices(backends),
    )
    .addOption(
      new Option('--ipv6 <how>', 'auto: where the kernel has it')
        .env('OARLOCK_IPV6')
        .choices(ipv6Choices)
        .default('auto'),
    )
    .option('--clean', "remove the rules, Istio's too, whatever holds them")
    .option('--check', 'change nothing; say what is missing or foreign, with exit status 1')
    .option('--dry-run', 'change nothing; print what would be fed to the tools');
  return addOutputOption(command).action((parsed: Record<string, unknown>) => run(parsed));
}

function envOf(flag: string): string {
  return `OARLOCK_${flag.slice(2).toUpperCase().replaceAll('-', '_')}`;
}

function argument(read: (text: string) => unknown): (text: string) => unknown {
  return (text) => {
    try {
      return read(text);
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message);
    }
  };
}

interface Modes {
  readonly clean?: true;
  readonly check?: true;
  readonly dryRun?: true;
  readonly output?: 'json';
}

function run(parsed: Readonly<Record<string, unknown>>): void {
  const { clean, check, dryRun, output } = parsed as Modes;
  if (clean && check) throw new UsageError('--clean removes, --check looks: give one of them');
  if (dryRun && check) throw new UsageError('--check changes nothing by itself: leave out --dry-run');
  if (process.platform !== 'linux') throw new UsageError('the rules of capture are a matter of Linux');
  const options = clean ? null : captureOptions(parsed);
  const privileged = mayChangeRules();
  if (!privileged && !dryRun) throw new InterceptError(NEEDS_NET_ADMIN);
  const backend = (parsed.backend as Backend | undefined) ?? null;
  const place = (privileged ? findPlace : emptyPlace)(backend, parsed.ipv6 as Ipv6);
  for (const warning of place.warnings) process.stderr.write(`oarlock: ${warning}\n`);
  const steps = stepsTo(options, place);
  if (check) {
    const found = findings(options, place);
    if (output === 'json')
      printJson({ backend: place.store.backend, ok: found.length === 0, findings: found });
    else process.stdout.write(`${checkLines(place.store.backend, found).join('\n')}\n`);
    if (found.length > 0) process.exitCode = NEGATIVE;
    return;
  }
  if (dryRun) {
    process.stdout.write(steps.map(shown).join(''));
    return;
  }
  carryOut(steps);
  if (output === 'json') printJson({ backend: place.store.backend, changed: steps.length > 0 });
  else process.stdout.write(`${summary(place.store.backend, steps, clean === true)}\n`);
}

function captureOptions(parsed: Readonly<Record<string, unknown>>): CaptureOptions {
  const given: Partial<Record<keyof CaptureOptions, unknown>> = {};
  for (const { flag, annotation, field } of captureFlags) {
    const value = (annotation === undefined ? undefined : parsed[annotation]) ?? parsed[attributeOf(flag)];
    if (value !== undefined) given[field] = value;
  }
  const options = { ...defaultCapture, ...given } as CaptureOptions;
  // As in Istio: whoever names users names their groups.
  return given.gids === undefined ? { ...options, gids: options.uids } : options;
}

function attributeOf(flag: string): string {
  return new Option(`${flag} <value>`).attributeName();
}

function checkLines(backend: Backend, found: readonly Finding[]): readonly string[] {
  if (found.length === 0) return [`The rules of capture stand (${backend}).`];
  return found.map(({ backend, family, table, chain, kind, rule }) => {
    const where = [backend, family === null ? '' : `IPv${family}`, table, chain]
      .filter((word) => word !== '')
      .join(' ');
    return `${where}: ${kind === 'order' ? `out of order, from: ${rule}` : `${kind}: ${rule}`}`;
  });
}

function shown({ tool, args, input }: Step): string {
  return `# ${[tool, ...args].join(' ')}\n${input}`;
}

function summary(backend: Backend, steps: readonly Step[], clean: boolean): string {
  if (clean)
    return steps.length === 0 ? 'There are no rules of capture.' : 'The rules of capture are removed.';
  return steps.length === 0
    ? `The rules of capture stood already (${backend}).`
    : `The rules of capture are set (${backend}).`;
}
