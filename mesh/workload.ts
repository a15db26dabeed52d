/** What a workload is (a pod, a VM, a process), and the protocols its ports can speak. */

/** `http2`: gRPC too; an upstream of such a port is spoken to in HTTP/2. `auto`: nobody declared it, so the first bytes decide. */
export type Protocol = 'http' | 'http2' | 'tcp' | 'auto';

/** True where HTTP, of whatever version, was declared: each request is judged on its own. */
export function isHttp(protocol: Protocol): boolean {
  return protocol === 'http' || protocol === 'http2';
}

/** A pod, VM or process as policy and registry see it. */
export interface Workload {
  /** A Kubernetes Pod; else a WorkloadEntry, an inline endpoint, or one given by flags. */
  readonly kind?: 'Pod';
  readonly name: string;
  readonly namespace: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly serviceAccount: string;
  /** IP addresses or, for a WorkloadEntry, a host name or `unix://` path. */
  readonly addresses: readonly string[];
  /** Port name → number on the workload (WorkloadEntry `ports`). */
  readonly ports: ReadonlyMap<string, number>;
  /** WorkloadEntry `weight`; 1 where none is given. */
  readonly weight: number;
}

/** A service's name as metrics and logs show it. */
export interface ServiceName {
  /** Fully qualified host, e.g. `orders.shop.svc.cluster.local`. */
  readonly host: string;
  /** Short name, e.g. `orders`. */
  readonly name: string;
  readonly namespace: string;
}

/**
 * Reads a port's protocol as Istio does: an explicit `protocol` or appProtocol first, else the port
 * name's prefix up to the first dash (`http-web`, `tcp`). HTTP/2 and gRPC are `tcp` until the forwarder
 * can read them frame by frame: HTTP rules then close such a port rather than being skipped.
 */
export function protocolOf(declared: string | undefined, portName: string | undefined): Protocol {
  const word = (declared ?? portName?.split('-', 1)[0] ?? '').toLowerCase();
  if (word === 'http') return 'http';
  if (KNOWN_TCP.has(word)) return 'tcp';
  return 'auto';
}

const KNOWN_TCP = new Set([
  'tcp',
  'tls',
  'https',
  'mongo',
  'mysql',
  'redis',
  'http2',
  'grpc',
  'grpc-web',
  'udp',
]);
