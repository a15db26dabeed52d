/** Normalizes a request target as Envoy does for Istio, so that what policy matches is what the app receives. */
import type { PathNormalization } from '../mesh/snapshot.ts';

/**
 * Normalizes a raw origin-form target, query included.
 * @returns what is matched and forwarded; null: refuse with 400.
 */
export function normalizeTarget(_target: string, _mode: PathNormalization): string | null {
  throw new Error('to come');
}
