/** `oarlock describe`: what holds for one workload, and why. */
import { Command, InvalidArgumentError } from 'commander';
import type { Description, DescriptionResult } from '../config/describe.ts';
import { addConfigOptions } from '../config/options.ts';
import { UsageError } from '../config/usage-error.ts';
import type { EffectiveMode } from '../mesh/snapshot.ts';
import {
  addOutputOption,
  addWorkloadOptions,
  printJson,
  readQuery,
  reportProblems,
  snapshotInput,
} from './query.ts';
import { columns } from './table.ts';

/** The `describe` command, with `pod NAME` below it. What goes wrong is thrown, for the caller to say. */
export function describeCommand(): Command {
  const command = new Command('describe')
    .description('what holds for one workload, and why: modes, policies, warnings')
    .option('--ports <n,…>', 'workload ports to describe; default: those it declares', portList);
  addOutputOption(addWorkloadOptions(addConfigOptions(command)));
  command.action((parsed: Record<string, unknown>) => run(parsed, null));
  command
    .command('pod <name>')
    .description('the same for the WorkloadEntry or Pod of that name in --namespace')
    .configureHelp({ showGlobalOptions: true })
    .action((name: string, _own: unknown, pod: Command) => run(pod.optsWithGlobals(), name));
  return command;
}

function portList(text: string): readonly number[] {
  return text.split(',').map((part) => {
    const port = Number(part);
    if (/^[0-9]{1,5}$/.test(part) && port >= 1 && port <= 65_535) return port;
    throw new InvalidArgumentError('must be port numbers, as 80,443.');
  });
}

async function run(parsed: Readonly<Record<string, unknown>>, name: string | null): Promise<void> {
  const query = readQuery(parsed);
  const { describeWorkload } = await import('../config/describe.ts');
  const input = await snapshotInput(query);
  const ports = (parsed.ports as readonly number[] | undefined) ?? null;
  const choices = name === null ? [query.workload] : entriesOf(name, query.workload.namespace);
  let result = NOTHING;
  for (const workload of choices) {
    result = describeWorkload({ ...input, workload }, ports);
    if (result.description !== null || result.problems.some(({ severity }) => severity === 'Error')) break;
  }
  const { description, problems } = result;
  if (description === null && !problems.some(({ severity }) => severity === 'Error')) {
    throw new UsageError(`no WorkloadEntry or Pod ${choices.map(entryName).join(' or ')} under --config`);
  }
  reportProblems(problems);
  if (description === null) return;
  if (query.json) printJson(description);
  else process.stdout.write(`${page(description).join('\n')}\n`);
}

const NOTHING: DescriptionResult = { description: null, problems: [] };

/** `NAME` in the namespace of the flag, `NS/NAME`, or `NAME.NS` as istioctl has it. */
function entriesOf(name: string, namespace: string): readonly { readonly entry: string }[] {
  if (name.includes('/')) return [{ entry: name }];
  const dot = name.lastIndexOf('.');
  const own = { entry: `${namespace}/${name}` };
  return dot < 0 ? [own] : [own, { entry: `${name.slice(dot + 1)}/${name.slice(0, dot)}` }];
}

function entryName(choice: object): string {
  return 'entry' in choice ? String(choice.entry) : '';
}

/** For people: a section each, its names in one column. */
function page({
  workload,
  mtls,
  authorization,
  requestAuthentication,
  warnings,
}: Description): readonly string[] {
  const { namespace, name, labels, identity } = workload;
  const labelText = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  const ports = Object.entries(mtls.ports);
  return [
    'Workload',
    ...columns([
      ['name', name === '' ? `any in ${namespace}` : `${namespace}/${name}`],
      ['labels', labelText.join(',') || 'none'],
      ['identity', identity],
    ]),
    'Mutual TLS',
    ...columns([
      ['default', ...modeCells(mtls.default)],
      ...ports.map(([port, mode]) => [port, ...modeCells(mode)]),
    ]),
    'AuthorizationPolicy',
    ...columns(Object.entries(authorization).map(([action, names]) => [action, names.join(', ') || 'none'])),
    'RequestAuthentication',
    ...columns(requestAuthentication.length === 0 ? [['none']] : requestAuthentication.map((one) => [one])),
    'Warnings',
    ...columns(warnings.length === 0 ? [['none']] : warnings.map((one) => [one])),
  ];
}

function modeCells({ mode, source }: EffectiveMode): readonly string[] {
  return [mode, source === null ? 'nobody says otherwise' : `PeerAuthentication ${source}`];
}
