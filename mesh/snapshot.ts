/** The compiled set of resources as one workload sees it: what config hands to the data path, swapped whole. */
import type { MeshAccessLog } from './access-format.ts';
import type { Authorization } from './decision.ts';
import type { ExtAuthzProvider } from './ext-authz.ts';
import type { Identity } from './identity.ts';
import type { Route } from './route.ts';
import type { TokenRules } from './tokens.ts';
import type { Protocol, ServiceName, Workload } from './workload.ts';

export type Mode = 'STRICT' | 'PERMISSIVE' | 'DISABLE';

export interface EffectiveMode {
  readonly mode: Mode;
  /** `NS/NAME` of the PeerAuthentication that set it; null for the default. */
  readonly source: string | null;
}

/** How paths are normalized before matching and forwarding (MeshConfig `pathNormalization`). */
export type PathNormalization = 'NONE' | 'BASE' | 'MERGE_SLASHES' | 'DECODE_AND_MERGE_SLASHES';

/** What happens to X-Forwarded-Client-Cert (MeshConfig `defaultConfig.proxyHeaders.forwardedClientCert`). */
export type ForwardedClientCert =
  | 'SANITIZE'
  | 'FORWARD_ONLY'
  | 'APPEND_FORWARD'
  | 'SANITIZE_SET'
  | 'ALWAYS_FORWARD_ONLY';

/** What TLS between sidecars may use (MeshConfig `meshMTLS`). */
export interface MeshTlsPolicy {
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
  /** OpenSSL's names, of TLS 1.2 and 1.3 alike; empty: the default ones. */
  readonly cipherSuites: readonly string[];
  /** Key exchange groups in order of preference, OpenSSL's names; empty: the default ones. */
  readonly ecdhCurves: readonly string[];
}

/** Roots that mesh config adds (MeshConfig `caCertificates`): either a PEM bundle or the URL of a SPIFFE one. */
export interface CaCertificates {
  readonly pem: string | null;
  /** https; answers a SPIFFE bundle (JWK set). */
  readonly spiffeBundleUrl: string | null;
  /** Whom they vouch for; empty: our trust domain and its aliases. */
  readonly trustDomains: readonly string[];
}

/** The MeshConfig fields in force. */
export interface MeshSettings {
  readonly rootNamespace: string;
  readonly trustDomain: string;
  readonly trustDomainAliases: readonly string[];
  /** `ALLOW_ANY` passes unknown hosts through, `REGISTRY_ONLY` refuses them. */
  readonly outboundTrafficPolicy: 'ALLOW_ANY' | 'REGISTRY_ONLY';
  readonly pathNormalization: PathNormalization;
  readonly forwardedClientCert: ForwardedClientCert;
  readonly meshTls: MeshTlsPolicy;
  readonly caCertificates: readonly CaCertificates[];
}

/** A socket address of an app; `path` for a Unix socket. */
export type AppAddress =
  | {
      readonly host: string;
      readonly port: number;
      /** The address the app sees us come from: what captured connections need, lest they be captured again. */
      readonly from?: string;
    }
  | { readonly path: string };

/** `Sidecar` `ingress` entry: a local port of ours in front of the app. */
export interface IngressListener {
  /** Null: bind where `--bind` says. */
  readonly bind: string | null;
  readonly port: number;
  readonly protocol: Protocol;
  readonly defaultEndpoint: AppAddress;
}

/** `Sidecar` `egress` entry with a port: a local port of ours that reaches the hosts it lists. */
export interface EgressListener {
  readonly bind: string;
  readonly port: number;
  readonly protocol: Protocol;
  /** Fully qualified service hosts this listener reaches, in the Sidecar's order. */
  readonly hosts: readonly string[];
}

/** What original destinations mean. Addresses are IPv4 or IPv6 texts in their canonical form, never mapped ones. */
export interface Captured {
  /** Outbound: the hosts of services that claim an address and port for themselves (a VIP), oldest first; empty: none does. */
  hostsAt(address: string, port: number): readonly string[];
  /**
   * Outbound: the way to whoever is at an address, itself: a pod or endpoint called by its own address. Its only endpoint
   * is that address and port; where the workload there is in the mesh, TLS and expected identities are its own.
   * Null: the registry knows nobody there.
   */
  routeAt(address: string, port: number): Route | null;
  /** Outbound: the host that a Host header means at a port, short forms of our namespace too; null: no service. */
  hostNamed(name: string, port: number): string | null;
  /** The same of an SNI: of services declared as TLS that have no address of their own. */
  hostOfSni(sni: string, port: number): string | null;
  /** Outbound: true where some service is meant by name at a port: what is spoken there must be looked at. */
  namesAt(port: number): boolean;
  /** Outbound: the TCP service without an address of its own that has a port whatever the address; null: none. */
  hostAnywhere(port: number): string | null;
  /** Inbound: the Sidecar ingress entry of a captured port; null: it goes to the app at that port. */
  ingressAt(port: number): IngressListener | null;
}

export interface Snapshot {
  /** Counts up with each swap. */
  readonly generation: number;
  readonly mesh: MeshSettings;
  readonly accessLog: MeshAccessLog;
  readonly workload: Workload;
  readonly identity: Identity;
  readonly ingress: readonly IngressListener[];
  readonly egress: readonly EgressListener[];
  readonly authorization: Authorization;
  /** RequestAuthentication of this workload. */
  readonly tokens: TokenRules;
  /** Mesh config's external authorization providers, by name. */
  readonly extAuthz: ReadonlyMap<string, ExtAuthzProvider>;
  /** Mode of one inbound port of this workload. Constant time. */
  modeOf(port: number): EffectiveMode;
  /** The service an inbound port serves, for metrics; null where no service claims it. */
  serviceOf(port: number): ServiceName | null;
  /** A port of this workload: a service's, an ingress entry's, or one its WorkloadEntry or Pod names. */
  declaresPort(port: number): boolean;
  /** Where peers dial this workload's HBONE: 15008, or the WorkloadEntry's port named `hbone`. */
  readonly hbonePort: number;
  /** Declared protocol of an inbound port; `auto` where nobody declared one. */
  protocolOf(port: number): Protocol;
  /**
   * The route to a service host and port, or to a subset of its DestinationRule; null: unknown. Without a subset it is
   * cached, constant time after the first call.
   */
  route(host: string, port: number, subset?: string): Route | null;
  /** The ports of the service that a host means, in its own order; empty where it is unknown. */
  portsOf(host: string): readonly number[];
  /** What a captured connection's original destination means to this workload. */
  readonly captured: Captured;
  /** The workload behind a verified identity where exactly one has it; else null. For metrics only. */
  workloadByIdentity(identity: Identity): Workload | null;
  /** The workload at an address where exactly one has it; else null. For metrics of plaintext peers only. */
  workloadByAddress(ip: string): Workload | null;
  /** Warnings of the whole set (fields accepted but not honoured …), for log and `/snapshot`. */
  readonly warnings: readonly string[];
}
