/** What an external authorizer is told, which one is asked, and how it is reached. */
import type { Ask, Decision } from '../../mesh/decision.ts';
import type { CheckRequest, ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { ConnectionFacts } from '../../mesh/facts.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import type { Connection } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import type { Exchange } from './exchange.ts';
import type { RequestHead } from './head.ts';
import type { HeldBody } from './held-body.ts';

/**
 * The provider to ask; a denial where it cannot be used, whatever its failOpen says: Istio then turns the
 * CUSTOM rules into DENY rules (pilot's `getBadCustomDenyRules`).
 */
export function providerOf(snapshot: Snapshot, ask: Ask): ExtAuthzProvider | Decision {
  const provider = snapshot.extAuthz.get(ask.provider);
  if (provider !== undefined && provider.fault === null) return provider;
  const [namespace = '', name = ''] = ask.policy.split('/');
  return {
    allowed: false,
    policy: ask.policy,
    rule: ask.rule,
    detail: `rbac_access_denied_matched_policy[ns[${namespace}]-policy[${name}]-rule[${ask.rule}]-deny-due-to-bad-CUSTOM-action]`,
    missed: [],
  };
}

/** The request as it stands now: later steps may still change it. */
export interface CheckedRequest {
  readonly head: RequestHead;
  readonly exchange: Exchange;
  readonly body: HeldBody | null;
}

/** @param checked null for a TCP connection */
export function checkRequestOf(
  path: DataPath,
  connection: Connection,
  facts: ConnectionFacts,
  checked: CheckedRequest | null,
): CheckRequest {
  return {
    connection: facts,
    ownIdentity: connection.tls ? (path.identity?.uri ?? null) : null,
    sourcePort: connection.remotePort,
    request: checked === null ? null : requestOf(connection, checked),
  };
}

function requestOf(
  connection: Connection,
  { head, exchange, body }: CheckedRequest,
): CheckRequest['request'] {
  const length = head.headerValues('content-length')[0];
  return {
    method: head.method,
    host: head.host,
    path: head.path,
    scheme: connection.tls ? 'https' : 'http',
    protocol: exchange.protocol,
    fields: head.fields.map(({ key, value }) => ({ name: key, value })),
    body: body?.data() ?? null,
    bodyTruncated: body?.truncated ?? false,
    bodySize: length === undefined ? -1 : Number(length),
  };
}
