/** AuthorizationPolicy: the resource as a typed record, read and checked by the rules of Istio's webhook. */
import type { Problem, Resource } from '../mesh/resource.ts';

/** One valid AuthorizationPolicy. */
export interface AuthorizationPolicy {
  readonly namespace: string;
  readonly name: string;
}

/** Reads an AuthorizationPolicy; null after reporting at least one Error. */
export function decodeAuthorizationPolicy(
  _resource: Resource,
  _problems: Problem[],
): AuthorizationPolicy | null {
  throw new Error('to come');
}
