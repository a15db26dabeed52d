/** The flags of `oarlock run`: one table of names, environment names and meanings; the only reader of the environment. */
import { isIP } from 'node:net';
import { availableParallelism } from 'node:os';
import { Command, InvalidArgumentError, Option } from 'commander';
import { parseDuration } from '../mesh/duration.ts';
import { type LimitName, type LimitRow, type Limits, limitsWith, limitTable } from '../mesh/limits.ts';
import { ports } from '../mesh/ports.ts';
import { type AppProbes, readAppProbes } from '../probes/table.ts';
import { addCredentialOptions, type CredentialOptions, readCredentialOptions } from './credential-options.ts';
import { readLabelsFile } from './labels-file.ts';
import { UsageError } from './usage-error.ts';

/** How the daemon knows which workload it stands beside. */
export type WorkloadName =
  | { readonly kind: 'entry'; readonly namespace: string; readonly name: string }
  | {
      readonly kind: 'pod';
      readonly namespace: string;
      readonly name: string;
      readonly labels: ReadonlyMap<string, string>;
      readonly serviceAccount: string;
      /** The pod's own, its first one first. */
      readonly addresses: readonly string[];
      /** Name → number of its containers' ports. */
      readonly ports: ReadonlyMap<string, number>;
    };

/** Everything `oarlock run` was told, checked; handed down frozen. */
export interface RunOptions {
  readonly config: readonly string[];
  readonly workload: WorkloadName;
  /** Null: mesh config or the default decides. */
  readonly rootNamespace: string | null;
  readonly trustDomain: string | null;
  readonly trustDomainAliases: readonly string[] | null;
  readonly credentials: CredentialOptions;
  /** Revocation lists in PEM; null: none. */
  readonly crlFile: string | null;
  readonly intercept: 'none' | 'redirect';
  /** Ports of capture; null: off, as they are without it. */
  readonly outboundPort: number | null;
  readonly inboundPort: number | null;
  /** Run as uid 0 though the rules of capture exempt another. */
  readonly allowRoot: boolean;
  /** Stop once the app's processes are gone: those of a process group, or all that can be seen beside ours; null: not asked for. */
  readonly exitWithApp: number | 'all' | null;
  /** `''`: all addresses of both families. */
  readonly bind: string;
  /** What the kubelet asks the app through us. */
  readonly appProbes: AppProbes;
  /** Null: off. */
  readonly adminPort: number | null;
  readonly metricsPort: number | null;
  readonly healthPort: number | null;
  readonly hbonePort: number | null;
  /** It was asked for: that it is in use is an error then, whoever does not need it. */
  readonly hboneAsked: boolean;
  readonly limits: Limits;
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error';
  /** A file's path, `stderr`, `stdout` or `off`; null: as mesh config says. */
  readonly accessLog: string | null;
  readonly accessLogEncoding: 'text' | 'json' | null;
  readonly clusterId: string;
  /** Data-path threads, at least 1. */
  readonly concurrency: number;
}

function collect(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), ...value.split(',').filter((part) => part !== '')];
}

function collectPaths(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), value];
}

/** `off` stays a word until all is read: commander takes a parser's null for an empty text. */
function port(value: string): number | 'off' {
  if (value === 'off') return value;
  const number = Number(value);
  if (/^[0-9]{1,5}$/.test(value) && number <= 65_535) return number;
  throw new InvalidArgumentError('must be a port number, 0 or off.');
}

/** A commander parser: ms, above 0. */
export function duration(value: string): number {
  const ms = durationOrZero(value);
  if (ms === 0) throw new InvalidArgumentError('must be a duration above 0.');
  return ms;
}

function durationOrZero(value: string): number {
  const ms = parseDuration(value);
  if (ms === null || ms < 0) throw new InvalidArgumentError('must be a duration such as 10s, 500ms or 1h.');
  return ms;
}

function count(value: string): number {
  const number = Number(value);
  if (/^[0-9]{1,9}$/.test(value) && number > 0) return number;
  throw new InvalidArgumentError('must be a whole number above 0.');
}

function threadCount(value: string): number {
  const number = Number(value);
  if (/^[0-9]{1,3}$/.test(value) && number <= 256) return number;
  throw new InvalidArgumentError('must be a number of threads, or 0.');
}

/** `k=v,k2=v2`, or the JSON object that Istio's ISTIO_METAJSON_LABELS and ISTIO_META_LABELS carry. */
export function labels(
  value: string,
  previous: ReadonlyMap<string, string> | undefined,
): ReadonlyMap<string, string> {
  // Given twice, both hold: to forget one could mean to overlook the policy it selects.
  const map = new Map(previous);
  if (value.startsWith('{')) {
    try {
      const entries = Object.entries(JSON.parse(value) as Record<string, unknown>);
      for (const [key, text] of entries) map.set(key, String(text));
      return map;
    } catch {
      throw new InvalidArgumentError('must be k=v,k2=v2 or a JSON object.');
    }
  }
  for (const pair of value.split(',').filter((part) => part !== '')) {
    const at = pair.indexOf('=');
    if (at < 1) throw new InvalidArgumentError('must be k=v,k2=v2.');
    map.set(pair.slice(0, at).trim(), pair.slice(at + 1).trim());
  }
  return map;
}

function option(flags: string, text: string, env: string): Option {
  return new Option(flags, text).env(env);
}

/** A flag without a value: commander takes any text in its environment name for a yes, `false` too. */
function switchOption(flags: string, text: string, env: string): Option {
  const off = /^(?:|0|false|no)$/i.test(process.env[env] ?? 'unset');
  return off ? new Option(flags, text) : option(flags, text, env);
}

const DEFAULT_INTERCEPT = process.platform === 'linux' ? 'redirect' : 'none';

/** Adds the flags every command that reads resources shares. */
export function addConfigOptions(command: Command): Command {
  return command
    .addOption(
      option(
        '--config <dir|file>',
        'resources: every *.yaml, *.yml, *.json under it (repeatable)',
        'OARLOCK_CONFIG',
      ).argParser(collectPaths),
    )
    .addOption(option('--root-namespace <ns>', 'beats mesh config; default istio-system', 'ROOT_NAMESPACE'))
    .addOption(option('--trust-domain <td>', 'beats mesh config; default cluster.local', 'TRUST_DOMAIN'))
    .addOption(
      option(
        '--trust-domain-alias <td>',
        'also trusted and matched (repeatable)',
        'TRUST_DOMAIN_ALIASES',
      ).argParser(collect),
    );
}

/** The `run` command without its action. */
export function runCommandOptions(): Command {
  const command = new Command('run').description(
    'The daemon: stands beside one workload and carries its traffic over mutual TLS.',
  );
  addConfigOptions(command)
    .addOption(
      option(
        '--workload <ns/name>',
        'the WorkloadEntry or Pod that gives labels, account, address and ports',
        'OARLOCK_WORKLOAD',
      ),
    )
    .addOption(option('--namespace <ns>', 'in a pod: its namespace', 'POD_NAMESPACE').default('default'))
    .addOption(option('--name <name>', 'in a pod: its name', 'POD_NAME').default('unknown'))
    .addOption(option('--labels <k=v,…>', 'in a pod: its labels', 'ISTIO_META_LABELS').argParser(labels))
    .addOption(
      option(
        '--labels-file <file>',
        'in a pod: its labels as Kubernetes writes them; they beat --labels',
        'OARLOCK_LABELS_FILE',
      ),
    )
    .addOption(
      option('--service-account <sa>', 'in a pod: its account', 'SERVICE_ACCOUNT').default('default'),
    )
    .addOption(option('--address <ip,…>', 'in a pod: its addresses', addressEnv()).argParser(addresses))
    .addOption(
      option(
        '--pod-ports <json>',
        "in a pod: its containers' ports, as Istio's injection lists them",
        'ISTIO_META_POD_PORTS',
      ).argParser(podPorts),
    );
  addCredentialOptions(command, spiffeEnv())
    .addOption(
      option(
        '--intercept <how>',
        'redirect: what oarlock iptables redirects here; none: Sidecar listeners only',
        'OARLOCK_INTERCEPT',
      )
        .choices(['redirect', 'none'])
        .default(DEFAULT_INTERCEPT),
    )
    .addOption(
      option(
        '--bind <address>',
        'address of capture, HBONE and ingress listeners that name none',
        'OARLOCK_BIND',
      ).default(''),
    )
    .addOption(portOption('admin', ports.admin))
    .addOption(portOption('metrics', ports.metrics))
    .addOption(portOption('health', ports.health))
    .addOption(portOption('outbound', ports.outbound))
    .addOption(portOption('inbound', ports.inbound))
    .addOption(
      option(
        '--hbone-port <port>',
        `a number, 0 or off (default: ${ports.hbone})`,
        'OARLOCK_HBONE_PORT',
      ).argParser(port),
    )
    .addOption(
      option('--concurrency <n>', 'data-path threads; 0: one per core', 'OARLOCK_CONCURRENCY')
        .argParser(threadCount)
        .default(1),
    )
    .addOption(
      switchOption(
        '--allow-root',
        'accept uid 0 with --intercept redirect: the rules of capture must exempt it then',
        'OARLOCK_ALLOW_ROOT',
      ),
    )
    .addOption(
      option(
        '--exit-with-app [pgid]',
        "stop once the app's processes are gone: a process group's, or without one all that can be seen beside ours",
        'OARLOCK_EXIT_WITH_APP',
      ).argParser(processGroup),
    )
    .addOption(
      option(
        '--app-probers <json>',
        "in a pod: the app's probes, asked for at the metrics port, as injection writes them",
        'ISTIO_KUBE_APP_PROBERS',
      ).argParser(appProbes),
    )
    .addOption(
      option('--log-level <level>', 'of the daemon log on stderr', 'OARLOCK_LOG_LEVEL')
        .choices(['trace', 'debug', 'info', 'warn', 'error'])
        .default('info'),
    )
    .addOption(
      option(
        '--access-log <where>',
        'stderr, stdout, off, or a file (default: as mesh config says, else stderr)',
        'OARLOCK_ACCESS_LOG',
      ),
    )
    .addOption(
      option(
        '--access-log-encoding <encoding>',
        "Istio's text or JSON lines (default: as mesh config says, else json)",
        'OARLOCK_ACCESS_LOG_ENCODING',
      ).choices(['text', 'json']),
    )
    .addOption(
      option('--cluster-id <id>', "this cluster's name, for metrics and the CA", 'ISTIO_META_CLUSTER_ID')
        .argParser(clusterId)
        .default('Kubernetes'),
    );
  for (const name of Object.keys(limitTable) as LimitName[]) {
    const row: LimitRow = limitTable[name];
    const { flag, unit, value, why } = row;
    const shown = unit === 'ms' ? durationText(value) : String(value);
    const limit = option(
      `--${flag} <${unit === 'ms' ? 'duration' : 'n'}>`,
      `${why} (default ${shown})`,
      envOf(flag),
    );
    const read = unit !== 'ms' ? count : row.mayBeZero ? durationOrZero : duration;
    command.addOption(limit.argParser(read));
  }
  return command;
}

/** Istio gives both; the first has those of both families. */
function addressEnv(): string {
  return process.env.INSTANCE_IPS ? 'INSTANCE_IPS' : 'INSTANCE_IP';
}

function addresses(value: string): readonly string[] {
  const given = value.split(',').filter((part) => part !== '');
  for (const address of given) {
    if (isIP(address) === 0) throw new InvalidArgumentError(`${address} is no IP address.`);
  }
  return given;
}

/** Istio's `ISTIO_META_POD_PORTS`: `[{"name":"http","containerPort":8080,"protocol":"TCP"}]`; only named TCP ports tell anything. */
function podPorts(value: string): ReadonlyMap<string, number> {
  const ports = new Map<string, number>();
  let list: unknown;
  try {
    list = JSON.parse(value === '' ? '[]' : value);
  } catch {
    list = null;
  }
  if (!Array.isArray(list)) throw new InvalidArgumentError('must be a JSON list of container ports.');
  for (const item of list) {
    const { name, containerPort, protocol = 'TCP' } = (item ?? {}) as Record<string, unknown>;
    if (typeof name !== 'string' || name === '' || protocol !== 'TCP') continue;
    if (!Number.isInteger(containerPort))
      throw new InvalidArgumentError(`port ${name} has no containerPort.`);
    if (!ports.has(name)) ports.set(name, containerPort as number);
  }
  return ports;
}

/** The CA is told it in gRPC metadata, which holds printable ASCII alone. */
function clusterId(value: string): string {
  // Empty is as good as not set.
  if (/^[!-~]*$/.test(value)) return value;
  throw new InvalidArgumentError('must be printable ASCII without blanks.');
}

/** Ours, or the one that SPIFFE's Workload Endpoint standard gives to all. */
function spiffeEnv(): string {
  return process.env.OARLOCK_SPIFFE_SOCKET === undefined ? 'SPIFFE_ENDPOINT_SOCKET' : 'OARLOCK_SPIFFE_SOCKET';
}

function portOption(name: string, number: number, text = 'port, 0 for any, or off'): Option {
  return option(`--${name}-port <port>`, text, envOf(`${name}-port`))
    .argParser(port)
    .default(number);
}

/** 3600000 → `1h`: as one would give it. */
function durationText(ms: number): string {
  if (ms > 0 && ms % 3_600_000 === 0) return `${ms / 3_600_000}h`;
  return ms % 1_000 === 0 ? `${ms / 1_000}s` : `${ms}ms`;
}

function envOf(flag: string): string {
  return `OARLOCK_${flag.toUpperCase().replaceAll('-', '_')}`;
}

/**
 * Checks parsed flags as a whole.
 * @throws UsageError with one line that says what to give
 */
export function readRunOptions(parsed: Record<string, unknown>): RunOptions {
  const text = (name: string): string | null => {
    const value = parsed[name];
    return typeof value === 'string' && value !== '' ? value : null;
  };
  const list = (name: string): readonly string[] | null => {
    const value = parsed[name];
    return Array.isArray(value) && value.length > 0 ? (value as readonly string[]) : null;
  };
  const config = list('config');
  if (config === null) throw new UsageError('--config is needed: a folder or file of resources');
  const intercept = parsed.intercept === 'redirect' ? 'redirect' : 'none';
  const allowRoot = parsed.allowRoot === true;
  if (intercept === 'redirect') checkRedirect(allowRoot);
  const overrides: Partial<Record<LimitName, number>> = {};
  for (const name of Object.keys(limitTable) as LimitName[]) {
    const value = parsed[camel(limitTable[name].flag)];
    if (typeof value === 'number') overrides[name] = value;
  }
  return Object.freeze({
    config,
    workload: workloadName(text('workload'), parsed),
    rootNamespace: text('rootNamespace'),
    trustDomain: text('trustDomain'),
    trustDomainAliases: list('trustDomainAlias'),
    credentials: readCredentialOptions(parsed),
    crlFile: text('crl'),
    intercept,
    outboundPort: intercept === 'redirect' ? portOf(parsed.outboundPort) : null,
    inboundPort: intercept === 'redirect' ? portOf(parsed.inboundPort) : null,
    allowRoot,
    exitWithApp: exitWithApp(parsed.exitWithApp),
    bind: text('bind') ?? '',
    appProbes: (parsed.appProbers as AppProbes | undefined) ?? new Map(),
    adminPort: portOf(parsed.adminPort),
    metricsPort: portOf(parsed.metricsPort),
    healthPort: portOf(parsed.healthPort),
    hbonePort: parsed.hbonePort === undefined ? ports.hbone : portOf(parsed.hbonePort),
    hboneAsked: parsed.hbonePort !== undefined,
    limits: limitsWith(overrides),
    logLevel: parsed.logLevel as RunOptions['logLevel'],
    accessLog: text('accessLog'),
    accessLogEncoding: (text('accessLogEncoding') as RunOptions['accessLogEncoding']) ?? null,
    clusterId: text('clusterId') ?? 'Kubernetes',
    concurrency: threads(parsed.concurrency as number),
  });
}

/** Capture is Linux's, and its rules exempt the sidecar's own uid: root's traffic must not be that. */
function checkRedirect(allowRoot: boolean): void {
  if (process.platform !== 'linux') throw new UsageError('--intercept redirect needs Linux');
  if (process.getuid?.() === 0 && !allowRoot) {
    throw new UsageError(
      'as uid 0 with --intercept redirect every process of root would go past the sidecar: run it as uid 1337 ' +
        '(which oarlock iptables exempts), or give --allow-root, or --intercept none for Sidecar listeners alone',
    );
  }
}

function appProbes(value: string): AppProbes {
  try {
    return readAppProbes(value);
  } catch (error) {
    throw new InvalidArgumentError(`${(error as Error).message}.`);
  }
}

function processGroup(value: string): number | 'all' | 'off' {
  if (/^(?:true|all)$/i.test(value)) return 'all';
  if (/^(?:|0|false|no)$/i.test(value)) return 'off';
  const id = Number(value);
  if (/^[0-9]{1,9}$/.test(value) && id > 1) return id;
  throw new InvalidArgumentError('must be the id of a process group, or nothing.');
}

function exitWithApp(parsed: unknown): number | 'all' | null {
  if (parsed === true) return 'all';
  return typeof parsed === 'number' || parsed === 'all' ? parsed : null;
}

function portOf(parsed: unknown): number | null {
  return typeof parsed === 'number' ? parsed : null;
}

/** 0 means one a core. The kernel's spreading of connections over threads is Linux's. */
function threads(asked: number): number {
  const count = asked === 0 ? availableParallelism() : asked;
  if (count > 1 && process.platform !== 'linux') throw new UsageError('--concurrency above 1 needs Linux');
  return count;
}

function camel(flag: string): string {
  return flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function workloadName(entry: string | null, parsed: Record<string, unknown>): WorkloadName {
  if (entry !== null) {
    const parts = entry.split('/');
    const [namespace, name] = parts;
    if (parts.length !== 2 || !namespace || !name) throw new UsageError('--workload must be NAMESPACE/NAME');
    return { kind: 'entry', namespace, name };
  }
  return {
    kind: 'pod',
    namespace: String(parsed.namespace),
    name: String(parsed.name),
    labels: new Map([
      ...((parsed.labels as ReadonlyMap<string, string> | undefined) ?? []),
      // As the pod has them now: injection saw its template alone.
      ...(typeof parsed.labelsFile === 'string' ? readLabelsFile(parsed.labelsFile) : []),
    ]),
    serviceAccount: String(parsed.serviceAccount),
    addresses: (parsed.address as readonly string[] | undefined) ?? [],
    ports: (parsed.podPorts as ReadonlyMap<string, number> | undefined) ?? new Map(),
  };
}
