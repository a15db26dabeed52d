/**
 * The rules of capture, as Istio's init container sets them (tools/istio-iptables, run.go): what goes where, told apart
 * from how a tool of the kernel writes it.
 */
import { appSource } from '../mesh/app-source.ts';
import { uncapturedInbound } from '../mesh/ports.ts';
import { type Block, type CaptureOptions, type Family, outboundExempt } from './options.ts';

/** Istio's chains of the nat table, and the kernel's two that lead to them. */
export const chains = {
  prerouting: 'PREROUTING',
  output: 'OUTPUT',
  inbound: 'ISTIO_INBOUND',
  inboundRedirect: 'ISTIO_IN_REDIRECT',
  outbound: 'ISTIO_OUTPUT',
  outboundRedirect: 'ISTIO_REDIRECT',
} as const;
export type Chain = (typeof chains)[keyof typeof chains];

/** Ours alone. */
export const ownChains: readonly Chain[] = [
  chains.inbound,
  chains.outboundRedirect,
  chains.inboundRedirect,
  chains.outbound,
];

/** What a packet must be, all at once, and where it goes then. */
export interface Rule {
  readonly chain: Chain;
  /** Before the rules of others, not behind them. */
  readonly first?: true;
  /** Of this family alone; without it, of both. */
  readonly family?: Family;
  readonly inInterface?: string;
  readonly outInterface?: string;
  readonly protocol?: 'tcp' | 'udp';
  readonly from?: Block;
  readonly to?: Block;
  readonly notTo?: Block;
  readonly port?: number;
  readonly notPort?: number;
  readonly uid?: number;
  readonly notUid?: number;
  readonly gid?: number;
  readonly notGid?: number;
  /** Back to the chain before, on to another, or to this port of ours. */
  readonly target: 'RETURN' | Chain | number;
}

/** The source of connections to the app: no rule sends them round again. */
const fromSidecar: readonly Block[] = [
  { family: 4, address: appSource[4], bits: 32 },
  { family: 6, address: appSource[6], bits: 128 },
];
const loopback: readonly Block[] = [
  { family: 4, address: '127.0.0.1', bits: 32 },
  { family: 6, address: '::1', bits: 128 },
];

/** All rules in their order, both families' together. Those of one family are those without another's `family`. */
export function captureRules(options: CaptureOptions): readonly Rule[] {
  return [
    ...prerouting(options),
    ...output(options),
    ...inbound(options),
    ...redirects(options),
    ...outbound(options),
  ];
}

/** The rules that hold for a family. */
export function rulesOf(rules: readonly Rule[], family: Family): readonly Rule[] {
  return rules.filter((rule) => rule.family === undefined || rule.family === family);
}

function prerouting(options: CaptureOptions): readonly Rule[] {
  const chain = chains.prerouting;
  // Istio inserts one after the other at the head, so the last one given comes first.
  const interfaces = options.kubevirtInterfaces.toReversed();
  const { includeOutboundBlocks: blocks } = options;
  const captured: Rule[] = [];
  for (const block of blocks === '*' ? [undefined] : blocks.toReversed()) {
    for (const inInterface of interfaces) {
      captured.push({ chain, first: true, ...to(block), inInterface, target: chains.outboundRedirect });
    }
  }
  return [
    ...captured,
    ...interfaces.map((inInterface): Rule => ({ chain, first: true, inInterface, target: 'RETURN' })),
    ...options.excludeInterfaces.map((inInterface): Rule => ({ chain, inInterface, target: 'RETURN' })),
    ...(options.includeInboundPorts.length === 0
      ? []
      : [{ chain, protocol: 'tcp', target: chains.inbound } satisfies Rule]),
  ];
}

function output(options: CaptureOptions): readonly Rule[] {
  const chain = chains.output;
  return [
    ...options.excludeInterfaces.map((outInterface): Rule => ({ chain, outInterface, target: 'RETURN' })),
    { chain, target: chains.outbound },
  ];
}

function inbound(options: CaptureOptions): readonly Rule[] {
  const chain = chains.inbound;
  const { includeInboundPorts: included, hbonePort } = options;
  const tcp = (port: number, target: Rule['target']): Rule => ({ chain, protocol: 'tcp', port, target });
  if (included !== '*') {
    return [tcp(hbonePort, 'RETURN'), ...included.map((port) => tcp(port, chains.inboundRedirect))];
  }
  const exempt = new Set([hbonePort, ...uncapturedInbound, ...options.excludeInboundPorts]);
  return [
    ...[...exempt].map((port) => tcp(port, 'RETURN')),
    { chain, protocol: 'tcp', target: chains.inboundRedirect },
  ];
}

function redirects({ outboundPort, inboundPort }: CaptureOptions): readonly Rule[] {
  return [
    { chain: chains.outboundRedirect, protocol: 'tcp', target: outboundPort },
    { chain: chains.inboundRedirect, protocol: 'tcp', target: inboundPort },
  ];
}

function outbound(options: CaptureOptions): readonly Rule[] {
  const chain = chains.outbound;
  const exempt = outboundExempt.filter((port) => !options.includeOutboundPorts.includes(port));
  const excluded = [...new Set([...exempt, ...options.excludeOutboundPorts])];
  const { includeOutboundBlocks: included } = options;
  return [
    ...excluded.flatMap((port): Rule[] => [
      { chain, protocol: 'tcp', port, target: 'RETURN' },
      { chain, protocol: 'udp', port, target: 'RETURN' },
    ]),
    ...fromSidecar.map(
      (from): Rule => ({ chain, family: from.family, from, outInterface: 'lo', target: 'RETURN' }),
    ),
    ...options.uids.flatMap((uid) => ownerRules(options, { uid }, { notUid: uid })),
    ...options.gids.flatMap((gid) => ownerRules(options, { gid }, { notGid: gid })),
    ...loopback.map((block): Rule => ({ chain, ...to(block), target: 'RETURN' })),
    ...options.excludeOutboundBlocks.map((block): Rule => ({ chain, ...to(block), target: 'RETURN' })),
    ...options.includeOutboundPorts.map(
      (port): Rule => ({ chain, protocol: 'tcp', port, target: chains.outboundRedirect }),
    ),
    ...(included === '*' ? [undefined] : included).map(
      (block): Rule => ({ chain, ...to(block), target: chains.outboundRedirect }),
    ),
  ];
}

/** What is the sidecar's own (`us`), and what on the loopback interface is not (`others`). */
function ownerRules(
  { hbonePort, includeOutboundBlocks: included }: CaptureOptions,
  us: Pick<Rule, 'uid' | 'gid'>,
  others: Pick<Rule, 'notUid' | 'notGid'>,
): readonly Rule[] {
  const chain = chains.outbound;
  const asked = included !== '*' && included.some(isLoopback);
  return [
    // An app that calls its own service: the sidecar dials this very pod, which is inbound for it.
    ...loopback.map(
      (block): Rule => ({
        chain,
        family: block.family,
        outInterface: 'lo',
        notTo: block,
        protocol: 'tcp',
        notPort: hbonePort,
        ...us,
        target: chains.inboundRedirect,
      }),
    ),
    // An app that calls itself by its own address stays by itself, unless loopback is asked for.
    ...(asked ? [] : [{ chain, outInterface: 'lo', ...others, target: 'RETURN' } satisfies Rule]),
    { chain, ...us, target: 'RETURN' },
  ];
}

function isLoopback({ family, address }: Block): boolean {
  return family === 4 ? address.startsWith('127.') : address === '::1';
}

function to(block: Block | undefined): Pick<Rule, 'to' | 'family'> {
  return block === undefined ? {} : { to: block, family: block.family };
}
