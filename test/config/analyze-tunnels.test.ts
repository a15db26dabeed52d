/** Checks of HBONE: labels and ports that make no tunnel, rules that turn one off, and what a tunnel makes right. */
import { entry, peer, rule, run, SHOP, WEB } from './analyze-cases.ts';

const LABEL = 'networking.istio.io/tunnel';

/** A workload behind `web` that takes HBONE, or says something like it. */
const machine = (spec: string, metadata = ''): string => `---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: vm
  namespace: shop
${metadata}spec:
  labels:
    app: web
${spec}`;
const VM = '  address: 10.0.0.9\n  serviceAccount: web\n';
const tunnelled = (account = '  serviceAccount: web\n'): string =>
  machine(`    ${LABEL}: http\n  address: 10.0.0.9\n${account}`);

run('labels of tunnels', {
  http: tunnelled(),
  'something else': machine(`    ${LABEL}: http3 #! tunnelLabel\n${VM}`),
  'upper case': machine(`    ${LABEL}: HTTP #! tunnelLabel\n${VM}`),
  nothing: machine(`    ${LABEL}: "" #! tunnelLabel\n${VM}`),
  'in metadata': machine(VM, `  labels:\n    ${LABEL}: none #! tunnelLabel\n`),
  'in metadata, which beats spec': machine(`    ${LABEL}: none\n${VM}`, `  labels:\n    ${LABEL}: http\n`),
  'of a Pod': `---
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  labels:
    app: web
    ${LABEL}: h2 #! tunnelLabel
status: {podIP: 10.0.0.9}
`,
  'of an endpoint in its service': entry(
    'in',
    `spec:
  hosts: [in.example]
  resolution: STATIC
  ports: [{number: 80, name: http}]
  endpoints:
    - address: 10.0.0.8
      labels:
        ${LABEL}: http
    - address: 10.0.0.9
      labels:
        ${LABEL}: https #! tunnelLabel`,
  ),
  'at a socket path': machine(
    `    ${LABEL}: http #! tunnelLabel\n  address: unix:///run/web\n  serviceAccount: web\n`,
  ),
});

run('ports of tunnels', {
  'with the label': machine(`    ${LABEL}: http\n${VM}  ports:\n    hbone: 25008\n`),
  'without the label': machine(`${VM}  ports:\n    hbone: 25008 #! tunnelPortUnused\n`),
  'with another label': machine(`    ${LABEL}: x #! tunnelLabel\n${VM}  ports:\n    hbone: 25008\n`),
  'one of the app': machine(
    `    ${LABEL}: http\n${VM}  ports:\n    http: 25008\n    hbone: 25008 #! tunnelPortShared\n`,
  ),
});

const OPEN = peer('open', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`);
const policy = (mode: string, more = ''): string =>
  `spec:\n  host: web\n  trafficPolicy:\n    tls:\n      mode: ${mode}${more}`;

run('rules that turn tunnels off', {
  DISABLE: rule('r', policy('DISABLE #! tunnelOff')) + tunnelled() + OPEN,
  'DISABLE, to STRICT: it fails, and is told so':
    rule('r', policy('DISABLE #! notMutualToStrict')) + tunnelled(),
  SIMPLE: rule('r', policy('SIMPLE #! tunnelOff', '\n      caCertificates: /ca')) + tunnelled() + OPEN,
  MUTUAL:
    rule(
      'r',
      policy(
        'MUTUAL #! tunnelOff',
        '\n      clientCertificate: /c\n      privateKey: /k\n      caCertificates: /ca',
      ),
    ) + tunnelled(),
  ISTIO_MUTUAL: rule('r', policy('ISTIO_MUTUAL')) + tunnelled(),
  'nobody asks for one': rule('r', policy('DISABLE')) + OPEN,
  'another port':
    rule(
      'r',
      `spec: {host: "*.shop.svc.cluster.local", trafficPolicy: {portLevelSettings: [{port: {number: 5432}, tls: {mode: DISABLE}}]}}`,
    ) +
    tunnelled() +
    peer('open', 'spec: {mtls: {mode: PERMISSIVE}}'),
  'a subset without it':
    rule(
      'r',
      'spec:\n  host: web\n  subsets: [{name: s, labels: {tier: front}, trafficPolicy: {tls: {mode: DISABLE}}}]',
    ) +
    tunnelled() +
    OPEN,
  'a subset with it':
    rule(
      'r',
      `spec:\n  host: web\n  subsets:\n    - name: s\n      labels: {${LABEL}: http}\n      trafficPolicy:\n        tls:\n          mode: DISABLE #! tunnelOff`,
    ) +
    tunnelled() +
    OPEN,
});

const ONLY = SHOP.replaceAll('labels: {app: web, tier: front}', `labels: {app: web, ${LABEL}: http}`);

run(
  'what a tunnel makes right',
  {
    'ISTIO_MUTUAL to DISABLE':
      rule('r', policy('ISTIO_MUTUAL')) + peer('p', `spec:\n  ${WEB}\n  mtls: {mode: DISABLE}`),
    'no auto mTLS, to STRICT': entry(
      'e',
      'spec:\n  hosts: [web.example.com]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: web}}',
    ),
    'no account': tunnelled(''),
    'no account, outside the mesh by label, and STRICT by a policy of its own':
      machine(
        `    security.istio.io/tlsMode: disabled\n    ${LABEL}: http\n  address: 10.0.0.9\n  serviceAccount: vm\n`,
      ) + peer('w', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`),
  },
  ONLY,
);

run('a service that names nobody, reached by tunnels alone', {
  'expects its workloads': `${entry(
    'anon',
    'spec:\n  hosts: [anon.shop.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: anon}}',
  )}---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: anon, namespace: shop}
spec: {address: 10.0.0.8, labels: {app: anon, ${LABEL}: http}}
`,
});
