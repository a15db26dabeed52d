/** Config maps that are kept as they should be, in one namespace or in all. */
import { type KubernetesApi, refusalOf } from './kubernetes-api.ts';

export interface ConfigMap {
  readonly namespace: string;
  readonly name: string;
  readonly data: Readonly<Record<string, string>>;
  /** It carries our mark: one without it is somebody else's, and is left alone. */
  readonly ours: boolean;
}

/** By it we know what we wrote. */
const MARK = { 'app.kubernetes.io/managed-by': 'oarlock' } as const;
const [[MARK_NAME, MARK_VALUE]] = Object.entries(MARK) as [[string, string]];
/** Objects a page of a list has. */
const PAGE = 500;
/** Pages that are read: a cluster of 100,000 namespaces is a mistake. */
const MAX_PAGES = 200;

/** @returns null where there is none. @throws Error with the API server's words */
export async function readConfigMap(
  api: KubernetesApi,
  namespace: string,
  name: string,
): Promise<ConfigMap | null> {
  const answer = await api.ask('GET', `/api/v1/namespaces/${namespace}/configmaps/${name}`);
  if (answer.status === 404) return null;
  if (answer.status !== 200)
    throw new Error(`config map ${namespace}/${name} cannot be read: ${refusalOf(answer)}`);
  return configMapOf(answer.body);
}

/**
 * Makes the config map hold this.
 * @param there as it is; null: it is not
 * @throws Error with the API server's words
 */
export async function writeConfigMap(
  api: KubernetesApi,
  there: ConfigMap | null,
  { namespace, name, data }: Pick<ConfigMap, 'namespace' | 'name' | 'data'>,
): Promise<void> {
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  // In a merge patch null takes a key away.
  const gone = Object.keys(there?.data ?? {}).filter((key) => data[key] === undefined);
  const answer =
    there === null
      ? await api.ask('POST', path, {
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: { name, labels: MARK },
          data,
        })
      : await api.ask('PATCH', `${path}/${name}`, {
          data: { ...data, ...Object.fromEntries(gone.map((key) => [key, null])) },
        });
  if (answer.status >= 300)
    throw new Error(`config map ${namespace}/${name} cannot be written: ${refusalOf(answer)}`);
}

/** Whether it holds this and nothing else. */
export function holds({ data }: ConfigMap, wanted: ConfigMap['data']): boolean {
  const keys = new Set([...Object.keys(data), ...Object.keys(wanted)]);
  return [...keys].every((key) => data[key] === wanted[key]);
}

/** Those of one name, of all namespaces. RBAC by name allows this list. */
export async function configMapsNamed(
  api: KubernetesApi,
  name: string,
): Promise<ReadonlyMap<string, ConfigMap>> {
  const found = new Map<string, ConfigMap>();
  for (const item of await list(api, `/api/v1/configmaps?fieldSelector=metadata.name%3D${name}`)) {
    const map = configMapOf(item);
    found.set(map.namespace, map);
  }
  return found;
}

/** The names of all namespaces that are to stay. */
export async function namespaceNames(api: KubernetesApi): Promise<readonly string[]> {
  const items = await list(api, '/api/v1/namespaces?');
  return items
    .filter(({ status }) => (status as { phase?: unknown } | undefined)?.phase !== 'Terminating')
    .map(({ metadata }) => String((metadata as { name?: unknown } | undefined)?.name));
}

type Item = Readonly<Record<string, unknown>>;

async function list(api: KubernetesApi, path: string): Promise<readonly Item[]> {
  const items: Item[] = [];
  let next = '';
  for (let page = 0; page < MAX_PAGES; page++) {
    const more = next === '' ? '' : `&continue=${encodeURIComponent(next)}`;
    const answer = await api.ask('GET', `${path}&limit=${PAGE}${more}`);
    if (answer.status !== 200) throw new Error(`${path} cannot be listed: ${refusalOf(answer)}`);
    if (Array.isArray(answer.body.items)) items.push(...(answer.body.items as Item[]));
    const { continue: token } = (answer.body.metadata ?? {}) as { continue?: unknown };
    if (typeof token !== 'string' || token === '') return items;
    next = token;
  }
  throw new Error(`${path} has more than ${PAGE * MAX_PAGES} items`);
}

function configMapOf(object: Item): ConfigMap {
  const { name, namespace, labels } = (object.metadata ?? {}) as Record<string, unknown>;
  const data = (object.data ?? {}) as Readonly<Record<string, string>>;
  const mark = ((labels ?? {}) as Record<string, unknown>)[MARK_NAME];
  return { namespace: String(namespace), name: String(name), data, ours: mark === MARK_VALUE };
}
