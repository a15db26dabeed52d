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
  /** Where it takes HBONE: a WorkloadEntry's port named `hbone`, which is no port of its app; 15008 where none is given. */
  readonly hbonePort?: number;
  /** A Pod whose traffic Istio's CNI leads through the node's ztunnel. */
  readonly ambient?: boolean;
  /** A Pod's inbound ports that rules of capture lead to its sidecar, where its annotations say so; absent: as usual. */
  readonly inboundCapture?: {
    readonly included: '*' | ReadonlySet<number>;
    readonly excluded: ReadonlySet<number>;
  };
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
 * Reads a port's protocol as Istio does (pkg/config/protocol `Parse`, pkg/config/kube `ConvertProtocol`): an explicit
 * word first, else the port name's prefix up to the first dash (`http-web`, `tcp`), without regard to case. Whatever
 * Istio's `IsHTTP2` holds for is `http2`, gRPC-Web too. A word that it does not know, HBONE among them, declares nothing.
 * @param declared `protocol` of a ServiceEntry's or Sidecar's port
 */
export function protocolOf(declared: string | undefined, portName: string | undefined): Protocol {
  const text = (declared ?? portName ?? '').toLowerCase();
  // The one word with a dash in it.
  if (text.startsWith('grpc-web')) return 'http2';
  return WORDS.get(declared === undefined ? (text.split('-', 1)[0] ?? '') : text) ?? 'auto';
}

const WORDS: ReadonlyMap<string, Protocol> = new Map([
  ['http', 'http'],
  ['http_proxy', 'http'],
  ['http2', 'http2'],
  ['grpc', 'http2'],
  ['tcp', 'tcp'],
  ['https', 'tcp'],
  ['tls', 'tcp'],
  ['mongo', 'tcp'],
  ['mysql', 'tcp'],
  ['redis', 'tcp'],
  // Nothing here carries UDP; what comes over TCP to such a port is not to be read as HTTP.
  ['udp', 'tcp'],
]);
