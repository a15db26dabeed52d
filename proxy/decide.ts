/** The last step of judging: DENY and ALLOW, and what policies that only look on have to say. */
import type { Decision } from '../mesh/decision.ts';
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import type { Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import type { Exchange } from './http1/exchange.ts';
import type { LocalAnswer } from './http1/local-answer.ts';

/** What is judged, and by what. */
export interface Deciding {
  readonly path: DataPath;
  readonly connection: Connection;
  readonly facts: ConnectionFacts;
  readonly snapshot: Snapshot;
}

/** Decides a request that external authorization and tokens let pass; null lets it go on. */
export function decideRequest(
  deciding: Deciding,
  head: RequestFacts,
  exchange: Exchange,
): LocalAnswer | null {
  const { authorization } = deciding.snapshot;
  if (authorization.observe !== null) observe(deciding, head);
  const decision = authorization.decideRequest(deciding.facts, head);
  exchange.decision = decision;
  return decision.allowed ? null : denied(decision);
}

/** Decides a TCP connection that external authorization let pass. */
export function decideConnection(deciding: Deciding): Decision {
  const { authorization } = deciding.snapshot;
  if (authorization.observe !== null) observe(deciding, null);
  return authorization.decideConnection(deciding.facts);
}

/** Envoy's answer to what RBAC denies. */
export function denied(decision: Decision): LocalAnswer {
  return { status: 403, body: 'RBAC: access denied', reason: 'policy_denied', detail: decision.detail };
}

/** Counts what AUDIT and dry-run policies match; a denial that is only tried out gets a line too. */
function observe({ path, connection, facts, snapshot }: Deciding, request: RequestFacts | null): void {
  const observed = snapshot.authorization.observe?.(facts, request);
  if (observed === undefined) return;
  const { observations } = path.metrics;
  for (const policy of observed.audit) observations.audited(policy);
  for (const { policy, decision } of observed.dryRun) {
    observations.triedOut(policy, decision);
    if (decision === 'DENY') path.wouldDeny(connection, policy, request);
  }
}
