/** The annotation `proxy.istio.io/config`: the fields of Istio's ProxyConfig that mean something to this sidecar. */
import { parseDuration } from '../mesh/duration.ts';
import { InjectError } from './inject-error.ts';
import { isObject, type Json, type JsonObject } from './json.ts';
import { parseSmallYaml } from './proxy-config-text.ts';

export interface ProxyConfig {
  /** Null where the annotation says nothing: so all others. */
  readonly holdApplicationUntilProxyStarts: boolean | null;
  /** Milliseconds that connections get to end after SIGTERM. */
  readonly terminationDrainMs: number | null;
  readonly concurrency: number | null;
  readonly interceptionMode: string | null;
  readonly statusPort: number | null;
  /** Environment of the sidecar. */
  readonly proxyMetadata: Readonly<Record<string, string>>;
  /** A sentence, where there are fields that are not heeded. */
  readonly warnings: readonly string[];
}

const OFFERED: ReadonlySet<string> = new Set([
  'holdApplicationUntilProxyStarts',
  'terminationDrainDuration',
  'concurrency',
  'interceptionMode',
  'statusPort',
  'proxyMetadata',
]);
/** More of them are counted. */
const MOST_NAMED = 5;

/**
 * @param text YAML or JSON; undefined: no annotation
 * @throws InjectError where it is neither, or a field has a value that cannot be meant
 */
export function readProxyConfig(text: string | undefined): ProxyConfig {
  const config = fieldsOf(text ?? '');
  const wrong = (field: string, shape: string): InjectError =>
    new InjectError(`annotation proxy.istio.io/config: ${field} must be ${shape}`);
  const { holdApplicationUntilProxyStarts: hold, interceptionMode: mode } = config;
  if (hold !== undefined && typeof hold !== 'boolean') {
    throw wrong('holdApplicationUntilProxyStarts', 'true or false');
  }
  if (mode !== undefined && !/^(?:REDIRECT|TPROXY|NONE)$/.test(String(mode))) {
    throw wrong('interceptionMode', 'REDIRECT, TPROXY or NONE');
  }
  const { terminationDrainDuration: drain } = config;
  const terminationDrainMs = drain === undefined ? null : parseDuration(String(drain));
  if (drain !== undefined && (terminationDrainMs === null || terminationDrainMs <= 0)) {
    throw wrong('terminationDrainDuration', 'a duration above 0, as 20s');
  }
  return {
    holdApplicationUntilProxyStarts: hold ?? null,
    terminationDrainMs,
    concurrency: count(config.concurrency, 256, () => wrong('concurrency', 'a number of threads, or 0')),
    interceptionMode: mode === undefined ? null : String(mode),
    statusPort: count(config.statusPort, 65_535, () => wrong('statusPort', 'a port')),
    proxyMetadata: metadata(config.proxyMetadata, () => wrong('proxyMetadata', 'an object of texts')),
    warnings: passedOver(Object.keys(config).filter((field) => !OFFERED.has(field))),
  };
}

function passedOver(fields: readonly string[]): readonly string[] {
  if (fields.length === 0) return [];
  const named = fields.slice(0, MOST_NAMED).map((field) => JSON.stringify(field));
  if (fields.length > named.length) named.push(`${fields.length - named.length} more`);
  return [`annotation proxy.istio.io/config: not offered, without effect: ${named.join(', ')}`];
}

function fieldsOf(text: string): JsonObject {
  let value: Json;
  try {
    value = parseSmallYaml(text);
  } catch (error) {
    throw new InjectError(`annotation proxy.istio.io/config cannot be parsed: ${(error as Error).message}`);
  }
  if (value === null) return {};
  if (isObject(value)) return value;
  throw new InjectError('annotation proxy.istio.io/config must be an object, as {"concurrency": 2}');
}

function count(value: Json | undefined, most: number, wrong: () => InjectError): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw wrong();
}

function metadata(value: Json | undefined, wrong: () => InjectError): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {};
  if (!isObject(value)) throw wrong();
  for (const text of Object.values(value)) {
    if (typeof text !== 'string') throw wrong();
  }
  return value as Readonly<Record<string, string>>;
}
