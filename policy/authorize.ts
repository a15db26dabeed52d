/** Compiles the AuthorizationPolicies of one workload to closures, and decides with them. */
import type { Authorization } from '../mesh/decision.ts';
import type { MeshSettings } from '../mesh/snapshot.ts';
import type { AuthorizationPolicy } from './authorization-policy.ts';

/** Compiles the policies that apply to `workload`: those of its namespace and of the root namespace whose selector matches. */
export function compileAuthorization(
  _policies: readonly AuthorizationPolicy[],
  _workload: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> },
  _mesh: MeshSettings,
): Authorization {
  throw new Error('to come');
}
