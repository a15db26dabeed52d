/** `oarlock route`: how the outbound side of a workload would reach a host and port, or an address once captured. */
import { isIP } from 'node:net';
import { Command, InvalidArgumentError } from 'commander';
import { addConfigOptions } from '../config/options.ts';
import { UsageError } from '../config/usage-error.ts';
import { type Route, type RouteTls, tunnelAddress } from '../mesh/route.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import { hostPort } from '../mesh/text.ts';
import {
  addOutputOption,
  addWorkloadOptions,
  compileQuery,
  printJson,
  type Query,
  readQuery,
} from './query.ts';
import type { CapturedAnswer } from './route-captured.ts';

/** The answer, as `-o json` prints it. */
interface Answer {
  /** In full, also where a short name was given. */
  readonly host: string;
  readonly port: number;
  readonly tls: Pick<RouteTls, 'mode' | 'auto' | 'sni' | 'expectedIdentities' | 'source'>;
  readonly endpoints: readonly {
    readonly address: string;
    readonly port: number;
    readonly tls: string;
    /** `ADDRESS:PORT` of its HBONE tunnel; null: a connection of its own. */
    readonly tunnel: string | null;
  }[];
  /** The registry knows no such host and port, so the bytes go untouched to where the caller sent them. */
  readonly passthrough: boolean;
  readonly warnings: readonly string[];
}

/** The `route` command. What goes wrong is thrown, for the caller to say. */
export function routeCommand(): Command {
  const command = new Command('route')
    .description('how the outbound side of a workload would reach a host')
    .option('--host <name>', 'the host, in full or as short as DNS in that namespace allows')
    .option(
      '--address <ip>',
      'where a captured connection was going; --host is its Host header or SNI then',
      ipAddress,
    )
    .requiredOption('--port <n>', "the service's port; of --address the connection's", portNumber)
    .option('--subset <name>', "a subset of the host's DestinationRule");
  addOutputOption(addWorkloadOptions(addConfigOptions(command)));
  return command.action((parsed: Record<string, unknown>) => run(parsed));
}

function portNumber(text: string): number {
  const port = Number(text);
  if (/^[0-9]{1,5}$/.test(text) && port >= 1 && port <= 65_535) return port;
  throw new InvalidArgumentError('must be a port number.');
}

function ipAddress(text: string): string {
  if (isIP(text) !== 0) return text;
  throw new InvalidArgumentError('must be an IP address.');
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const query = readQuery(parsed);
  if (typeof parsed.address === 'string') return runCaptured(query, parsed.address, parsed);
  if (typeof parsed.host !== 'string') throw new UsageError('--host is needed, or --address');
  const asked = parsed.host.toLowerCase();
  if (asked === '' || /[\s/:*]/.test(asked)) {
    throw new UsageError(
      `--host must be a host name, without port or wildcard, not ${JSON.stringify(parsed.host)}`,
    );
  }
  const subset = typeof parsed.subset === 'string' ? parsed.subset : undefined;
  const snapshot = await compileQuery(query);
  const answer = answerOf(snapshot, {
    names: namesOf(asked, query.workload.namespace),
    port: Number(parsed.port),
    subset,
  });
  if (query.json) printJson(answer);
  else process.stdout.write(`${table(answer).join('\n')}\n`);
}

async function runCaptured(
  query: Query,
  address: string,
  { port, host, subset }: Readonly<Record<string, unknown>>,
): Promise<void> {
  if (subset !== undefined) throw new UsageError('--subset goes with --host alone, without --address');
  const { capturedAnswer } = await import('./route-captured.ts');
  const asked = typeof host === 'string' ? host : null;
  const answer = capturedAnswer(await compileQuery(query), { address, port: Number(port), asked });
  if (query.json) printJson(captured(answer));
  else process.stdout.write(`${capturedTable(answer).join('\n')}\n`);
}

/** As `-o json` prints it. */
function captured({ route, ...answer }: CapturedAnswer): object {
  const { by, warnings, ...first } = answer;
  const { tls, endpoints } = route === null ? UNREACHED : known('', route);
  return { ...first, by, tls, endpoints, passthrough: by === 'nobody' && route !== null, warnings };
}

function capturedTable({
  address,
  port,
  by,
  host,
  protocol,
  route,
  warnings,
}: CapturedAnswer): readonly string[] {
  const rows: (readonly [string, string])[] = [
    ['address', hostPort(address, port)],
    ['meant by', by],
    ['protocol', protocol],
  ];
  if (host !== null) rows.push(['host', host]);
  if (by === 'nobody' && route !== null)
    rows.push(['passthrough', 'unknown to the registry: bytes go on untouched']);
  else if (route !== null) rows.push(...wayRows(known('', route)));
  for (const warning of warnings) rows.push(['warning', warning]);
  return lines(rows);
}

/** Kubernetes' `ndots:5`: names with fewer dots are also looked for in the search domains. */
const NDOTS = 5;

/**
 * What a name may mean in a pod of `namespace`: itself, then what the search domains of its resolver make of it.
 * One that ends in a dot is complete.
 */
function namesOf(host: string, namespace: string): readonly string[] {
  if (host.endsWith('.')) return [host.slice(0, -1)];
  if (host.split('.').length - 1 >= NDOTS) return [host];
  const domains = [`${namespace}.svc.cluster.local`, 'svc.cluster.local', 'cluster.local'];
  return [host, ...domains.map((domain) => `${host}.${domain}`)];
}

interface Question {
  /** The first one known is meant. */
  readonly names: readonly string[];
  readonly port: number;
  readonly subset: string | undefined;
}

/** @throws UsageError where no DestinationRule in force has the subset */
function answerOf(snapshot: Snapshot, { names, port, subset }: Question): Answer {
  const host = names.find((name) => snapshot.portsOf(name).length > 0) ?? names[0] ?? '';
  const route = snapshot.route(host, port);
  if (route === null) return unknown(snapshot, host, port);
  if (subset === undefined) return known(host, route);
  const narrowed = snapshot.route(host, port, subset);
  if (narrowed === null) {
    throw new UsageError(`--subset ${subset}: the DestinationRules in force for ${host} have no such subset`);
  }
  return known(host, narrowed);
}

function known(host: string, { port, tls, endpoints, warnings }: Route): Answer {
  const { mode, auto, expectedIdentities, source } = tls;
  // A tunnel's TLS names no server: who is meant is in each CONNECT.
  const tunnelled = endpoints.length > 0 && endpoints.every(({ tunnel }) => tunnel !== null);
  return {
    host,
    port,
    tls: { mode, auto, sni: tunnelled ? null : tls.sni, expectedIdentities, source },
    endpoints: endpoints.map((endpoint) => ({
      address: endpoint.address,
      port: endpoint.port,
      tls: endpoint.tls,
      tunnel: tunnelAddress(endpoint),
    })),
    passthrough: false,
    warnings,
  };
}

const UNREACHED: Pick<Answer, 'tls' | 'endpoints'> = {
  tls: { mode: 'DISABLE', auto: true, sni: null, expectedIdentities: [], source: null },
  endpoints: [],
};

/** Neither route nor refusal has endpoints of ours; which of the two, outboundTrafficPolicy says. */
function unknown(snapshot: Snapshot, host: string, port: number): Answer {
  const passthrough = snapshot.mesh.outboundTrafficPolicy === 'ALLOW_ANY';
  const ports = snapshot.portsOf(host);
  const warnings: string[] = [];
  if (ports.length > 0) warnings.push(`${host} has no port ${port}; it has ${ports.join(', ')}`);
  if (!passthrough) {
    warnings.push(
      `${host}:${port} is refused: outboundTrafficPolicy is REGISTRY_ONLY and no service is known there`,
    );
  }
  return {
    host,
    port,
    ...UNREACHED,
    passthrough,
    warnings,
  };
}

function table(answer: Answer): readonly string[] {
  const { host, port, passthrough, warnings } = answer;
  const rows: (readonly [string, string])[] = [['host', `${host}:${port}`]];
  if (passthrough) rows.push(['passthrough', 'unknown to the registry: bytes go on untouched']);
  else rows.push(...wayRows(answer));
  for (const warning of warnings) rows.push(['warning', warning]);
  return lines(rows);
}

/** TLS and endpoints. */
function wayRows({ tls, endpoints }: Answer): (readonly [string, string])[] {
  const rows: (readonly [string, string])[] = [['tls', `${tls.mode} (${tls.source ?? 'auto mTLS'})`]];
  if (tls.sni !== null) rows.push(['sni', tls.sni]);
  for (const identity of tls.expectedIdentities) rows.push(['expects', identity]);
  for (const { address, port, tls: mode, tunnel } of endpoints) {
    const by = tunnel === null ? '' : ` by HBONE on ${tunnel}`;
    const at = address.startsWith('unix:') ? address : hostPort(address, port);
    rows.push(['endpoint', `${at} ${mode}${by}`]);
  }
  return rows;
}

function lines(rows: readonly (readonly [string, string])[]): readonly string[] {
  return rows.map(([name, value]) => `${name.padEnd(12)}${value}`);
}
