/** The flags of `oarlock iptables` that say what is captured. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { UsageError } from '../config/usage-error.ts';
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

/** Adds them, and Istio's annotation names as further ones. */
export function addCaptureFlags(command: Command): Command {
  for (const { flag, value, text, read, annotation } of captureFlags) {
    command.addOption(new Option(`${flag} ${value}`, text).env(envOf(flag)).argParser(argument(read)));
    if (annotation === undefined) continue;
    command.addOption(new Option(`--${annotation} ${value}`).argParser(argument(read)).hideHelp());
  }
  return command;
}

/** What was parsed, with the defaults for all else. @throws UsageError where two flags cannot both be */
export function captureOptions(parsed: Readonly<Record<string, unknown>>): CaptureOptions {
  const given: Partial<Record<keyof CaptureOptions, unknown>> = {};
  for (const { flag, annotation, field } of captureFlags) {
    const value = (annotation === undefined ? undefined : parsed[annotation]) ?? parsed[attributeOf(flag)];
    if (value !== undefined) given[field] = value;
  }
  const options = { ...defaultCapture, ...given } as CaptureOptions;
  const { outboundPort, inboundPort, hbonePort } = options;
  if (new Set([outboundPort, inboundPort, hbonePort]).size < 3) {
    throw new UsageError(
      `--outbound-port ${outboundPort}, --inbound-port ${inboundPort} and --hbone-port ${hbonePort} must be three ports: one is told from another by the port it comes to`,
    );
  }
  // As in Istio: whoever names users names their groups.
  return given.gids === undefined ? { ...options, gids: options.uids } : options;
}

function attributeOf(flag: string): string {
  return new Option(`${flag} <value>`).attributeName();
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
