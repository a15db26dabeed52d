/** Oarlock itself: `oarlock run --intercept none` as anybody would start it, one thread a side. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nodeScript } from '../children.ts';
import type { PortPeer, Side } from './peer.ts';

export const oarlock: PortPeer = {
  name: 'Oarlock',
  judges: true,
  groups: ['X25519MLKEM768', 'X25519', 'P-256'],
  note: 'ALLOW by principal, STRICT, SPIFFE URIs checked, X-Forwarded-Client-Cert set, metrics, JSON log; one thread',
  missing: () => null,
  command: (side) => {
    const workload = side.role === 'caller' ? 'web' : 'orders';
    // Apart from the log, as anybody has it: the folder of the resources is watched.
    const folder = join(side.dir, 'resources');
    mkdirSync(folder, { recursive: true });
    const file = join(folder, 'mesh.yaml');
    writeFileSync(file, side.role === 'caller' ? callerResources(side) : calleeResources(side));
    const args = [
      ...['run', '--config', file, '--workload', `bench/${workload}`, '--intercept', 'none'],
      ...['--bind', '127.0.0.1', '--cert-dir', dirname(side.credentials.cert), '--drain', '1s'],
      ...[
        '--admin-port',
        'off',
        '--health-port',
        'off',
        '--hbone-port',
        hbonePort(side),
        '--metrics-port',
        '0',
      ],
      ...['--log-level', 'warn', '--access-log', side.accessLog ? join(side.dir, 'access.log') : 'off'],
    ];
    return nodeScript('cli/main.ts', args, side.nodeFlags);
  },
};

function hbonePort({ role, listen, tunnelled }: Side): string {
  return role === 'callee' && tunnelled !== null ? String(listen) : 'off';
}

const DECLARED = {
  http1: { name: 'http', protocol: 'HTTP' },
  http2: { name: 'http2', protocol: 'HTTP2' },
  tcp: { name: 'tcp', protocol: 'TCP' },
} as const;

function port(side: Side, number: number): string {
  const { name, protocol } = DECLARED[side.protocol];
  return `{number: ${number}, name: ${name}, protocol: ${protocol}}`;
}

/** @param reached the port that the callee's side is dialled at: for each connection, or for a tunnel of many */
function callee({ protocol, tunnelled }: Side, reached: number): string {
  const { name } = DECLARED[protocol];
  const ports = tunnelled === null ? `${name}: ${reached}` : `${name}: ${tunnelled}, hbone: ${reached}`;
  const tunnel = tunnelled === null ? '' : ', networking.istio.io/tunnel: http';
  return `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders, namespace: bench}
spec: {address: 127.0.0.1, labels: {app: orders${tunnel}}, serviceAccount: orders, ports: {${ports}}}`;
}

function callerResources(side: Side): string {
  const { listen, dial } = side;
  return `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: bench}
spec:
  hosts: [orders.bench.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [${port(side, listen)}]
  workloadSelector: {labels: {app: orders}}
---${callee(side, dial)}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: bench}
spec: {address: 127.0.0.1, labels: {app: web}, serviceAccount: web}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: bench}
spec:
  workloadSelector: {labels: {app: web}}
  egress:
  - port: ${port(side, listen)}
    captureMode: NONE
    hosts: [./orders.bench.svc.cluster.local]
${meshConfig(side)}${modeAndPolicy('STRICT')}`;
}

function calleeResources(side: Side): string {
  return `${callee(side, side.listen)}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: orders, namespace: bench}
spec:
  workloadSelector: {labels: {app: orders}}
  ingress:
  - port: ${port(side, side.tunnelled ?? side.listen)}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:${side.dial}
${meshConfig(side)}${side.role === 'plain' ? mode('DISABLE') : modeAndPolicy('STRICT')}`;
}

function meshConfig({ tls: { groups } }: Side): string {
  return groups === null ? '' : `---\nkind: MeshConfig\nmeshMTLS: {ecdhCurves: [${groups.join(', ')}]}\n`;
}

function mode(mode: string): string {
  return `---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: ${mode}}}
`;
}

function modeAndPolicy(name: string): string {
  return `${mode(name)}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: bench}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/bench/sa/web]}}]}]
`;
}
