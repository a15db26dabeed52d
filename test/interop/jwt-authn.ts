/** Envoy's jwt_authn filter as istiod configures it for a set of token rules, one listener a set. */
import type { JwtRule } from '../../mesh/tokens.ts';

const TYPE = 'type.googleapis.com/envoy.extensions.filters';

function provider(rule: JwtRule): unknown {
  return {
    issuer: rule.issuer,
    audiences: rule.audiences,
    forward: rule.forwardOriginalToken,
    forward_payload_header: rule.outputPayloadToHeader ?? '',
    payload_in_metadata: 'payload',
    normalize_payload_in_metadata: {
      space_delimited_claims: [...new Set([...rule.spaceDelimitedClaims, 'permission', 'scope'])].sort(),
    },
    claim_to_headers: rule.outputClaimToHeaders.map(({ header, claim }) => ({
      header_name: header,
      claim_name: claim,
    })),
    from_headers: rule.fromHeaders.map(({ name, prefix }) => ({ name, value_prefix: prefix })),
    from_params: rule.fromParams,
    from_cookies: rule.fromCookies,
    local_jwks: { inline_string: rule.jwks },
  };
}

/** The requirement istiod builds of rules: see `convertToEnvoyJwtConfig`, and its successor for `presence`. */
function requirement(rules: readonly JwtRule[]): unknown {
  const strict = rules.map((_, i) => ({ provider_name: `origins-${i}` }));
  const lenient = strict.map((one) => ({ requires_any: { requirements: [one, { allow_missing: {} }] } }));
  if (rules.some((rule) => rule.required)) {
    const each = rules.map((rule, i) => (rule.required ? strict[i] : lenient[i]));
    return each.length === 1 ? each[0] : { requires_all: { requirements: each } };
  }
  if (rules.length === 1) return lenient[0];
  return { requires_any: { requirements: [...strict, { requires_all: { requirements: lenient } }] } };
}

function listener(port: number, rules: readonly JwtRule[]): unknown {
  const jwt = {
    '@type': `${TYPE}.http.jwt_authn.v3.JwtAuthentication`,
    providers: Object.fromEntries(rules.map((rule, i) => [`origins-${i}`, provider(rule)])),
    rules: [{ match: { prefix: '/' }, requires: requirement(rules) }],
    bypass_cors_preflight: true,
  };
  const claims = { key: 'x-claims', value: '%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload)%' };
  const hcm = {
    '@type': `${TYPE}.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'jwt',
    normalize_path: true,
    route_config: {
      virtual_hosts: [
        {
          name: 'app',
          domains: ['*'],
          request_headers_to_add: [{ header: claims }],
          routes: [{ match: { prefix: '/' }, route: { cluster: 'app' } }],
        },
      ],
    },
    http_filters: [
      { name: 'jwt', typed_config: jwt },
      { name: 'router', typed_config: { '@type': `${TYPE}.http.router.v3.Router` } },
    ],
  };
  return { address: address(port), filter_chains: [{ filters: [{ name: 'hcm', typed_config: hcm }] }] };
}

function address(port: number): unknown {
  return { socket_address: { address: '127.0.0.1', port_value: port } };
}

/** An Envoy that verifies tokens before an app. It tells the app the claims in `x-claims`. */
export function jwtEnvoy(
  appPort: number,
  listeners: readonly { readonly port: number; readonly rules: readonly JwtRule[] }[],
): string {
  const endpoints = [{ lb_endpoints: [{ endpoint: { address: address(appPort) } }] }];
  return JSON.stringify({
    static_resources: {
      listeners: listeners.map(({ port, rules }) => listener(port, rules)),
      clusters: [{ name: 'app', type: 'STATIC', load_assignment: { cluster_name: 'app', endpoints } }],
    },
  });
}
