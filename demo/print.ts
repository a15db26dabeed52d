/** What the demo says once it is up: a text for people, or one line of JSON. */
import { type Mesh, type WorkloadName, workloads } from './mesh.ts';
import { type Try, tryList } from './try.ts';

/** One line for programs (docs/CLI.md). */
export function meshJson(mesh: Mesh): string {
  const { dir, config, services, sidecars } = mesh;
  return `${JSON.stringify({ ready: true, dir, config, services, sidecars, try: tryList(mesh) })}\n`;
}

/** The text. @param seconds since the start */
export function meshText(mesh: Mesh, seconds: number): string {
  const { dir, services, ports } = mesh;
  return `
A small mesh is up after ${seconds.toFixed(1)} s, and traffic runs through it twice a second:

  legacy ── plaintext ──▶ web ══ mutual TLS ══▶ orders ══ HBONE ══▶ payments

  HBONE        one mutual TLS connection, a tunnel, carries all of a caller's connections
  mutual TLS   a TLS connection for each of them: web → orders is kept so, as Istio's Envoy sidecars speak

Three apps that know nothing of TLS, and an Oarlock process beside each:

${workloads.map((name) => workloadText(name, mesh)).join('\n\n')}

  the CA    issues their certificates at ${services.ca.address}
  legacy    has no sidecar and no certificate; it calls 127.0.0.1:${ports.webFront}

All it writes is in ${dir}:

  config/   the mesh's YAML, yours to edit while it runs
  logs/     a log for each process; NAME-sidecar-access.log has a line for each request

Commands to paste into another terminal, and what comes back:

${tryList(mesh).map(tryText).join('\n')}
Ctrl-C stops all of it.
`;
}

function workloadText(name: WorkloadName, mesh: Mesh): string {
  const { identity, admin, metrics, log } = mesh.sidecars[name];
  const others = portsOf(mesh, name, 'ingress:').map((port) => `${port} ${modeOf(port, mesh)}`);
  const { hbone } = mesh.sidecars[name].ports;
  if (hbone !== undefined) others.push(`${hbone} HBONE`);
  const own = portsOf(mesh, name, 'egress:').map((port) => `${port} → ${calleeOf(port, mesh)}`);
  const rows = [
    ['app', mesh.services[name].address ?? ''],
    ['identity', identity],
    ['for others', others.join(', ')],
    ['for its app', own.join(', ') || 'none: it calls nobody'],
    ['admin', admin],
    ['metrics', metrics],
    ['log', log],
  ];
  return rows
    .map(([what = '', text], i) => `  ${(i === 0 ? name : '').padEnd(10)}${what.padEnd(13)}${text}`)
    .join('\n');
}

/** The sidecar's open ports of one direction, from its ready line. */
function portsOf({ sidecars }: Mesh, name: WorkloadName, direction: 'ingress:' | 'egress:'): number[] {
  return Object.entries(sidecars[name].ports)
    .filter(([key]) => key.startsWith(direction))
    .map(([, port]) => port);
}

function modeOf(port: number, { ports }: Mesh): string {
  if (port === ports.webFront) return 'PERMISSIVE';
  return port === ports.paymentsHealth ? 'DISABLE' : 'STRICT';
}

function calleeOf(port: number, { ports }: Mesh): string {
  if (port === ports.webToOrders) return 'orders';
  return port === ports.webToLedger ? 'ledger' : 'payments';
}

function tryText({ title, command, expect, status }: Try, index: number): string {
  const ends = status === 0 ? '' : `, exit status ${status}`;
  return `${index + 1}. ${title}:\n\n   ${command}\n\n   → ${expect}${ends}\n`;
}
