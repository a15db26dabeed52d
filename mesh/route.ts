/** How the outbound side reaches a host: its endpoints and the TLS spoken to each. */
import { hostPort } from './text.ts';
import type { Protocol, ServiceName, Workload } from './workload.ts';

/** DestinationRule `tls.mode`. */
export type TlsMode = 'DISABLE' | 'SIMPLE' | 'MUTUAL' | 'ISTIO_MUTUAL';

export interface RouteTls {
  /** The DestinationRule's mode, else what auto mTLS gives (ISTIO_MUTUAL if any endpoint is in the mesh). */
  readonly mode: TlsMode;
  /** True where no DestinationRule set the mode. */
  readonly auto: boolean;
  /** Server name sent; null where none is. ISTIO_MUTUAL: `outbound_.PORT_._.HOST` or `outbound_.PORT_.SUBSET_.HOST`. */
  readonly sni: string | null;
  /** Secure naming's list of SPIFFE URIs (ISTIO_MUTUAL) or SANs (SIMPLE, MUTUAL). Empty: any, with a warning. */
  readonly expectedIdentities: readonly string[];
  /** `NS/NAME` of the DestinationRule that decided; null for auto mTLS. */
  readonly source: string | null;
  /** File paths, MUTUAL and SIMPLE only. */
  readonly clientCertificate: string | null;
  readonly privateKey: string | null;
  readonly caCertificates: string | null;
  readonly caCrl: string | null;
  /** The Kubernetes secret that should hold these files: nothing here can read it, so nothing is dialled. */
  readonly credentialName: string | null;
  readonly insecureSkipVerify: boolean;
}

/** The HBONE tunnel that leads to an endpoint: HTTP/2 CONNECT over mutual TLS. */
export interface EndpointTunnel {
  /** Where the peer takes HBONE. */
  readonly port: number;
  /** The SPIFFE URI of the workload behind it. */
  readonly identity: string;
  /** Who may answer there: a rule's subjectAltNames, else that workload and whom its service names. Never empty. */
  readonly expectedIdentities: readonly string[];
}

export interface Endpoint {
  readonly address: string;
  readonly port: number;
  /** The mode spoken to this endpoint. */
  readonly tls: TlsMode;
  readonly weight: number;
  /** The workload behind it, where the registry knows one. */
  readonly workload: Workload | null;
  /** How it is reached by HBONE; null: by a connection of its own. Where set, `tls` is ISTIO_MUTUAL. */
  readonly tunnel: EndpointTunnel | null;
}

/** `ADDRESS:PORT` where an endpoint's tunnel is dialled; null: it has none. */
export function tunnelAddress({ address, tunnel }: Endpoint): string | null {
  return tunnel === null ? null : hostPort(address, tunnel.port);
}

export interface Route {
  readonly service: ServiceName;
  /** The service's port. */
  readonly port: number;
  readonly protocol: Protocol;
  readonly tls: RouteTls;
  readonly endpoints: readonly Endpoint[];
  /**
   * ServiceEntry resolution NONE or DYNAMIC_DNS: the caller's own destination is the endpoint, on this port, and `endpoints` is
   * empty. Null: they are the endpoints.
   */
  readonly ownPort: number | null;
  readonly warnings: readonly string[];
}
