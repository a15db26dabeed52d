/** What a decision is, and the interface of the compiled rules that make one. */
import type { ConnectionFacts, RequestFacts } from './facts.ts';

export interface Decision {
  readonly allowed: boolean;
  /** `NS/NAME` of the policy that decided; null where none matched and the default did. */
  readonly policy: string | null;
  /** Index of the rule that matched, counted from 0; null where none did. */
  readonly rule: number | null;
  /**
   * For log lines. Istio's words where there are any: `allowed-policy[ns/name]-rule[0]`,
   * `rbac_access_denied_matched_policy[ns/name]-rule[0]`, `rbac_access_denied_matched_policy[none]`.
   */
  readonly detail: string;
  /** Denials only: the ALLOW policies that selected the workload but did not match, as `NS/NAME`. */
  readonly missed: readonly string[];
}

/** The compiled AuthorizationPolicies of one workload. Pure: same facts, same answer. */
export interface Authorization {
  /** The policies that select the workload, as `NS/NAME`, sorted. */
  readonly policies: readonly string[];
  /** Decides one HTTP request. */
  decideRequest(connection: ConnectionFacts, request: RequestFacts): Decision;
  /** Decides a TCP connection: HTTP fields are dropped as Istio does (docs/RESOURCES.md: ALLOW closes, DENY widens). */
  decideConnection(connection: ConnectionFacts): Decision;
}
