/** A pod, or the template of one, taken apart into what injection looks at, and put together again. */
import { InjectError } from './inject-error.ts';
import { isList, isObject, type Json, type JsonObject } from './json.ts';

/** Something of a list that is known by its name: a container, a volume. */
export interface Named extends JsonObject {
  readonly name: string;
}

export interface Pod {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly containers: readonly Named[];
  readonly initContainers: readonly Named[];
  readonly volumes: readonly Named[];
  /** `metadata` and `spec` as they came, for all other fields. */
  readonly metadata: JsonObject;
  readonly spec: JsonObject;
}

export const PROXY_CONTAINER = 'istio-proxy';
export const INIT_CONTAINER = 'istio-init';

/**
 * Takes a pod or pod template apart.
 * @param value an object with `metadata` and `spec`
 * @param at how to name it in an error: `spec.template`
 * @throws InjectError where a field that injection needs has another shape than Kubernetes gives it
 */
export function readPod(value: Json | undefined, at: string): Pod {
  const pod = objectOf(value, at);
  const metadata = objectOf(pod.metadata ?? {}, `${at}.metadata`);
  const spec = objectOf(pod.spec, `${at}.spec`);
  return {
    labels: texts(metadata.labels, `${at}.metadata.labels`),
    annotations: texts(metadata.annotations, `${at}.metadata.annotations`),
    containers: namedList(spec.containers, `${at}.spec.containers`),
    initContainers: namedList(spec.initContainers, `${at}.spec.initContainers`),
    volumes: namedList(spec.volumes, `${at}.spec.volumes`),
    metadata,
    spec,
  };
}

/** The pod as Kubernetes writes it; fields of `original` that injection knows nothing of stay as they are. */
export function writePod(pod: Pod, original: JsonObject): JsonObject {
  const { labels, annotations, containers, initContainers, volumes } = pod;
  return {
    ...original,
    metadata: { ...pod.metadata, labels, annotations },
    spec: {
      ...pod.spec,
      ...(initContainers.length > 0 || pod.spec.initContainers !== undefined ? { initContainers } : {}),
      containers,
      volumes,
    },
  };
}

/** The container of that name, of either list. */
export function findContainer(pod: Pod, name: string): Named | undefined {
  const isIt = (container: Named): boolean => container.name === name;
  return pod.containers.find(isIt) ?? pod.initContainers.find(isIt);
}

/** Whether the pod is to end by itself, as a Job's. */
export function canComplete({ restartPolicy }: JsonObject): boolean {
  return restartPolicy === 'OnFailure' || restartPolicy === 'Never';
}

export function objectOf(value: Json | undefined, at: string): JsonObject {
  if (isObject(value)) return value;
  throw new InjectError(`${at} must be an object`);
}

function texts(value: Json | undefined, at: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [key, text] of Object.entries(objectOf(value ?? {}, at))) {
    if (typeof text !== 'string') throw new InjectError(`${at}: ${key} must be a string; put it in quotes`);
    found[key] = text;
  }
  return found;
}

function namedList(value: Json | undefined, at: string): readonly Named[] {
  const list = value ?? [];
  if (!isList(list)) throw new InjectError(`${at} must be a list`);
  return list.map((item, i) => {
    if (isNamed(item)) return item;
    throw new InjectError(`${at}[${i}] must be an object with a name`);
  });
}

function isNamed(item: Json): item is Named {
  return isObject(item) && typeof item.name === 'string' && item.name !== '';
}
