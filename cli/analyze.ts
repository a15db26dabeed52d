/** `oarlock analyze`: validates every resource and the set as a whole. */
import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { addConfigOptions } from '../config/options.ts';
import { UsageError } from '../config/usage-error.ts';
import type { Problem, Severity } from '../mesh/resource.ts';
import { addOutputOption, leaveWithReader, printJson, readQuery } from './query.ts';

/** What was found, as `-o json` prints it. */
interface Message {
  readonly code: string;
  readonly severity: Severity;
  readonly resource: string;
  readonly file: string;
  readonly line: number;
  /** Begins with the field's path, where there is one. */
  readonly message: string;
}

/** Exit status of a set with an Error. */
const NEGATIVE = 1;

/** The `analyze` command. What goes wrong is thrown, for the caller to say. */
export function analyzeCommand(): Command {
  const command = new Command('analyze')
    .description('validate every resource and the set as a whole; exit status 1 where there is an Error')
    .option('--namespace <ns>', 'report on this namespace only; the whole set is looked at all the same');
  addOutputOption(addConfigOptions(command));
  return command.action((parsed: Record<string, unknown>) => run(parsed));
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const { config, overrides, json } = readQuery(parsed);
  // A path that is not there is a slip of the pen: an empty answer would look like a clean bill of health.
  for (const path of config) {
    if (!existsSync(path)) throw new UsageError(`--config ${path}: no such file or folder`);
  }
  const { readFolders } = await import('../config/folder.ts');
  const { analyze } = await import('../config/analyze.ts');
  const set = readFolders(config);
  const namespace = typeof parsed.namespace === 'string' ? parsed.namespace : null;
  const messages = analyze(set, overrides)
    .filter((problem) => namespace === null || concerns(problem, namespace))
    .map(messageOf);
  leaveWithReader();
  if (json) printJson({ messages });
  else
    process.stdout.write(`${[...messages.map(line), summary(messages, set.resources.length)].join('\n')}\n`);
  if (messages.some(({ severity }) => severity === 'Error')) process.exitCode = NEGATIVE;
}

/** What could not be read, and the mesh config, concern every namespace. */
function concerns({ resource }: Problem, namespace: string): boolean {
  const [kind, owner] = resource.split('/');
  return resource === '' || kind === 'MeshConfig' || owner === namespace;
}

function messageOf({ code, severity, resource, file, line, field, message }: Problem): Message {
  return { code, severity, resource, file, line, message: field === '' ? message : `${field}: ${message}` };
}

function line({ severity, code, resource, file, line: at, message }: Message): string {
  const where = `${resource}${resource === '' ? '' : ' '}${file}:${at}`;
  return `${severity} [${code}] (${where}) ${message}`;
}

/** `12 resources: 1 error, 2 warnings, 0 infos` */
function summary(messages: readonly Message[], resources: number): string {
  const count = (severity: Severity): number => messages.filter((one) => one.severity === severity).length;
  const counts = [
    plural(count('Error'), 'error'),
    plural(count('Warning'), 'warning'),
    plural(count('Info'), 'info'),
  ];
  return `${plural(resources, 'resource')}: ${counts.join(', ')}`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
