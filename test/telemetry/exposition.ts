/** Reads Prometheus text back, and makes labels: for the telemetry tests. */
import type { PeerLabels } from '../../telemetry/mesh-metrics.ts';

export interface Line {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** Strict: throws where a line is neither comment, blank nor a sample. */
export function parseExposition(text: string): Line[] {
  const lines: Line[] = [];
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# ')) continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null) throw new Error(`not a sample: ${line}`);
    const [, name = '', labelText = '', valueText = ''] = match;
    const labels: Record<string, string> = {};
    let rest = labelText;
    while (rest !== '') {
      const label = /^([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/.exec(rest);
      if (label === null) throw new Error(`bad labels: ${rest}`);
      const [whole, key = '', value = ''] = label;
      if (key in labels) throw new Error(`label twice: ${key}`);
      labels[key] = value.replace(/\\(["\\n])/g, (_, c: string) => (c === 'n' ? '\n' : c));
      rest = rest.slice(whole.length);
    }
    const value = valueText === '+Inf' ? Number.POSITIVE_INFINITY : Number(valueText);
    if (Number.isNaN(value) && valueText.toLowerCase() !== 'nan') throw new Error(`bad value: ${line}`);
    lines.push({ name, labels, value });
  }
  return lines;
}

/** The one sample of that name and those labels, among others; throws unless there is exactly one. */
export function sampleOf(lines: readonly Line[], name: string, labels: Record<string, string> = {}): number {
  const found = lines.filter(
    (line) =>
      line.name === name && Object.entries(labels).every(([key, value]) => line.labels[key] === value),
  );
  if (found.length !== 1 || found[0] === undefined) throw new Error(`${found.length} samples of ${name}`);
  return found[0].value;
}

/** Labels as the inbound side of `orders` sees `web`, with some replaced. */
export function labelsWith(overrides: Partial<PeerLabels> = {}): PeerLabels {
  return {
    reporter: 'destination',
    sourceWorkload: 'web',
    sourceCanonicalService: 'web',
    sourceCanonicalRevision: 'v1',
    sourceNamespace: 'shop',
    sourcePrincipal: 'spiffe://cluster.local/ns/shop/sa/web',
    sourceApp: 'web',
    sourceVersion: 'v1',
    destinationWorkload: 'orders',
    destinationNamespace: 'shop',
    destinationPrincipal: 'spiffe://cluster.local/ns/shop/sa/orders',
    destinationApp: 'orders',
    destinationVersion: 'v2',
    destinationService: 'orders.shop.svc.cluster.local',
    destinationCanonicalService: 'orders',
    destinationCanonicalRevision: 'v2',
    destinationServiceName: 'orders',
    destinationServiceNamespace: 'shop',
    connectionSecurityPolicy: 'mutual_tls',
    ...overrides,
  };
}
