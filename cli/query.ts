/** What the commands that only read share: their flags, the resource set under `--config`, and how they answer. */
import { type Command, Option } from 'commander';
import { labels } from '../config/options.ts';
import type { SnapshotInput } from '../config/snapshot.ts';
import { UsageError } from '../config/usage-error.ts';
import { type Problem, problemLine } from '../mesh/resource.ts';
import type { Snapshot } from '../mesh/snapshot.ts';

/** The flags of a command that reads, checked. */
export interface Query {
  readonly config: readonly string[];
  readonly overrides: SnapshotInput['overrides'];
  /** The workload asked about; it need not stand in any file. */
  readonly workload: {
    readonly namespace: string;
    readonly name: string;
    readonly labels: ReadonlyMap<string, string>;
    readonly serviceAccount: string;
  };
  /** `-o json`: one JSON value on stdout and nothing else there. */
  readonly json: boolean;
}

/** Adds `--namespace`, `--labels` and `--service-account`: the workload a command is asked about. */
export function addWorkloadOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--namespace <ns>', "the workload's namespace").env('POD_NAMESPACE').default('default'),
    )
    .addOption(
      new Option('--labels <k=v,…>', "the workload's labels").env('ISTIO_META_LABELS').argParser(labels),
    )
    .addOption(
      new Option('--service-account <sa>', "the workload's account")
        .env('SERVICE_ACCOUNT')
        .default('default'),
    );
}

/** Adds `-o json`. */
export function addOutputOption(command: Command): Command {
  return command.addOption(
    new Option('-o, --output <format>', 'json: for machines, nothing else on stdout').choices(['json']),
  );
}

/**
 * Reads what `addConfigOptions`, `addWorkloadOptions` and `addOutputOption` parsed.
 * @throws UsageError with one line that says what to give
 */
export function readQuery(parsed: Readonly<Record<string, unknown>>): Query {
  const config = listOf(parsed.config) ?? [];
  if (config.length === 0) throw new UsageError('--config is needed: a folder or file of resources');
  const namespace = textOf(parsed.namespace) ?? 'default';
  const serviceAccount = textOf(parsed.serviceAccount) ?? 'default';
  return {
    config,
    overrides: {
      rootNamespace: textOf(parsed.rootNamespace),
      trustDomain: textOf(parsed.trustDomain),
      trustDomainAliases: listOf(parsed.trustDomainAlias),
    },
    workload: {
      namespace,
      name: '',
      labels: (parsed.labels as ReadonlyMap<string, string> | undefined) ?? new Map(),
      serviceAccount,
    },
    json: parsed.output === 'json',
  };
}

/** What a snapshot of this query's workload is compiled from. Never rejects: its problems tell. */
export async function snapshotInput(query: Query): Promise<SnapshotInput> {
  // Readers of YAML are loaded by the commands that need them alone.
  const { readFolders } = await import('../config/folder.ts');
  const { workload, overrides } = query;
  return { ...readFolders(query.config), workload, overrides, intercept: 'none', generation: 1 };
}

/**
 * The set under `--config` as the sidecar of this query's workload sees it; Warnings go to stderr.
 * @throws UsageError where `run` would refuse the set
 */
export async function compileQuery(query: Query): Promise<Snapshot> {
  const { compileSnapshot } = await import('../config/snapshot.ts');
  const { snapshot, problems } = compileSnapshot(await snapshotInput(query));
  reportProblems(problems);
  if (snapshot === null) throw new Error('a valid set of a workload given by flags is always compiled');
  return snapshot;
}

/**
 * Writes Warnings to stderr, one a line.
 * @throws UsageError of one line that names the first Error, as `run` refuses such a set
 */
export function reportProblems(problems: readonly Problem[]): void {
  const errors = problems.filter(({ severity }) => severity === 'Error').map(problemLine);
  const [first, ...more] = errors;
  if (first !== undefined) {
    // One line: `analyze` is for all of them.
    throw new UsageError(
      more.length === 0 ? first : `${first}; and ${more.length} more: see oarlock analyze`,
    );
  }
  for (const problem of problems) {
    if (problem.severity === 'Warning') process.stderr.write(`warning: ${problemLine(problem)}\n`);
  }
}

/** Writes one JSON value and a line's end to stdout. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** For long answers: a reader that has had enough, such as `head`, ends us quietly. */
export function leaveWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit();
    process.stderr.write(`oarlock: the answers cannot be written: ${error.message}\n`);
    process.exit(2);
  });
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function listOf(value: unknown): readonly string[] | undefined {
  return Array.isArray(value) && value.length > 0 ? (value as readonly string[]) : undefined;
}
