/** Whether a pod is to be injected, by the rules of Istio's injector. */
import { names } from './annotations.ts';
import type { InjectConfig } from './inject-config.ts';
import { findContainer, type Pod, PROXY_CONTAINER } from './pod.ts';

/** Kubernetes' own, and kind's storage (pkg/kube/inject/initializer.go, IgnoredNamespaces). */
export const SYSTEM_NAMESPACES: readonly string[] = [
  'kube-system',
  'kube-public',
  'kube-node-lease',
  'local-path-storage',
];

export type Verdict =
  | { readonly inject: true; readonly warnings: readonly string[] }
  /** `reason`: why not, as the end of a sentence; a warning says what its author may not expect. */
  | { readonly inject: false; readonly reason: string; readonly warn: boolean };

export function isNeeded(pod: Pod, namespace: string, config: InjectConfig): Verdict {
  const no = (reason: string, warn: boolean): Verdict => ({ inject: false, reason, warn });
  if (pod.annotations[names.status] !== undefined) {
    const ours = isOurs(pod);
    return ours
      ? no('it has its sidecar', false)
      : no(`it has been injected already (annotation ${names.status}), and not by Oarlock`, true);
  }
  // The rules would be the node's own.
  if (pod.spec.hostNetwork === true) return no('it is in the network of its node (hostNetwork)', true);
  if (SYSTEM_NAMESPACES.includes(namespace)) return no(`namespace ${namespace} is Kubernetes' own`, true);
  const templates = pod.annotations[names.templates];
  if (templates?.split(',').some((name) => name.trim() !== 'sidecar')) {
    return no(`${names.templates} asks for ${JSON.stringify(templates)}; there is sidecar alone`, true);
  }
  // The label is the newer of the two, and beats the annotation.
  const wish = pod.labels[names.inject] ?? pod.annotations[names.inject] ?? '';
  if (wish === 'false') return no(`${names.inject} is "false"`, false);
  if (wish === 'true') return { inject: true, warnings: [] };
  const warnings =
    wish === '' ? [] : [`${names.inject} must be "true" or "false", not ${JSON.stringify(wish)}: not heeded`];
  if (config.policy === 'enabled') return { inject: true, warnings };
  return no(`the policy is "disabled", and ${names.inject} does not ask for it`, false);
}

/** Istio's sidecar runs `proxy sidecar`. */
function isOurs(pod: Pod): boolean {
  const sidecar = findContainer(pod, PROXY_CONTAINER);
  return Array.isArray(sidecar?.args) && sidecar.args[0] === 'run';
}
