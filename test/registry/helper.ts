/** Builds snapshots and routes for the registry tests from YAML, as the daemon does from files. */
import { parseDocuments } from '../../config/documents.ts';
import type { SnapshotInput, SnapshotResult } from '../../config/snapshot.ts';
import { compileSnapshot } from '../../config/snapshot.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { Route } from '../../mesh/route.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';

export interface Client {
  readonly namespace: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Compiles YAML for a client that is given directly. */
export function compile(
  yaml: string,
  client: Client = { namespace: 'web' },
  more: Partial<SnapshotInput> = {},
): SnapshotResult {
  const { resources, problems } = parseDocuments(yaml, 'mesh.yaml');
  return compileSnapshot({
    resources,
    problems,
    workload: {
      namespace: client.namespace,
      name: 'client',
      labels: new Map(Object.entries(client.labels ?? {})),
      serviceAccount: 'client',
    },
    overrides: {},
    intercept: 'none',
    generation: 1,
    ...more,
  });
}

/** The snapshot of YAML that must be good. */
export function snapshotOf(yaml: string, client?: Client, more?: Partial<SnapshotInput>): Snapshot {
  const { snapshot, problems } = compile(yaml, client, more);
  if (snapshot === null) throw new Error(`no snapshot: ${JSON.stringify(problems)}`);
  return snapshot;
}

/** The Errors of YAML as `line field code`, in order. */
export function errorsOf(yaml: string): readonly string[] {
  return linesOf(compile(yaml).problems, 'Error');
}

export function linesOf(problems: readonly Problem[], severity: Problem['severity']): readonly string[] {
  return problems
    .filter((problem) => problem.severity === severity)
    .map(({ line, field, code }) => `${line} ${field} ${code}`);
}

/** What matters of a route in one line a part. */
export function routeLine(route: Route | null): string {
  if (route === null) return 'none';
  const { mode, auto, source } = route.tls;
  return `${mode}${auto ? ' auto' : ''}${source === null ? '' : ` ${source}`}`;
}

/** One resource in YAML; `spec` is indented by two here. */
export function resource(kind: string, at: string, spec: string, created = ''): string {
  const group = kind === 'PeerAuthentication' || kind === 'AuthorizationPolicy' ? 'security' : 'networking';
  const [namespace, name] = at.split('/');
  const time = created === '' ? '' : `, creationTimestamp: "${created}"`;
  return [
    '---',
    `apiVersion: ${group}.istio.io/v1`,
    `kind: ${kind}`,
    `metadata: {name: ${name}, namespace: ${namespace}${time}}`,
    'spec:',
    ...spec.split('\n').map((line) => `  ${line}`),
    '',
  ].join('\n');
}
