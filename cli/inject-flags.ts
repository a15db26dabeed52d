/** What `inject` and `webhook` share: the flags that say what is injected, over a file of the same names. */
import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { parse } from 'yaml';
import { UsageError } from '../config/usage-error.ts';
import { DEFAULT_INJECT_CONFIG, type InjectConfig, readInjectConfig } from '../inject/inject-config.ts';
import { InjectError } from '../inject/inject-error.ts';
import type { Json } from '../inject/json.ts';
import { trustDomain } from './ca-flags.ts';

/** Commander's name of a flag → the field it sets. */
const FIELDS = [
  'image',
  'caAddress',
  'trustDomain',
  'clusterId',
  'revision',
  'configMap',
  'rootConfigMap',
  'nativeSidecar',
  'policy',
] as const satisfies readonly (keyof InjectConfig)[];

/** Adds the flags; the defaults are the file's to say, so they are only told. */
export function addInjectOptions(command: Command): Command {
  const d = DEFAULT_INJECT_CONFIG;
  return command
    .option('--inject-config <file>', 'YAML with more of the same: image, resources, env … (docs/CLI.md)')
    .option('--image <name>', `image of the sidecar (default: ${d.image})`)
    .option('--ca-address <host:port>', `the CA (default: ${d.caAddress})`)
    .option('--trust-domain <td>', `first part of all identities (default: ${d.trustDomain})`, trustDomain)
    .option('--cluster-id <id>', `this cluster's name (default: ${d.clusterId})`)
    .option('--revision <name>', `for istio.io/rev (default: ${d.revision})`)
    .option('--config-map <name>', `resources, in each namespace (default: ${d.configMap})`)
    .option('--root-config-map <name>', `the CA's root, in each namespace (default: ${d.rootConfigMap})`)
    .option('--native-sidecar [boolean]', 'as an init container that stays (default: true)', flag)
    .addOption(
      new Option('--policy <policy>', 'disabled: only pods that ask (default: enabled)').choices([
        'enabled',
        'disabled',
      ]),
    );
}

/** @throws UsageError where the file or a flag says what cannot be */
export function readInjectOptions(parsed: Readonly<Record<string, unknown>>): InjectConfig {
  const flags: Record<string, Json> = {};
  for (const name of FIELDS) {
    const value = parsed[name];
    if (value !== undefined) flags[name] = value as Json;
  }
  const { injectConfig: file } = parsed;
  try {
    const fromFile = typeof file === 'string' ? injectConfigFile(file) : DEFAULT_INJECT_CONFIG;
    readInjectConfig(flags, 'the flags');
    return { ...fromFile, ...flags };
  } catch (error) {
    if (error instanceof InjectError) throw new UsageError(error.message);
    throw error;
  }
}

/**
 * @throws UsageError where the file cannot be read
 * @throws InjectError where it says what cannot be
 */
export function injectConfigFile(file: string): InjectConfig {
  let value: Json;
  try {
    value = parse(readFileSync(file, 'utf8')) as Json;
  } catch (error) {
    throw new UsageError(`--inject-config ${file}: ${(error as Error).message}`);
  }
  return readInjectConfig(value, file);
}

function flag(text: string): boolean {
  if (text === 'true' || text === 'false') return text === 'true';
  throw new InvalidArgumentError('must be true or false.');
}
