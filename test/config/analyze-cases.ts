/** Tables of sets: a comment in the YAML says which check is triggered on its line, and nothing else may be told. */
import t from 'tap';
import { analyze } from '../../config/analyze.ts';
import { parseDocuments } from '../../config/documents.ts';
import { setChecks } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';

/** Two services of a mesh that is STRICT, about which there is nothing to say. */
export const SHOP = `
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: web}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: web, tier: front}, serviceAccount: web, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  addresses: [10.1.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 5432, name: tcp-db, protocol: TCP}]
  workloadSelector: {labels: {app: orders}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: orders, version: v1}, serviceAccount: orders, ports: {http: 8081}}
`;

export function problemsOf(yaml: string): readonly Problem[] {
  return analyze(parseDocuments(yaml, 'mesh.yaml'), {});
}

/** `CODE@LINE` of every problem, sorted. */
function found(yaml: string): readonly string[] {
  return problemsOf(yaml)
    .map(({ code, line }) => `${code}@${line}`)
    .sort();
}

/** The same as the text itself says it: a comment `#! name name` on the line where it is expected. */
function expected(yaml: string): readonly string[] {
  return yaml
    .split('\n')
    .flatMap((line, i) =>
      (line.split('#! ')[1] ?? '')
        .split(' ')
        .filter((name) => name !== '')
        .map((name) => `${setChecks[name as keyof typeof setChecks][0]}@${i + 1}`),
    )
    .sort();
}

export const authz = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
export const peer = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
export const token = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
export const rule = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
export const entry = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
export const sidecar = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;

export const WEB = 'selector: {matchLabels: {app: web}}';
export const ORDERS = 'selector: {matchLabels: {app: orders}}';
/** Asks for no token, so that a RequestAuthentication beside it is the only one that speaks of them. */
export const ISSUER = 'jwtRules: [{issuer: a.com, jwksUri: "https://a.com/keys"}]';

export type Cases = Readonly<Record<string, string>>;

export function run(title: string, cases: Cases, rest = SHOP): void {
  t.test(title, async (t) => {
    for (const [name, yaml] of Object.entries(cases)) {
      const text = yaml + rest;
      t.same(found(text), expected(text), name, { problems: problemsOf(text).map(({ message }) => message) });
    }
  });
}
