/** What a decision is, and the interface of the compiled rules that make one. */
import type { ConnectionFacts, RequestFacts } from './facts.ts';

/** What a policy does. */
export type Action = 'CUSTOM' | 'DENY' | 'ALLOW' | 'AUDIT';

export interface Decision {
  readonly allowed: boolean;
  /** `NS/NAME` of the policy that decided; null where none matched and the default did. */
  readonly policy: string | null;
  /** Index of the rule that matched, counted from 0; null where none did. */
  readonly rule: number | null;
  /**
   * For log lines. Istio's words where there are any: `allowed-policy[ns/name]-rule[0]`,
   * `rbac_access_denied_matched_policy[ns[ns]-policy[name]-rule[0]]`, `rbac_access_denied_matched_policy[none]`.
   */
  readonly detail: string;
  /** Denials only: the ALLOW policies that selected the workload but did not match, as `NS/NAME`. */
  readonly missed: readonly string[];
}

/** A CUSTOM rule matched: its provider is asked before DENY and ALLOW are. */
export interface Ask {
  readonly provider: string;
  /** `NS/NAME` */
  readonly policy: string;
  readonly rule: number;
}

/** What policies that never change the answer have to say. */
export interface Observed {
  /** The AUDIT policies that match, `NS/NAME`, sorted. */
  readonly audit: readonly string[];
  /** The dry-run policies that match, sorted by name, each with its own action's decision. */
  readonly dryRun: readonly { readonly policy: string; readonly decision: 'ALLOW' | 'DENY' }[];
}

/** Why a denial: the rule that came nearest to allowing, or the one that denied, and the field that made it so. */
export interface Nearest {
  /** `NS/NAME` */
  readonly policy: string;
  readonly rule: number;
  /** As written in the policy: `from.source.principals`, `to.operation.notPaths`, `when[request.headers[x]]`. */
  readonly field: string;
  readonly expected: readonly string[];
  /** What was there instead; null: nothing, such as the principal of plaintext. */
  readonly actual: string | readonly string[] | null;
}

/** The compiled AuthorizationPolicies of one workload. Pure: same facts, same answer. */
export interface Authorization {
  /** The policies that select the workload, as `NS/NAME`, sorted. */
  readonly policies: readonly string[];
  /** The same by action, dry-run ones left out. */
  readonly byAction: Readonly<Record<Action, readonly string[]>>;
  /** The provider to ask first, or a denial where the CUSTOM policies cannot be carried out; null: no CUSTOM rule matches. */
  ask(connection: ConnectionFacts, request: RequestFacts | null): Ask | Decision | null;
  /** Decides one HTTP request by DENY, then ALLOW. */
  decideRequest(connection: ConnectionFacts, request: RequestFacts): Decision;
  /** Decides a TCP connection: HTTP fields are dropped as Istio does (docs/POLICY.md: ALLOW closes, DENY widens). */
  decideConnection(connection: ConnectionFacts): Decision;
  /** AUDIT and dry-run policies; null where none selects the workload, so that nothing is paid. */
  readonly observe: ((connection: ConnectionFacts, request: RequestFacts | null) => Observed) | null;
  /** Explains a denial of `ask` or `decide…`; null where there is nothing to point at. Not for the hot path. */
  explain(connection: ConnectionFacts, request: RequestFacts | null, denial: Decision): Nearest | null;
}
