/** What holds for one pod: the operator's configuration with what the pod's annotations say instead. */
import { ports } from '../mesh/ports.ts';
import { checkAnnotations, names, parseFlag, passedOver } from './annotations.ts';
import type { InjectConfig } from './inject-config.ts';
import { InjectError } from './inject-error.ts';
import { compact, isObject, type Json, type JsonObject } from './json.ts';
import { canComplete, type Named, type Pod } from './pod.ts';
import { type ProxyConfig, readProxyConfig } from './proxy-config.ts';

export interface Settings {
  readonly native: boolean;
  /** The app's containers wait for the sidecar; a native one is before them anyhow. */
  readonly hold: boolean;
  /** Beside the app of a pod that is to complete, where the app's processes can be seen: it leaves with them. */
  readonly exitWithApp: boolean;
  /** Connections are redirected to the sidecar; else it has its Sidecar listeners alone. */
  readonly redirect: boolean;
  readonly image: string;
  readonly logLevel: string;
  readonly resources: JsonObject;
  /** Of metrics and rewritten probes; 0: none. */
  readonly statusPort: number;
  readonly concurrency: number | null;
  readonly terminationDrainMs: number | null;
  readonly env: Readonly<Record<string, string>>;
  readonly userVolumes: readonly Named[];
  readonly userVolumeMounts: readonly Named[];
  /** What the pod asks for and does not get. */
  readonly warnings: readonly string[];
}

/** Envoy's levels, which `sidecar.istio.io/logLevel` has, beside ours. */
const LOG_LEVELS: ReadonlyMap<string, string> = new Map([
  ['trace', 'trace'],
  ['debug', 'debug'],
  ['info', 'info'],
  ['warning', 'warn'],
  ['warn', 'warn'],
  ['error', 'error'],
  ['critical', 'error'],
  ['fatal', 'error'],
  ['off', 'error'],
  ['none', 'error'],
]);

/** @throws InjectError for an annotation with a value that Istio's injector refuses too */
export function readSettings(pod: Pod, config: InjectConfig): Settings {
  const { annotations, spec } = pod;
  checkAnnotations(annotations);
  const proxyConfig = readProxyConfig(annotations[names.proxyConfig]);
  const warnings = [...passedOver(annotations), ...proxyConfig.warnings];
  const native = nativeSidecar(annotations[names.nativeSidecar], config, warnings);
  const exitWithApp = !native && canComplete(spec) && spec.shareProcessNamespace === true;
  // An app that has ended before anybody looked cannot be told from one that is still to start.
  const hold =
    proxyConfig.holdApplicationUntilProxyStarts ?? (exitWithApp || config.holdApplicationUntilProxyStarts);
  return {
    native,
    hold: !native && hold,
    exitWithApp,
    redirect: redirect(annotations, proxyConfig, warnings),
    image: image(annotations[names.proxyImage], config),
    logLevel: logLevel(annotations, config, warnings),
    resources: resources(annotations, config),
    statusPort: Number(annotations[names.statusPort] ?? proxyConfig.statusPort ?? ports.metrics),
    concurrency: proxyConfig.concurrency,
    terminationDrainMs: proxyConfig.terminationDrainMs,
    env: { ...config.env, ...proxyConfig.proxyMetadata },
    userVolumes: namedObjects(annotations[names.userVolume], names.userVolume),
    userVolumeMounts: namedObjects(annotations[names.userVolumeMount], names.userVolumeMount),
    warnings,
  };
}

function nativeSidecar(
  text: string | undefined,
  { nativeSidecar: otherwise }: InjectConfig,
  warnings: string[],
): boolean {
  if (text === undefined || text === 'true' || text === 'false')
    return text === undefined ? otherwise : text === 'true';
  warnings.push(`${names.nativeSidecar} must be "true" or "false", not ${JSON.stringify(text)}: not heeded`);
  return otherwise;
}

function redirect(
  annotations: Pod['annotations'],
  { interceptionMode }: ProxyConfig,
  warnings: string[],
): boolean {
  const mode = annotations[names.interceptionMode] ?? interceptionMode ?? 'REDIRECT';
  if (mode === 'TPROXY') warnings.push('interceptionMode TPROXY is not offered: REDIRECT is used');
  return mode !== 'NONE';
}

/** Istio's rule: a name without a slash is one of its own image's variants, of which we have none. */
function image(text: string | undefined, config: InjectConfig): string {
  return text?.includes('/') ? text : config.image;
}

function logLevel(annotations: Pod['annotations'], config: InjectConfig, warnings: string[]): string {
  const text = annotations[names.logLevel] ?? annotations[names.agentLogLevel];
  if (text === undefined) return config.logLevel;
  // Of istiod's agent: `default:info,ads:debug`.
  const level = LOG_LEVELS.get(text.replace(/^default:/, '').split(',')[0] ?? '');
  if (level !== undefined) return level;
  warnings.push(`log level ${JSON.stringify(text)} is not known: ${config.logLevel} is used`);
  return config.logLevel;
}

/** Istio's rule: one of the four annotations, and the operator's resources do not count. */
function resources(annotations: Pod['annotations'], config: InjectConfig): JsonObject {
  const { proxyCpu, proxyMemory, proxyCpuLimit, proxyMemoryLimit } = names;
  const requests = compact({ cpu: annotations[proxyCpu], memory: annotations[proxyMemory] });
  const limits = compact({ cpu: annotations[proxyCpuLimit], memory: annotations[proxyMemoryLimit] });
  const some = (amounts: JsonObject): boolean => Object.keys(amounts).length > 0;
  if (!some(requests) && !some(limits)) return config.resources;
  return { ...(some(requests) ? { requests } : {}), ...(some(limits) ? { limits } : {}) };
}

/** `{"data":{"emptyDir":{}}}` → the same with the name inside, as a list of Kubernetes has it. */
function namedObjects(text: string | undefined, annotation: string): readonly Named[] {
  if (text === undefined || text === '') return [];
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch {
    throw new InjectError(`annotation ${annotation} must be a JSON object of named objects`);
  }
  // Older pods have a list here, as Istio's template before 1.7.
  const list = Array.isArray(value) ? value : Object.entries(isObject(value) ? value : {}).map(withName);
  if (!isObject(value) && !Array.isArray(value)) {
    throw new InjectError(`annotation ${annotation} must be a JSON object of named objects`);
  }
  return list.map((item: Json) => {
    if (isObject(item) && typeof item.name === 'string') return item as Named;
    throw new InjectError(`annotation ${annotation}: each entry must be an object`);
  });
}

function withName([name, value]: [string, Json | undefined]): Json {
  return isObject(value) ? { name, ...value } : (value ?? null);
}

/** Whether Prometheus is to find the sidecar's metrics by the pod's annotations. */
export function wantsMetrics(annotations: Pod['annotations'], config: InjectConfig): boolean {
  return parseFlag(annotations[names.mergeMetrics] ?? '') ?? config.prometheus;
}
