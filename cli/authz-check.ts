/** `oarlock authz check`: decides requests as the sidecar of a workload would, line by line. */
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { Command } from 'commander';
import { addConfigOptions } from '../config/options.ts';
import { UsageError } from '../config/usage-error.ts';
import { answerLine, type CheckRules } from './authz-answer.ts';
import { LineSplitter } from './line-splitter.ts';
import {
  addOutputOption,
  addWorkloadOptions,
  leaveWithReader,
  type Query,
  readQuery,
  reportProblems,
  snapshotInput,
} from './query.ts';

/** More than the data path takes of a head, as JSON. A longer line is answered by an error. */
const MAX_LINE_BYTES = 1_048_576;
const READ_BYTES = 262_144;

/** The `authz` command with its subcommand. What goes wrong is thrown, for the caller to say. */
export function authzCommand(): Command {
  const authz = new Command('authz').description('what AuthorizationPolicy says');
  const check = authz
    .command('check')
    .description('decide requests as the sidecar of a workload would: JSON Lines in, JSON Lines out')
    .requiredOption('--requests <file|->', 'requests, one JSON object a line; -: from stdin')
    .option('--explain', 'add to a denial the nearest rule and the field that missed');
  addOutputOption(addWorkloadOptions(addConfigOptions(check)));
  check.action((parsed: Record<string, unknown>) => run(parsed));
  return authz;
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const rules = await compile(readQuery(parsed), parsed.explain === true);
  const source = String(parsed.requests);
  leaveWithReader();
  const input = source === '-' ? process.stdin : createReadStream(source, { highWaterMark: READ_BYTES });
  const splitter = new LineSplitter(MAX_LINE_BYTES);
  try {
    for await (const chunk of input) await answerAll(rules, splitter.push(chunk as Buffer));
  } catch (error) {
    const { syscall } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    throw new UsageError(`--requests ${source}: ${(error as Error).message}`);
  }
  await answerAll(rules, splitter.end());
}

/** What one read brought is answered by one write; the next read waits until that is taken. */
async function answerAll(rules: CheckRules, lines: ReturnType<LineSplitter['push']>): Promise<void> {
  let answers = '';
  for (const line of lines) {
    const answer = answerLine(rules, line);
    answers += typeof answer === 'string' ? answer : await answer;
  }
  if (answers !== '' && !process.stdout.write(answers)) await once(process.stdout, 'drain');
}

/** @throws UsageError where `run` would refuse the set */
async function compile(query: Query, explain: boolean): Promise<CheckRules> {
  const [{ compileSnapshot, decodeAll }, { compileAuthorization }, { checkTokens }] = await Promise.all([
    import('../config/snapshot.ts'),
    import('../policy/authorize.ts'),
    import('./authz-tokens.ts'),
  ]);
  const input = await snapshotInput(query);
  const { snapshot, problems } = compileSnapshot(input);
  reportProblems(problems);
  if (snapshot === null) throw new Error('a valid set of a workload given by flags is always compiled');
  const decoded = decodeAll(input.resources, []);
  // Not the snapshot's own rules: without any mesh config each provider that a policy names counts as defined.
  const providers = decoded.mesh.extAuthz;
  const authorization = compileAuthorization(
    decoded.authorizationPolicies,
    query.workload,
    snapshot.mesh,
    providers,
  );
  return {
    authorization,
    tokens: checkTokens(snapshot.tokens),
    sidecar: snapshot,
    explain,
  };
}
