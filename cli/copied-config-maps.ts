/** Copies config maps of our own namespace to all others, for a pod can mount those of its own namespace alone. */
import { configMapsNamed, holds, namespaceNames, writeConfigMap } from '../ca-client/config-maps.ts';
import type { KubernetesApi } from '../ca-client/kubernetes-api.ts';
import { SYSTEM_NAMESPACES } from '../inject/needed.ts';
import type { Logger } from '../telemetry/log.ts';

/** Copies one config map; a namespace that cannot take it does not keep it from the others. */
export class ConfigMapCopies {
  readonly #api: KubernetesApi;
  readonly #from: string;
  readonly #log: Logger;
  /** Namespaces with one of the same name that is not ours: said once. */
  readonly #foreign = new Set<string>();

  constructor(api: KubernetesApi, from: string, log: Logger) {
    this.#api = api;
    this.#from = from;
    this.#log = log;
  }

  /** @throws Error where something could not be copied, with the first reason */
  async copy(name: string): Promise<void> {
    const [namespaces, maps] = await Promise.all([
      namespaceNames(this.#api),
      configMapsNamed(this.#api, name),
    ]);
    const source = maps.get(this.#from);
    if (source === undefined) throw new Error(`there is no config map ${this.#from}/${name} to copy`);
    const failures: string[] = [];
    let written = 0;
    for (const namespace of namespaces) {
      if (namespace === this.#from || SYSTEM_NAMESPACES.includes(namespace)) continue;
      const there = maps.get(namespace) ?? null;
      if (there?.ours === false) {
        this.#leave(namespace, name);
        continue;
      }
      if (there !== null && holds(there, source.data)) continue;
      try {
        await writeConfigMap(this.#api, there, { namespace, name, data: source.data });
        written++;
      } catch (error) {
        failures.push((error as Error).message);
      }
    }
    if (written > 0) this.#log.info({ event: 'copied', name, namespaces: written }, 'config map copied');
    if (failures[0] !== undefined) throw new Error(failures[0]);
  }

  /** Istiod writes the root's, and a team may have policies of its own. */
  #leave(namespace: string, name: string): void {
    const key = `${namespace}/${name}`;
    if (this.#foreign.has(key)) return;
    this.#foreign.add(key);
    this.#log.info({ event: 'not-copied', name, namespace }, 'config map is not ours: left as it is');
  }
}
