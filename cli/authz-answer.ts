/** One line of `authz check`: a request's JSON in, its answer's JSON out, by the data path's own rules. */
import type { Ask, Authorization, Decision, Nearest } from '../mesh/decision.ts';
import type { ConnectionFacts } from '../mesh/facts.ts';
import { isObject } from '../mesh/schema.ts';
import type { RequestHead } from '../proxy/http/head.ts';
import { type JsonObject, RequestError, readCheckRequest, type Sidecar } from './authz-request.ts';
import type { CheckTokens, TokenRefusal } from './authz-tokens.ts';
import type { BadLine } from './line-splitter.ts';

/** What answers come from. */
export interface CheckRules {
  readonly authorization: Authorization;
  readonly tokens: CheckTokens;
  readonly sidecar: Sidecar;
  /** Adds `nearest` to denials. */
  readonly explain: boolean;
}

/** No request needs more; what is deeper would end the process where it is written out again. */
const MAX_DEPTH = 100;

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1));
}

/**
 * Answers one line.
 * @returns a line of JSON with its end; a promise where a token has to be verified; empty for a blank line
 */
export function answerLine(rules: CheckRules, line: string | BadLine): string | Promise<string> {
  if (typeof line !== 'string') return failure(null, line.fault);
  if (line.trim() === '') return '';
  let given: unknown;
  try {
    given = JSON.parse(line);
  } catch {
    return failure(null, 'the line is not valid JSON');
  }
  if (!isObject(given)) return failure(null, 'a request must be a JSON object');
  if (isDeeper(given, MAX_DEPTH)) {
    return failure(null, `the line is nested more than ${MAX_DEPTH} levels deep`);
  }
  try {
    return answer(rules, given);
  } catch (error) {
    if (error instanceof RequestError) return failure(given.id, error.message);
    throw error;
  }
}

function answer(rules: CheckRules, given: JsonObject): string | Promise<string> {
  const { connection, request } = readCheckRequest(given, rules.sidecar);
  const ask = rules.authorization.ask(connection, request);
  const asked: Asked = { rules, id: given.id, connection, ask };
  if (request === null) return decide(asked, request);
  const verdict = rules.tokens.judge(request);
  return verdict instanceof Promise
    ? verdict.then((late) => judged(asked, request, late))
    : judged(asked, request, verdict);
}

/** A request on its way through the rules. */
interface Asked {
  readonly rules: CheckRules;
  readonly id: unknown;
  readonly connection: ConnectionFacts;
  /** CUSTOM is asked before tokens are looked at, as in Istio's order of filters. */
  readonly ask: Ask | Decision | null;
}

function judged(asked: Asked, request: RequestHead, verdict: TokenRefusal | null): string {
  if (verdict === null) return decide(asked, request);
  const { status, message } = verdict;
  return line({
    id: asked.id ?? null,
    decision: 'UNAUTHENTICATED',
    status,
    policy: null,
    rule: null,
    reason: message,
    audit: [],
    dryRun: [],
  });
}

function decide(asked: Asked, request: RequestHead | null): string {
  const { rules, connection, ask, id } = asked;
  const { authorization } = rules;
  const decision = decisionOf(authorization, connection, request, ask);
  const observed = authorization.observe?.(connection, request) ?? NOTHING;
  if ('provider' in decision) {
    const { provider, policy, rule } = decision;
    const reason = `policy ${policy} asks the provider ${provider}`;
    return line({ id: id ?? null, decision: 'CUSTOM', provider, policy, rule, reason, ...observed });
  }
  const { allowed, policy, rule, detail } = decision;
  const answered: Answer = {
    id: id ?? null,
    decision: allowed ? 'ALLOW' : 'DENY',
    policy,
    rule,
    reason: detail,
    audit: observed.audit,
    dryRun: observed.dryRun,
  };
  if (allowed || !rules.explain) return line(answered);
  return line({ ...answered, nearest: authorization.explain(connection, request, decision) });
}

/** CUSTOM stands unless a DENY policy matches too: then nothing a provider says would help. */
function decisionOf(
  authorization: Authorization,
  connection: ConnectionFacts,
  request: RequestHead | null,
  ask: Ask | Decision | null,
): Ask | Decision {
  if (ask !== null && 'allowed' in ask) return ask;
  const decision =
    request === null
      ? authorization.decideConnection(connection)
      : authorization.decideRequest(connection, request);
  const denied = !decision.allowed && decision.policy !== null;
  return ask === null || denied ? decision : ask;
}

interface Answer {
  readonly id: unknown;
  readonly decision: 'ALLOW' | 'DENY' | 'CUSTOM' | 'UNAUTHENTICATED';
  readonly provider?: string;
  readonly status?: number;
  readonly policy: string | null;
  readonly rule: number | null;
  readonly reason: string;
  readonly audit: readonly string[];
  readonly dryRun: readonly { readonly policy: string; readonly decision: 'ALLOW' | 'DENY' }[];
  readonly nearest?: Nearest | null;
}

const NOTHING = { audit: [], dryRun: [] } as const;

function line(value: Answer): string {
  return `${JSON.stringify(value)}\n`;
}

function failure(id: unknown, error: string): string {
  return `${JSON.stringify({ id: id ?? null, error })}\n`;
}
