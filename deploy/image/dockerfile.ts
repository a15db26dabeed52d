/** Reads a Dockerfile, as much of the language as ours uses; what it does not know it refuses. */

export interface Instruction {
  /** In capitals. */
  readonly name: string;
  /** `--from=build` as from → build. */
  readonly flags: ReadonlyMap<string, string>;
  readonly rest: string;
}

export interface Stage {
  readonly name: string;
  readonly base: string;
  readonly instructions: readonly Instruction[];
}

const KNOWN = new Set(
  'ARG FROM WORKDIR COPY RUN USER LABEL ENV STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD'.split(' '),
);

/** @param args build arguments, before the defaults that stand in the file @throws Error naming the line it cannot read */
export function readDockerfile(text: string, args: ReadonlyMap<string, string>): readonly Stage[] {
  const values = new Map(args);
  const stages: { name: string; base: string; instructions: Instruction[] }[] = [];
  for (const line of logicalLines(text)) {
    const [, word = '', all = ''] = /^(\S+)\s+(.*)$/s.exec(line) ?? [];
    const name = word.toUpperCase();
    if (!KNOWN.has(name)) throw new Error(`unknown instruction: ${line}`);
    const { flags, rest } = name === 'HEALTHCHECK' ? { flags: new Map(), rest: all } : flagsOf(all);
    const stage = stages.at(-1);
    if (name === 'ARG') {
      if (stage !== undefined) throw new Error(`an ARG within a stage: ${line}`);
      const [key = '', value = ''] = rest.split('=');
      if (!values.has(key)) values.set(key, value);
    } else if (name === 'FROM') {
      const [, base = '', as = ''] = /^(\S+)(?:\s+AS\s+(\S+))?$/i.exec(filled(rest, values)) ?? [];
      stages.push({ name: as, base, instructions: [] });
    } else if (stage === undefined) throw new Error(`before FROM: ${line}`);
    else stage.instructions.push({ name, flags, rest });
  }
  return stages;
}

/** Comments and empty lines are left out; a line that ends with a backslash goes on in the next. */
function logicalLines(text: string): readonly string[] {
  const kept = text.split('\n').filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'));
  return kept
    .join('\n')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n');
}

function flagsOf(text: string): { flags: ReadonlyMap<string, string>; rest: string } {
  const flags = new Map<string, string>();
  let rest = text;
  for (
    let found = /^--([a-z-]+)=(\S+)\s+/.exec(rest);
    found !== null;
    found = /^--([a-z-]+)=(\S+)\s+/.exec(rest)
  ) {
    flags.set(found[1] ?? '', found[2] ?? '');
    rest = rest.slice(found[0].length);
  }
  return { flags, rest };
}

function filled(text: string, values: ReadonlyMap<string, string>): string {
  return text.replaceAll(/\$\{(\w+)\}/g, (_, name: string) => values.get(name) ?? '');
}

/** What a folder's .dockerignore lets through: ours names all that goes, and nothing else. @throws where it is of another form */
export function sentToBuild(ignoreFile: string): readonly string[] {
  const [first, ...names] = ignoreFile.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  if (first !== '*' || names.some((name) => !/^![\w./-]+$/.test(name))) {
    throw new Error('.dockerignore is to begin with *, and then to name what goes');
  }
  return names.map((name) => name.slice(1));
}
