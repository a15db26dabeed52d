/** How Kubernetes' own objects are read: what we use is checked, what else Kubernetes knows is let be, a typo is told. */
import type { Decoder } from '../mesh/schema.ts';
import { anything, object } from '../mesh/schema.ts';

/** The domain of services in a cluster; Istio's `--domain` default. */
export const CLUSTER_DOMAIN = 'cluster.local';

type Fields = Record<string, Decoder<unknown>>;

/**
 * An object with fields of which only some are read.
 * @param others names of Kubernetes' other fields there, apart by blanks; a name of neither is a Warning, not an
 * Error, because a newer Kubernetes may know it
 */
export function kubeObject<const S extends Fields>(fields: S, others: string): ReturnType<typeof object<S>> {
  const known = new Set(others.split(' '));
  const read = object(fields);
  return (value, path, reporter) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      return read(value, path, reporter);
    const picked: Record<string, unknown> = {};
    for (const [key, item] of Object.entries(value)) {
      if (Object.hasOwn(fields, key)) picked[key] = item;
      else if (!known.has(key)) {
        const message = `unknown field, perhaps a typo; read here: ${Object.keys(fields).join(', ')}`;
        reporter.report([...path, key], 'unknownField', message, 'Warning');
      }
    }
    return read(picked, path, reporter);
  };
}

/** What stands around the spec of every object; metadata is checked where the document is read. */
export const kubeTop = { apiVersion: anything, kind: anything, metadata: anything } as const;

/** Kubernetes' IntOrString of a `targetPort`. */
export const numberOrName: Decoder<number | string> = (value, path, reporter) => {
  // Kubernetes' SetDefaults_Service: 0 and '' mean the service's own port.
  if (value === 0 || value === '') return undefined;
  if (typeof value === 'string' && /^[a-z0-9-]{1,15}$/.test(value) && /[a-z]/.test(value)) return value;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65535) return value;
  const what =
    'a port number, or the name of a container port (at most 15 lower-case letters, digits, dashes)';
  reporter.report(path, 'badValue', `must be ${what}, not ${JSON.stringify(value)}`);
  return undefined;
};
