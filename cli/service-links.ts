/** What Kubernetes sets for the Services of a pod's namespace, under names that may be those of our flags. */

/** `tcp://10.96.0.9:15020`, as Docker's links had it: no flag for a port takes it. */
const LINK = /^(?:tcp|udp|sctp):\/\//;

/**
 * Takes them out of the environment before flags are read from it: a Service called `oarlock-metrics` is announced to
 * all containers of its namespace as `OARLOCK_METRICS_PORT`, unless the pod sets that variable itself.
 */
export function forgetServiceLinks(env: NodeJS.ProcessEnv = process.env): void {
  for (const [name, value = ''] of Object.entries(env)) {
    if (/^OARLOCK_\w+_PORT$/.test(name) && LINK.test(value)) delete env[name];
  }
}
