/** Checks of HTTP values, tokens, providers and shadowed rules: what triggers each, and a sibling that does not. */
import { authz, ISSUER, ORDERS, run, SHOP, token, WEB } from './analyze-cases.ts';

run('methods, paths and hosts', {
  'lower case': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - to:\n        - operation:\n            methods:\n              - GET\n              - get #! methodCase\n              - purge`,
  ),
  paths: authz(
    'p',
    `spec:
  ${WEB}
  rules:
    - to:
        - operation:
            paths:
              - /a
              - /a/*
              - "*/a"
              - /a/{*}/b
              - a/b #! pathNeverMatches
              - /a?b=c #! pathNeverMatches
              - /a/../b #! pathNeverMatches
              - /%61 #! pathNeverMatches
              - /caf%C3%A9
              - /café #! pathNeverMatches
              - /a%2fb
              - //a`,
  ),
  'a host lets nobody in who names a port': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - to:\n        - operation:\n            hosts:\n              - a.com\n              - a.com:*\n              - "*.b.com"\n              - c.com #! hostWithoutPort`,
  ),
  'a host that is denied': authz(
    'p',
    `spec:\n  ${WEB}\n  action: DENY\n  rules:\n    - to:\n        - operation:\n            ports: ["8080"]\n            hosts:\n              - c.com #! hostWithPort`,
  ),
  'a host that is not allowed': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - to:\n        - operation:\n            notHosts:\n              - c.com #! hostWithPort`,
  ),
});

run(
  'slashes that are merged',
  {
    'two of them': authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - to:\n        - operation:\n            paths:\n              - //a #! pathNeverMatches`,
    ),
  },
  `${SHOP}---\nkind: MeshConfig\npathNormalization: {normalization: MERGE_SLASHES}\n`,
);

run('tokens', {
  'asked for and not verified': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            requestPrincipals: ["*"] #! tokenNotVerified`,
  ),
  'a claim': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - when:\n        - key: request.auth.claims[group]\n          values: [a] #! tokenNotVerified`,
  ),
  'asked for and verified':
    authz('p', `spec:\n  ${WEB}\n  rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]`) +
    token('t', `spec:\n  ${WEB}\n  ${ISSUER}`),
  'verified in the root namespace':
    authz('p', `spec:\n  ${WEB}\n  rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]`) +
    token('t', `spec:\n  ${ISSUER}`, 'istio-system'),
  'verified for another workload':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            requestPrincipals: ["*"] #! tokenNotVerified`,
    ) + token('t', `spec:\n  ${ORDERS}\n  ${ISSUER} #! tokenNotDemanded`),
  'verified and not demanded': token('t', `spec:\n  ${WEB}\n  ${ISSUER} #! tokenNotDemanded`),
  'demanded by the rule itself': token(
    't',
    `spec:\n  ${WEB}\n  jwtRules: [{jwksUri: "https://a.com/keys", presence: REQUIRED}]`,
  ),
  'an issuer that nobody accepts':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            requestPrincipals:\n              - a.com/*\n              - a.com/me\n              - a*\n              - "*/me"\n              - b.com/* #! unknownIssuer\n              - b* #! unknownIssuer`,
    ) + token('t', `spec:\n  ${WEB}\n  ${ISSUER}`),
  'any issuer is accepted':
    authz('p', `spec:\n  ${WEB}\n  rules: [{from: [{source: {requestPrincipals: [b.com/*]}}]}]`) +
    token('t', `spec:\n  ${WEB}\n  jwtRules: [{jwksUri: "https://a.com/keys"}]`),
  'an issuer without subject':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            requestPrincipals:\n              - a.com #! requestPrincipalForm`,
    ) + token('t', `spec:\n  ${WEB}\n  ${ISSUER}`),
  'several for a namespace':
    token('a', `spec:\n  ${ISSUER}`) +
    token('b', `spec:\n  ${ISSUER}`) +
    authz(
      'p',
      `spec: {action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {ports: ["8080", "8081"]}}]}]}`,
    ),
});

const custom = (name: string, provider: string, app: string) =>
  authz(
    name,
    `spec:\n  selector: {matchLabels: {app: ${app}}}\n  action: CUSTOM\n  provider:\n    name: ${provider}\n  rules: [{to: [{operation: {ports: ["8080"]}}]}]`,
  );

const PROVIDERS = `${SHOP}---
kind: MeshConfig
extensionProviders:
  - name: ask-grpc
    envoyExtAuthzGrpc: {service: web.shop.svc.cluster.local, port: 80}
  - name: ask-http
    envoyExtAuthzHttp: {service: web.shop.svc.cluster.local, port: 80}
`;

run(
  'providers',
  {
    defined: custom('p', 'ask-grpc', 'web'),
    'not defined': custom('p', 'nobody #! unknownProvider', 'web'),
    'two for a workload':
      custom('p', 'ask-grpc #! twoProviders', 'web') + custom('q', 'ask-http #! twoProviders', 'web'),
    'one each':
      custom('p', 'ask-grpc', 'orders').replace('"8080"', '"8081"') + custom('q', 'ask-http', 'web'),
    'by HTTP for TCP': custom('p', 'ask-http #! providerNotForTcp', 'orders').replace('"8080"', '"8081"'),
  },
  PROVIDERS,
);

run('services of providers', {
  'nobody defines it': `---
kind: MeshConfig
extensionProviders:
  - name: ask
    envoyExtAuthzGrpc:
      service: nobody.shop.svc.cluster.local #! unknownHost
      port: 80
`,
  'it has another port': `---
kind: MeshConfig
extensionProviders:
  - name: ask
    envoyExtAuthzHttp:
      service: shop/web.shop.svc.cluster.local
      port: 9000 #! portNotOfService
`,
  'of another namespace': `---
kind: MeshConfig
extensionProviders:
  - name: ask
    envoyExtAuthzHttp:
      service: other/web.shop.svc.cluster.local #! unknownHost
      port: 80
`,
});

run('without mesh config every provider counts', { any: custom('p', 'nobody', 'web') });

run('policies that no sidecar enforces', {
  targetRefs: authz(
    'p',
    'spec:\n  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}] #! forGateways\n  rules: [{}]',
  ),
});

run('ALLOW behind DENY', {
  'DENY everything':
    authz('a', `spec:\n  ${WEB}\n  rules:\n    - to: [{operation: {methods: [GET]}}] #! shadowed`) +
    authz('d', 'spec: {action: DENY, rules: [{}]}'),
  'DENY of more':
    authz(
      'a',
      `spec:\n  ${WEB}\n  rules:\n    - to: [{operation: {paths: [/api/v1], ports: ["8080"]}}] #! shadowed`,
    ) +
    authz(
      'd',
      'spec: {action: DENY, rules: [{to: [{operation: {paths: [/api/*], ports: ["8080", "9"]}}]}]}',
    ).replace(', "9"', ''),
  'DENY of less':
    authz('a', `spec:\n  ${WEB}\n  rules: [{to: [{operation: {paths: [/api/*], ports: ["8080"]}}]}]`) +
    authz('d', 'spec: {action: DENY, rules: [{to: [{operation: {paths: [/api/v1], ports: ["8080"]}}]}]}'),
  'DENY for another workload':
    authz('a', `spec:\n  ${WEB}\n  rules: [{to: [{operation: {methods: [GET]}}]}]`) +
    authz('d', `spec:\n  ${ORDERS}\n  action: DENY\n  rules: [{}]`),
  'DENY but for some':
    authz('a', `spec:\n  ${WEB}\n  rules: [{from: [{source: {namespaces: [shop]}}]}]`) +
    authz('d', 'spec: {action: DENY, rules: [{from: [{source: {notNamespaces: [shop]}}]}]}'),
  'one policy that denies all of it, one that allows it elsewhere':
    authz(
      'a',
      `spec:\n  ${WEB}\n  rules:\n    - from: [{source: {ipBlocks: [10.0.0.1], namespaces: [shop]}}] #! shadowed`,
    ) + authz('d', 'spec: {action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}', 'istio-system'),
});
