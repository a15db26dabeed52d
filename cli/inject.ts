/** `oarlock inject`: manifests in, the same with sidecars out. */
import { readFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { UsageError } from '../config/usage-error.ts';
import { addInjectOptions, readInjectOptions } from './inject-flags.ts';

/** Bytes of a file of manifests: more is a mistake. */
const MAX_FILE_BYTES = 8 * 1024 * 1024;

/** The `inject` command. What goes wrong is thrown, for the caller to say. */
export function injectCommand(): Command {
  const command = new Command('inject')
    .description('add the sidecar to the pods of Kubernetes manifests, by the rules of Istio')
    .requiredOption('-f, --filename <file>', 'manifests in YAML or JSON; - for stdin (repeatable)', collect)
    .option('-n, --namespace <ns>', 'of objects that name none', 'default')
    .addOption(
      new Option('-o, --output <format>', 'yaml: as they came; json: one value')
        .choices(['yaml', 'json'])
        .default('yaml'),
    );
  return addInjectOptions(command).action((parsed: Record<string, unknown>) => run(parsed));
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const config = readInjectOptions(parsed);
  const files = parsed.filename as readonly string[];
  if (files.filter((file) => file === '-').length > 1) throw new UsageError('-f - can be given once');
  const { injectText } = await import('../inject/documents.ts');
  const namespace = String(parsed.namespace);
  const done = files.map((file) => {
    const name = file === '-' ? 'stdin' : file;
    return injectText(read(file, name), name, namespace, config);
  });
  // Nothing is printed before all is done: what reads it applies all or nothing.
  for (const warning of done.flatMap(({ warnings }) => warnings))
    process.stderr.write(`oarlock: ${warning}\n`);
  if (parsed.output === 'json') {
    const values = done.flatMap((one) => one.values);
    const value = values.length === 1 ? values[0] : { apiVersion: 'v1', kind: 'List', items: values };
    process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
    return;
  }
  process.stdout.write(joined(done.map(({ text }) => text)));
}

function collect(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), value];
}

function read(file: string, name: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file === '-' ? 0 : file);
  } catch (error) {
    throw new UsageError(`-f ${name}: ${(error as Error).message.split(', ')[0]}`);
  }
  if (bytes.length > MAX_FILE_BYTES) {
    throw new UsageError(
      `-f ${name}: ${bytes.length} bytes are more than the ${MAX_FILE_BYTES} a file may have`,
    );
  }
  return bytes.toString('utf8');
}

/** Files one after the other, each beginning a document of its own. Kubectl looks at the first byte: a brace is JSON alone. */
function joined(texts: readonly string[]): string {
  return texts
    .map((text, i) => {
      const ended = text === '' || text.endsWith('\n') ? text : `${text}\n`;
      const opens = ended.startsWith('---') || (i === 0 && !(texts.length > 1 && ended.startsWith('{')));
      return opens ? ended : `---\n${ended}`;
    })
    .join('');
}
