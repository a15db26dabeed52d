/** The one table of reasons for refusing or failing: it serves log lines, metrics and answers alike. */

export interface Reason {
  /** What happened, one sentence without its subject. */
  readonly sentence: string;
  /** Envoy's response flag (`%RESPONSE_FLAGS%`), or `-`. */
  readonly flag: string;
  /** What would have to change. */
  readonly hint: string;
}

const table = {
  // inbound, before a request is read
  plaintext_to_strict: {
    sentence: 'plaintext arrived on a port whose mode is STRICT',
    flag: '-',
    hint: 'give the client a sidecar, or set this port to PERMISSIVE while migrating',
  },
  mtls_to_disabled: {
    sentence: "a mesh peer's mTLS was closed on a port whose mode has become DISABLE",
    flag: '-',
    hint: 'nothing is wrong where its sidecar knows of the switch: it connects anew in plaintext; else see --mode-grace',
  },
  plaintext_to_hbone: {
    sentence: 'plaintext arrived on the HBONE port, which takes mutual TLS alone',
    flag: '-',
    hint: 'only a peer that speaks HBONE belongs there; the app has ports of its own',
  },
  bad_connect: {
    sentence: 'a CONNECT on a tunnel asks for what is not ours to give',
    flag: '-',
    hint: "its authority must be an address of this workload and a port of its app: check the caller's registry",
  },
  tls_not_istio: {
    sentence: 'TLS without an Istio ALPN arrived on a PERMISSIVE port declared HTTP',
    flag: '-',
    hint: "declare the port TCP if the app itself speaks TLS, or let the client's sidecar originate mTLS",
  },
  no_first_byte: {
    sentence: 'the peer connected and sent nothing in time',
    flag: '-',
    hint: 'a client of a server-first protocol needs a sidecar of its own, or a PERMISSIVE port; else the client is gone',
  },
  closed_unused: {
    sentence: 'the peer connected and closed without sending anything',
    flag: '-',
    hint: 'a TCP health check, a port scan, or a client that gave up',
  },
  bad_client_hello: {
    sentence: 'TLS: the first bytes begin as a ClientHello but make none',
    flag: '-',
    hint: 'check what the client speaks',
  },
  tls_handshake_timeout: {
    sentence: 'TLS: the handshake did not finish in time',
    flag: '-',
    hint: 'check the network between the peers, or raise --handshake-timeout',
  },
  tls_handshake_failed: {
    sentence: 'TLS: the handshake failed',
    flag: '-',
    hint: "see detail: OpenSSL's reason, or what the other side does not take; its own oarlock handshakes or log tells more",
  },
  no_peer_certificate: {
    sentence: 'TLS: the peer presented no certificate',
    flag: '-',
    hint: 'the client must speak mutual TLS with a SPIFFE certificate',
  },
  untrusted_issuer: {
    sentence: "TLS: the peer's certificate was not issued by a CA of our trust bundle",
    flag: '-',
    hint: 'both sidecars must share a root, see GET /certs on each admin port',
  },
  expired: {
    sentence: "TLS: the peer's certificate has expired or is not yet valid",
    flag: '-',
    hint: "check the peer's renewal and both clocks",
  },
  revoked: {
    sentence: "TLS: the peer's certificate, or the CA that issued it, is on a revocation list",
    flag: '-',
    hint: 'a new certificate lets the peer in again, if it should be: see --crl and its file',
  },
  bad_certificate: {
    sentence: "TLS: the peer's certificate may not be used for this",
    flag: '-',
    hint: 'see detail: its key usage, its issuer, its path length or a weak signature; issue it anew by a proper profile',
  },
  peer_expired: {
    sentence: "TLS: the connection was closed, for the peer's certificate is at its end",
    flag: '-',
    hint: 'nothing is wrong where the peer renews in time: it connects anew with its new certificate',
  },
  too_many_handshakes: {
    sentence: 'TLS: a stalled handshake gave way to others, for the limit of handshakes at once is reached',
    flag: '-',
    hint: 'look for a peer that begins handshakes and does not finish them; see --max-handshakes',
  },
  shunned: {
    sentence:
      'TLS: no handshake is made with this address for a while, for what one of its certificates cost',
    flag: 'UF',
    hint: 'see GET /handshakes for what was presented: no honest peer does that; it ends by itself within 10 minutes',
  },
  bad_spiffe_id: {
    sentence: "TLS: the peer's certificate does not carry exactly one valid SPIFFE URI",
    flag: '-',
    hint: 'issue the certificate with one spiffe:// URI SAN and no other URI',
  },
  untrusted_trust_domain: {
    sentence: "TLS: the peer's trust domain is neither ours nor an alias of it",
    flag: '-',
    hint: 'add it to trustDomainAliases in the mesh config if it should be trusted',
  },
  resumption_refused: {
    sentence: 'TLS: a resumed session could not be verified again',
    flag: '-',
    hint: 'the peer will make a full handshake on its next connection',
  },
  too_many_connections: {
    sentence: 'the limit of open connections is reached',
    flag: 'OM',
    hint: 'raise --max-connections or look for a client that leaks them',
  },
  too_many_resets: {
    sentence: 'an HTTP/2 peer reset most of the streams it opened before their answer',
    flag: 'UO',
    hint: 'an attack, or a client that gives up too early; see --max-stream-resets',
  },
  draining: {
    sentence: 'the sidecar is stopping',
    flag: '-',
    hint: 'retry on another endpoint',
  },
  not_redirected: {
    sentence: 'a connection came to a port of capture by itself, not redirected there',
    flag: '-',
    hint: 'nothing should dial this port; if the app did, its rules of capture are missing: see oarlock iptables --check',
  },
  no_credentials: {
    sentence: 'we have no valid certificate of our own',
    flag: 'UF',
    hint: 'see the CA lines in the log and GET /certs',
  },
  // decisions
  policy_denied: {
    sentence: 'an AuthorizationPolicy denied it',
    flag: '-',
    hint: 'an ALLOW policy must match this peer and request, and no DENY policy may: see policy, detail and request',
  },
  token_invalid: {
    sentence: "a RequestAuthentication refused the request's token",
    flag: '-',
    hint: 'see detail for what is wrong with the token, and policy for who asks; a request without a token is not refused by this',
  },
  ext_authz_denied: {
    sentence: 'the external authorizer denied it',
    flag: 'UAEX',
    hint: 'the provider named in detail answered so: see its own log',
  },
  ext_authz_failed: {
    sentence: 'the external authorizer could not be asked',
    flag: 'UAEX',
    hint: 'see detail; is the provider running, and reachable from this sidecar by its ServiceEntry?',
  },
  body_too_large: {
    sentence: 'the request body is longer than the external authorizer may be shown',
    flag: '-',
    hint: "raise the provider's includeRequestBodyInCheck.maxRequestBytes, or set allowPartialMessage",
  },
  too_many_held_bodies: {
    sentence: 'the limit of request bodies held back for the external authorizer is reached',
    flag: 'OM',
    hint: 'raise --max-held-total, or look for clients that send large bodies slowly',
  },
  // requests
  bad_request: {
    sentence: 'the request is not valid HTTP',
    flag: 'DPE',
    hint: 'see detail for what the parser refused',
  },
  head_too_large: {
    sentence: 'the request head exceeds the limit',
    flag: 'DPE',
    hint: 'send fewer or smaller header fields, or raise --max-head-bytes',
  },
  request_timeout: {
    sentence: 'the request head, or a body held back for the external authorizer, did not arrive in time',
    flag: '-',
    hint: 'raise --request-head-timeout if the client is honest and slow, --handshake-timeout for a held body or a port that nobody declared',
  },
  downstream_closed: {
    sentence: 'the downstream closed before the answer was complete',
    flag: 'DC',
    hint: 'the caller gave up or died',
  },
  idle_timeout: {
    sentence: 'no byte moved either way for too long',
    flag: 'SI',
    hint: 'raise --idle-timeout',
  },
  // outbound
  no_route: {
    sentence: 'no service of that host and port is known',
    flag: 'NR',
    hint: 'add a ServiceEntry, or list the host in the Sidecar egress listener',
  },
  no_endpoint: {
    sentence: 'the service has no endpoint',
    flag: 'UH',
    hint: 'add a WorkloadEntry whose labels the ServiceEntry selects',
  },
  connect_failed: {
    sentence: 'the upstream could not be connected',
    flag: 'UF',
    hint: 'is it running, and is the address right?',
  },
  tunnel_refused: {
    sentence: 'the peer did not let us connect through its tunnel',
    flag: 'UF',
    hint: "401: the peer's AuthorizationPolicy denies us; 400: the address or port is none of its own, so check the registry",
  },
  tunnel_broken: {
    sentence: 'a tunnel was closed because the peer broke the rules of HTTP/2 or of fair use',
    flag: '-',
    hint: 'see detail for the error code it was told; an Istio peer does not do this, so ask who the peer is',
  },
  identity_mismatch: {
    sentence: 'TLS: secure naming: the server is not who it should be',
    flag: 'UF',
    hint: 'the certificate is valid but its identity is none of the expected ones: a wrong endpoint, a wrong service account, or an impostor',
  },
  bad_tls_files: {
    sentence: "TLS: the DestinationRule's certificate files could not be used",
    flag: 'UF',
    hint: 'check clientCertificate, privateKey and caCertificates',
  },
  upstream_closed: {
    sentence: 'the upstream closed before its answer was complete',
    flag: 'UC',
    hint: 'see the upstream app or sidecar',
  },
  upstream_reset: {
    sentence: 'the upstream reset the stream before its answer was complete',
    flag: 'UR',
    hint: 'see detail for the HTTP/2 error code it gave, and the upstream app or sidecar',
  },
  too_many_waiting: {
    sentence: 'the limit of requests that wait for an HTTP/2 connection is reached',
    flag: 'UO',
    hint: 'is the upstream slow to accept connections? see --max-waiting-streams and --pool-size',
  },
  bad_response: {
    sentence: "the upstream's answer is not valid HTTP",
    flag: 'UPE',
    hint: 'see detail for what the parser refused',
  },
  app_unreachable: {
    sentence: 'the app behind this sidecar did not accept the connection',
    flag: 'UF',
    hint: "is it listening where it was called, or where the Sidecar ingress entry's defaultEndpoint says?",
  },
} as const satisfies Record<string, Reason>;

export type ReasonCode = keyof typeof table;
export const reasons: Readonly<Record<ReasonCode, Reason>> = table;
export const reasonCodes = Object.keys(table) as readonly ReasonCode[];
