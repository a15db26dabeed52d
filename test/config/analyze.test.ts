/** Checks of a whole set: what triggers each, on which line, and a sibling that does not. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { analyze } from '../../config/analyze.ts';
import { parseDocuments } from '../../config/documents.ts';
import { readFolders } from '../../config/folder.ts';
import { setChecks } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** Two services of a mesh that is STRICT, about which there is nothing to say. */
const SHOP = `
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: web}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: web, tier: front}, serviceAccount: web, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  addresses: [10.1.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 5432, name: tcp-db, protocol: TCP}]
  workloadSelector: {labels: {app: orders}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: orders, version: v1}, serviceAccount: orders, ports: {http: 8081}}
`;

function problemsOf(yaml: string): readonly Problem[] {
  return analyze(parseDocuments(yaml, 'mesh.yaml'), {});
}

/** `CODE@LINE` of every problem, sorted. */
function found(yaml: string): readonly string[] {
  return problemsOf(yaml)
    .map(({ code, line }) => `${code}@${line}`)
    .sort();
}

/** The same as the text itself says it: a comment `#! name name` on the line where it is expected. */
function expected(yaml: string): readonly string[] {
  return yaml
    .split('\n')
    .flatMap((line, i) =>
      (line.split('#! ')[1] ?? '')
        .split(' ')
        .filter((name) => name !== '')
        .map((name) => `${setChecks[name as keyof typeof setChecks][0]}@${i + 1}`),
    )
    .sort();
}

const authz = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
const peer = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
const token = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
const rule = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
const entry = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;
const sidecar = (name: string, rest: string, namespace = 'shop') =>
  `---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: ${name}, namespace: ${namespace}}\n${rest}\n`;

const WEB = 'selector: {matchLabels: {app: web}}';
const ORDERS = 'selector: {matchLabels: {app: orders}}';
/** Asks for no token, so that a RequestAuthentication beside it is the only one that speaks of them. */
const ISSUER = 'jwtRules: [{issuer: a.com, jwksUri: "https://a.com/keys"}]';

type Cases = Readonly<Record<string, string>>;

function run(title: string, cases: Cases, rest = SHOP): void {
  t.test(title, async (t) => {
    for (const [name, yaml] of Object.entries(cases)) {
      const text = yaml + rest;
      t.same(found(text), expected(text), name, { problems: problemsOf(text).map(({ message }) => message) });
    }
  });
}

run('nothing to say', { 'the services alone': '' });

run('selectors', {
  'a PeerAuthentication': peer(
    'p',
    'spec:\n  selector: {matchLabels: {app: nobody}} #! noWorkload\n  mtls: {mode: STRICT}',
  ),
  'one that matches': peer('p', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`),
  'an AuthorizationPolicy': authz(
    'p',
    'spec:\n  selector: {matchLabels: {app: nobody}} #! noWorkload\n  rules: [{}]',
  ),
  'labels of another namespace': authz('p', `spec:\n  ${WEB} #! noWorkload\n  rules: [{}]`, 'other'),
  'the root namespace selects everywhere': authz('p', `spec:\n  ${WEB}\n  rules: [{}]`, 'istio-system'),
  'two labels, one of which nobody has': authz(
    'p',
    'spec:\n  selector: {matchLabels: {app: web, tier: back}} #! noWorkload\n  rules: [{}]',
  ),
  'a RequestAuthentication': token(
    't',
    `spec:\n  selector: {matchLabels: {app: nobody}} #! noWorkload\n  ${ISSUER}`,
  ),
  'a Sidecar': sidecar(
    's',
    'spec:\n  workloadSelector: {labels: {app: nobody}} #! noWorkload\n  egress: [{hosts: ["*/*"]}]',
  ),
  'a DestinationRule': rule(
    'r',
    'spec:\n  host: web\n  workloadSelector: {matchLabels: {app: nobody}} #! noWorkload\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}',
  ),
  'a ServiceEntry': entry(
    'e',
    'spec:\n  hosts: [e.shop.svc.cluster.local]\n  ports: [{number: 80, name: http}]\n  resolution: STATIC\n  workloadSelector: {labels: {app: nobody}} #! noWorkload',
  ),
  'a Service': `apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec:
  selector: {app: nobody} #! noWorkload
  ports: [{port: 80, name: http}]
`,
  'a Service and its Pod, which has no status yet': `apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec:
  selector: {app: pod}
  ports: [{port: 80, name: http, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: s-1, namespace: shop, labels: {app: pod}}
spec: {containers: [{name: s, image: s}]}
`,
  'a namespace without workloads': authz('p', 'spec: {rules: [{}]}', 'empty').replace(
    'namespace: empty}',
    'namespace: empty} #! emptyNamespace',
  ),
});

run(
  'without any workload selectors are not judged',
  {
    'an Info': authz('p', 'spec:\n  selector: {matchLabels: {app: web}} #! workloadsUnknown\n  rules: [{}]'),
    'a namespace': authz('p', 'spec: {rules: [{}]}'),
  },
  '',
);

run('two of one scope', {
  'two for a namespace: the name decides':
    peer('a', 'spec: {mtls: {mode: STRICT}}') +
    peer('b', 'spec: {mtls: {mode: STRICT}}').replace(
      'name: b, namespace: shop}',
      'name: b, namespace: shop} #! scopeConflict',
    ),
  'two for a namespace: the age decides':
    peer('a', 'spec: {mtls: {mode: STRICT}}').replace(
      'name: a, namespace: shop}',
      'name: a, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z} #! scopeConflict',
    ) +
    peer('b', 'spec: {mtls: {mode: STRICT}}').replace(
      'shop}',
      'shop, creationTimestamp: 2026-01-01T00:00:00Z}',
    ),
  'two namespaces':
    peer('a', 'spec: {mtls: {mode: STRICT}}') + peer('b', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`),
  'two for a workload':
    peer('a', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`) +
    peer('b', 'spec:\n  selector: {matchLabels: {tier: front}} #! workloadConflict\n  mtls: {mode: STRICT}'),
  'two selectors, two workloads':
    peer('a', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`) +
    peer('b', `spec:\n  ${ORDERS}\n  mtls: {mode: STRICT}`),
  'two Sidecars for a namespace':
    sidecar('a', 'spec: {egress: [{hosts: ["*/*"]}]}') +
    sidecar('b', 'spec: {egress: [{hosts: ["*/*"]}]}').replace(
      'name: b, namespace: shop}',
      'name: b, namespace: shop} #! scopeConflict',
    ),
  'two Sidecars for a workload':
    sidecar('a', 'spec:\n  workloadSelector: {labels: {app: web}}\n  egress: [{hosts: ["*/*"]}]') +
    sidecar(
      'b',
      'spec:\n  workloadSelector: {labels: {tier: front}} #! workloadConflict\n  egress: [{hosts: ["*/*"]}]',
    ),
  'one Sidecar for a workload and one for the rest':
    sidecar('a', 'spec:\n  workloadSelector: {labels: {app: web}}\n  egress: [{hosts: ["*/*"]}]') +
    sidecar('b', 'spec: {egress: [{hosts: ["*/*"]}]}'),
  'two DestinationRules for a host':
    rule('a', 'spec:\n  host: web\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}') +
    rule(
      'b',
      'spec:\n  host: web.shop.svc.cluster.local\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}} #! scopeConflict',
    ),
  'two that say different things':
    rule('a', 'spec:\n  host: web\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}') +
    rule('b', 'spec:\n  host: web\n  subsets: [{name: front, labels: {tier: front}}]'),
  'one subset twice':
    rule('a', 'spec:\n  host: web\n  subsets: [{name: front, labels: {tier: front}}]') +
    rule('b', 'spec:\n  host: web\n  subsets:\n    - name: front #! scopeConflict\n      labels: {app: web}'),
});

run('PeerAuthentication', {
  'a selector in the root namespace': peer(
    'p',
    `spec:\n  ${WEB} #! rootSelector\n  mtls: {mode: DISABLE}`,
    'istio-system',
  ),
  "the service's port": peer(
    'p',
    `spec:\n  ${WEB}\n  portLevelMtls:\n    80: {mode: PERMISSIVE} #! servicePort`,
  ),
  "the workload's port": peer('p', `spec:\n  ${WEB}\n  portLevelMtls:\n    8080: {mode: PERMISSIVE}`),
  'a port nobody declares': peer(
    'p',
    `spec:\n  ${WEB}\n  portLevelMtls:\n    9090: {mode: PERMISSIVE} #! unknownPort`,
  ),
  'a port of a Sidecar':
    peer('p', `spec:\n  ${WEB}\n  portLevelMtls:\n    9090: {mode: PERMISSIVE}`) +
    sidecar(
      's',
      'spec:\n  workloadSelector: {labels: {app: web}}\n  ingress: [{port: {number: 9090, name: http}, defaultEndpoint: "127.0.0.1:80"}]',
    ),
});

const principals = (value: string, mark = '') =>
  authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            principals:\n              - ${value} ${mark}`,
  );

run('principals', {
  'of this mesh': principals('cluster.local/ns/shop/sa/orders'),
  'nobody has it': principals('cluster.local/ns/shop/sa/nobody', '#! unknownPrincipal'),
  'another trust domain': principals('td2/ns/shop/sa/orders', '#! unknownTrustDomain'),
  'with its scheme': principals('spiffe://cluster.local/ns/shop/sa/orders', '#! principalScheme'),
  'too short': principals('orders', '#! malformedPrincipal'),
  'parts in the wrong order': principals('cluster.local/sa/orders/ns/shop', '#! malformedPrincipal'),
  'a star in the middle': principals('cluster.local/ns/*/sa/orders', '#! malformedPrincipal'),
  'a prefix': principals('cluster.local/ns/shop/*'),
  'a prefix of another trust domain': principals('td2/ns/shop/*', '#! unknownTrustDomain'),
  'a suffix': principals('"*/ns/shop/sa/orders"'),
  any: principals('"*"'),
  'a suffix nobody has': principals('"*/sa/nobody"', '#! unknownPrincipal'),
  'in a condition': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - when:\n        - key: source.principal\n          notValues:\n            - td2/ns/shop/sa/orders #! unknownTrustDomain`,
  ),
  'trustDomains are compared as they are': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            trustDomains:\n              - cluster.local\n              - td2 #! unknownTrustDomain`,
  ),
  'a namespace nobody is in': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            namespaces:\n              - shop\n              - sho*\n              - nowhere #! unknownNamespace`,
  ),
  'accounts, short and in full': authz(
    'p',
    `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            serviceAccounts:\n              - orders\n              - shop/orders\n              - other/orders #! unknownPrincipal`,
  ),
});

run(
  'trust domains by mesh config',
  {
    'the pointer, ours and an alias':
      principals('cluster.local/ns/shop/sa/orders') +
      principals('td1/ns/shop/sa/orders').replace('name: p,', 'name: q,') +
      principals('old/ns/shop/sa/orders').replace('name: p,', 'name: r,'),
    'another one': principals('td2/ns/shop/sa/orders', '#! unknownTrustDomain'),
    'no pointer among trustDomains': authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            trustDomains:\n              - td1\n              - old\n              - cluster.local #! unknownTrustDomain`,
    ),
  },
  `${SHOP}---\nkind: MeshConfig\ntrustDomain: td1\ntrustDomainAliases: [old]\n`,
);

run('HTTP fields on TCP ports', {
  ALLOW: authz(
    'p',
    `spec:\n  ${ORDERS}\n  rules:\n    - to:\n        - operation:\n            methods: [GET] #! allowHttpOnTcp`,
  ),
  'ALLOW for the HTTP port': authz(
    'p',
    `spec:\n  ${ORDERS}\n  rules:\n    - to:\n        - operation:\n            ports: ["8081"]\n            methods: [GET]`,
  ),
  'ALLOW, HTTP in one of two operations': authz(
    'p',
    `spec:\n  ${ORDERS}\n  rules:\n    - to:\n        - operation: {ports: ["5432"]}\n        - operation:\n            ports: ["8081"]\n            paths: [/a] #! allowHttpOnTcp`,
  ),
  'ALLOW without HTTP fields': authz(
    'p',
    `spec:\n  ${ORDERS}\n  rules: [{to: [{operation: {ports: ["5432"]}}]}]`,
  ),
  'ALLOW where no port is TCP': authz(
    'p',
    `spec:\n  ${WEB}\n  rules: [{to: [{operation: {methods: [GET]}}]}]`,
  ),
  'a header': authz(
    'p',
    `spec:\n  ${ORDERS}\n  rules:\n    - when:\n        - key: request.headers[x-user]\n          values: [a] #! allowHttpOnTcp`,
  ),
  // The second one is what Istio's webhook says of every such rule.
  DENY: authz(
    'p',
    `spec:\n  ${ORDERS}\n  action: DENY\n  rules:\n    - from: [{source: {ipBlocks: [10.0.0.0/8]}}]\n      to:\n        - operation:\n            ports: ["5432", "8081"]\n            notPaths: [/a] #! denyHttpOnTcp`,
  ),
  'DENY for the HTTP port': authz(
    'p',
    `spec:\n  ${ORDERS}\n  action: DENY\n  rules: [{to: [{operation: {ports: ["8081"], notPaths: [/a]}}]}]`,
  ),
  'only tried': authz('p', `spec:\n  ${ORDERS}\n  rules: [{to: [{operation: {methods: [GET]}}]}]`).replace(
    'namespace: shop}',
    'namespace: shop, annotations: {istio.io/dry-run: "true"}} #! dryRun',
  ),
});

const denyNamespaces = (mark: string, more = '') =>
  authz(
    'p',
    `spec:\n  ${WEB}\n  action: DENY\n  rules:\n    - from:\n        - source:\n            namespaces: [shop] ${mark}\n${more}`,
  );

run('identities on ports that take plaintext', {
  'DENY, STRICT': denyNamespaces(''),
  'DENY, PERMISSIVE':
    denyNamespaces('#! denyMissesPlaintext') + peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'DENY, another port is PERMISSIVE':
    denyNamespaces('', '      to: [{operation: {ports: ["9090"]}}]').replace('["9090"]', '["8080"]') +
    peer('a', `spec:\n  ${WEB}\n  portLevelMtls:\n    9090: {mode: PERMISSIVE} #! unknownPort`),
  'DENY, that port is PERMISSIVE':
    denyNamespaces('#! denyMissesPlaintext') +
    peer('a', `spec:\n  ${WEB}\n  portLevelMtls:\n    9090: {mode: PERMISSIVE} #! unknownPort`),
  'DENY of whom has no identity':
    authz('p', `spec:\n  ${WEB}\n  action: DENY\n  rules: [{from: [{source: {notPrincipals: ["*"]}}]}]`) +
    peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'ALLOW, PERMISSIVE':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            namespaces: [shop] #! allowRefusesPlaintext`,
    ) + peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'ALLOW, PERMISSIVE, plaintext by address':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules: [{from: [{source: {namespaces: [shop]}}, {source: {ipBlocks: [10.0.0.1]}}]}]`,
    ) + peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'ALLOW, DISABLE':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            namespaces: [shop] #! allowNeverOnPlaintext`,
    ) + peer('a', `spec:\n  ${WEB}\n  mtls: {mode: DISABLE}`),
  'ALLOW, one port of two is DISABLE':
    authz('p', `spec:\n  ${ORDERS}\n  rules: [{from: [{source: {namespaces: [shop]}}]}]`) +
    peer('a', `spec:\n  ${ORDERS}\n  portLevelMtls: {8081: {mode: DISABLE}}`),
});

run(
  'a mesh that says nothing is PERMISSIVE',
  {
    DENY: authz(
      'p',
      'spec:\n  action: DENY\n  rules:\n    - from:\n        - source:\n            namespaces: [dev] #! denyMissesPlaintext',
    ),
    'ALLOW is no news': authz('p', 'spec: {rules: [{from: [{source: {namespaces: [dev]}}]}]}'),
    'a port of a selector':
      authz(
        'p',
        'spec:\n  action: DENY\n  rules:\n    - from:\n        - source:\n            namespaces: [dev] #! denyMissesPlaintext',
      ) +
      peer('a', 'spec: {mtls: {mode: STRICT}}') +
      peer(
        'b',
        'spec:\n  selector: {matchLabels: {app: web}} #! workloadsUnknown\n  portLevelMtls: {9090: {mode: PERMISSIVE}}',
      ),
    'all STRICT':
      authz('p', 'spec: {action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}') +
      peer('a', 'spec: {mtls: {mode: STRICT}}'),
  },
  '',
);

run('ALLOW of all but some', {
  STRICT: authz('p', `spec:\n  ${WEB}\n  rules: [{from: [{source: {notNamespaces: [shop]}}]}]`),
  PERMISSIVE:
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            notNamespaces: [shop] #! allowAdmitsPlaintext`,
    ) + peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'PERMISSIVE, with an identity all the same':
    authz(
      'p',
      `spec:\n  ${WEB}\n  rules:\n    - from:\n        - source:\n            principals: ["*"] #! allowRefusesPlaintext\n            notNamespaces: [shop]`,
    ) + peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
});

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

run('DestinationRules', {
  'a host nobody defines': rule(
    'r',
    'spec:\n  host: nobody #! unknownHost\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}',
  ),
  'a wildcard that covers some': rule(
    'r',
    'spec:\n  host: "*.shop.svc.cluster.local"\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}',
  ),
  'a wildcard that covers none': rule(
    'r',
    'spec:\n  host: "*.example.com" #! unknownHost\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}',
  ),
  'a subset that matches': rule('r', 'spec:\n  host: orders\n  subsets: [{name: v1, labels: {version: v1}}]'),
  'a subset of nobody': rule(
    'r',
    'spec:\n  host: orders\n  subsets:\n    - name: v2\n      labels: {version: v2} #! emptySubset',
  ),
  "the service's port": rule(
    'r',
    'spec:\n  host: web\n  trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}',
  ),
  "the workload's port": rule(
    'r',
    'spec:\n  host: web\n  trafficPolicy:\n    portLevelSettings:\n      - port: {number: 8080} #! portNotOfService\n        tls: {mode: ISTIO_MUTUAL}',
  ),
  'DISABLE to STRICT': rule(
    'r',
    'spec:\n  host: web\n  trafficPolicy:\n    tls:\n      mode: DISABLE #! notMutualToStrict',
  ),
  'SIMPLE to STRICT': rule(
    'r',
    'spec:\n  host: web\n  trafficPolicy:\n    tls:\n      mode: SIMPLE #! notMutualToStrict\n      caCertificates: /ca.pem',
  ),
  'DISABLE to STRICT on a port': rule(
    'r',
    'spec:\n  host: web\n  trafficPolicy:\n    tls: {mode: ISTIO_MUTUAL}\n    portLevelSettings:\n      - port: {number: 80}\n        tls:\n          mode: DISABLE #! notMutualToStrict',
  ),
  'DISABLE for a subset': rule(
    'r',
    'spec:\n  host: orders\n  subsets:\n    - name: v1\n      labels: {version: v1}\n      trafficPolicy:\n        tls:\n          mode: DISABLE #! notMutualToStrict',
  ),
  'DISABLE to PERMISSIVE':
    rule('r', 'spec: {host: web, trafficPolicy: {tls: {mode: DISABLE}}}') +
    peer('p', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'ISTIO_MUTUAL to DISABLE':
    rule('r', 'spec:\n  host: web\n  trafficPolicy:\n    tls:\n      mode: ISTIO_MUTUAL #! mutualToDisable') +
    peer('p', `spec:\n  ${WEB}\n  mtls: {mode: DISABLE}`),
  'DISABLE of a whole namespace': rule(
    'r',
    'spec:\n  host: "*.shop.svc.cluster.local"\n  trafficPolicy:\n    tls:\n      mode: DISABLE #! notMutualToStrict',
  ),
  'a workload without sidecar':
    rule('r', 'spec: {host: old, trafficPolicy: {tls: {mode: DISABLE}}}') + oldMachine(),
  'the certificate is not verified':
    rule(
      'r',
      'spec:\n  host: api.com\n  trafficPolicy:\n    tls:\n      mode: SIMPLE\n      insecureSkipVerify: true #! notVerified',
    ) + outside('HTTP'),
  'any authority':
    rule('r', 'spec:\n  host: api.com\n  trafficPolicy:\n    tls:\n      mode: SIMPLE #! systemRoots') +
    outside('HTTP'),
  'an authority of its own':
    rule('r', 'spec: {host: api.com, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /ca.pem}}}') +
    outside('HTTP'),
  'TLS in TLS':
    rule(
      'r',
      'spec:\n  host: api.com\n  trafficPolicy:\n    tls:\n      mode: SIMPLE #! doubleTls\n      caCertificates: /ca.pem',
    ) + outside('HTTPS'),
  'TLS in TLS on another port':
    rule(
      'r',
      'spec: {host: api.com, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, caCertificates: /ca.pem}}]}}',
    ) + outside('HTTPS'),
});

function outside(protocol: string): string {
  return entry(
    'api',
    `spec:\n  hosts: [api.com]\n  ports: [{number: 443, name: p, protocol: ${protocol}}, {number: 80, name: q, protocol: HTTP}]\n  resolution: DNS`,
  );
}

function oldMachine(): string {
  return `${entry(
    'old',
    'spec:\n  hosts: [old.shop.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: old}}',
  )}---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: old, namespace: shop}
spec: {address: 10.0.0.3, labels: {app: old, security.istio.io/tlsMode: disabled}}
`;
}

run(
  'modes of namespaces, where no workload is known',
  {
    'DISABLE to STRICT':
      rule(
        'r',
        'spec:\n  host: web #! unknownHost\n  trafficPolicy:\n    tls:\n      mode: DISABLE #! notMutualToStrict',
      ) + peer('p', 'spec: {mtls: {mode: STRICT}}'),
    'DISABLE to the whole mesh':
      rule(
        'r',
        'spec:\n  host: "*.local" #! unknownHost\n  trafficPolicy:\n    tls:\n      mode: DISABLE #! notMutualToStrict',
        'istio-system',
      ) + peer('p', 'spec: {mtls: {mode: STRICT}}', 'istio-system'),
    'DISABLE to PERMISSIVE':
      rule('r', 'spec:\n  host: web #! unknownHost\n  trafficPolicy: {tls: {mode: DISABLE}}') +
      peer('p', 'spec: {mtls: {mode: PERMISSIVE}}'),
  },
  '',
);

run(
  'what keeps auto mTLS from STRICT, where no workload is known',
  {
    'mesh config': `---\nkind: MeshConfig\nenableAutoMtls: false #! plaintextToStrict\n${peer('p', 'spec: {mtls: {mode: STRICT}}', 'istio-system')}`,
    'mesh config, of a mesh that takes plaintext': '---\nkind: MeshConfig\nenableAutoMtls: false\n',
    'a namespace':
      peer('n', 'spec:\n  mtls:\n    mode: DISABLE #! plaintextToStrict') +
      peer('w', `spec:\n  ${WEB} #! workloadsUnknown\n  mtls: {mode: STRICT}`),
    'a namespace, and nobody is STRICT':
      peer('n', 'spec: {mtls: {mode: DISABLE}}') +
      peer('w', `spec:\n  ${WEB} #! workloadsUnknown\n  mtls: {mode: UNSET}`),
  },
  '',
);

run('what keeps auto mTLS from STRICT', {
  'mesh config': '---\nkind: MeshConfig\nenableAutoMtls: false #! plaintextToStrict\n',
  'mesh config, but a rule says so':
    '---\nkind: MeshConfig\nenableAutoMtls: false\n' +
    rule('r', 'spec: {host: "*.shop.svc.cluster.local", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}'),
  'a namespace':
    peer('n', 'spec:\n  mtls:\n    mode: DISABLE #! plaintextToStrict') +
    peer('w', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`),
  'an external service': entry(
    'e',
    'spec:\n  hosts: [web.example.com]\n  location: MESH_EXTERNAL #! plaintextToStrict\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: web}}',
  ),
});

run('services', {
  'one host in two namespaces': entry(
    'web',
    'spec:\n  hosts: [web.shop.svc.cluster.local] #! sameHost\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  endpoints: [{address: 10.0.0.9}]',
    'twin',
  ).replace('name: web, namespace: twin', 'name: web2, namespace: twin'),
  'one host in two namespaces that nobody sees both of':
    entry(
      'web',
      'spec:\n  hosts: [a.com]\n  exportTo: [.]\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  endpoints: [{address: 10.0.0.9}]',
      'one',
    ) +
    entry(
      'web',
      'spec:\n  hosts: [a.com]\n  exportTo: [.]\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  endpoints: [{address: 10.0.0.9}]',
      'two',
    ),
  'two protocols': entry(
    'web-again',
    'spec:\n  hosts: [web.shop.svc.cluster.local]\n  location: MESH_INTERNAL\n  addresses: [10.1.0.2]\n  resolution: STATIC\n  ports:\n    - {number: 80, name: tcp, protocol: TCP} #! protocolConflict\n    - {number: 81, name: http}\n  endpoints: [{address: 10.0.0.9}]',
  ),
  'a TCP port without address': entry(
    'e',
    'spec:\n  hosts: [db.com]\n  resolution: STATIC\n  ports:\n    - {number: 5432, name: tcp, protocol: TCP} #! addressRequired\n    - {number: 443, name: tls, protocol: TLS}\n  endpoints: [{address: 10.0.0.9}]',
  ),
  'a port of no protocol': entry(
    'e',
    'spec:\n  hosts: [db.com]\n  addresses: [10.1.0.2]\n  resolution: STATIC\n  ports:\n    - {number: 5432, name: db} #! portName\n  endpoints: [{address: 10.0.0.9}]',
  ),
  'no endpoint': entry(
    'e',
    'spec:\n  hosts: [db.com]\n  resolution: STATIC #! noEndpoint\n  ports: [{number: 80, name: http}]',
  ),
  'by DNS': entry('e', 'spec: {hosts: [db.com], resolution: DNS, ports: [{number: 80, name: http}]}'),
  'no account': `---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 10.0.0.7} #! noAccount
`,
  'no account, and none is meant': oldMachine(),
  'one port of a workload, two protocols': entry(
    'zz',
    'spec:\n  hosts: [zz.shop.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  addresses: [10.1.0.2]\n  ports: [{number: 9, name: tcp, protocol: TCP, targetPort: 8080}] #! workloadPortConflict\n  workloadSelector: {labels: {app: web}}',
  ),
});

run('Sidecars', {
  'hosts and ports that are there': sidecar(
    's',
    'spec: {egress: [{port: {number: 80, name: http}, hosts: [./web.shop.svc.cluster.local]}]}',
  ),
  'a host nobody defines': sidecar(
    's',
    'spec:\n  egress:\n    - hosts:\n        - ./nobody.shop.svc.cluster.local #! unknownHost\n        - ./*',
  ),
  'a host of another namespace': sidecar(
    's',
    'spec:\n  egress:\n    - hosts:\n        - other/web.shop.svc.cluster.local #! unknownHost',
  ),
  'a port the host has not': sidecar(
    's',
    'spec:\n  egress:\n    - port: {number: 8080, name: http}\n      hosts:\n        - ./web.shop.svc.cluster.local #! portNotOfService',
  ),
});

t.test('of the guides two things are odd, and both are', async (t) => {
  const guides = analyze(readFolders([join(ROOT, 'test', 'fixtures', 'guides')]), {});
  const told = guides.filter(({ severity }) => severity !== 'Info');
  t.same(
    told.map(({ code, resource, field }) => `${code} ${resource} ${field}`),
    [
      // Its port 9090 is PERMISSIVE for payment-service, and plaintext is of no namespace.
      'OLK0228 AuthorizationPolicy/production/deny-from-untrusted spec.rules[0].from[0].source.namespaces',
      // The app speaks HTTPS on 443 already.
      'OLK0258 DestinationRule/production/external-api-mtls spec.trafficPolicy.tls.mode',
    ],
  );
});

t.test('of the demo nothing is odd', async (t) => {
  t.same(analyze(readFolders([join(ROOT, 'demo', 'resources')]), {}), []);
});

t.test('a resource that is not valid spoils nothing else', async (t) => {
  const broken = `${peer('broken', 'spec: {mtls: {mode: STRICKT}}')}---\na: [\n`;
  const good = peer('p', 'spec: {selector: {matchLabels: {app: nobody}}, mtls: {mode: STRICT}}') + SHOP;
  const one = parseDocuments(broken, 'a.yaml');
  const other = parseDocuments(good, 'b.yaml');
  const set = {
    resources: [...one.resources, ...other.resources],
    problems: [...one.problems, ...other.problems],
  };
  t.match(analyze(set, {}), [
    { code: 'OLK0105', severity: 'Error', file: 'a.yaml', line: 5, field: 'spec.mtls.mode' },
    { code: 'OLK0101', severity: 'Error', file: 'a.yaml' },
    { code: 'OLK0201', severity: 'Warning', file: 'b.yaml', line: 5, resource: 'PeerAuthentication/shop/p' },
  ]);
});

t.test('flags beat mesh config', async (t) => {
  const yaml = `${principals('td2/ns/shop/sa/orders')}${SHOP}---\nkind: MeshConfig\ntrustDomain: td1\n`;
  t.match(analyze(parseDocuments(yaml, 'm.yaml'), {}), [{ code: 'OLK0221', message: /\(td1\)/ }]);
  t.same(analyze(parseDocuments(yaml, 'm.yaml'), { trustDomain: 'td2' }), []);
});

t.test('messages name what to change', async (t) => {
  const message = (yaml: string) => problemsOf(yaml)[0]?.message ?? '';
  t.match(
    message(peer('a', 'spec: {mtls: {mode: UNSET}}') + peer('b', 'spec: {mtls: {mode: STRICT}}') + SHOP),
    /namespace shop: PeerAuthentication shop\/a \(mesh\.yaml:4\) holds there, although its mode is UNSET, because its name comes first/,
  );
  t.match(
    message(peer('p', `spec:\n  ${WEB}\n  portLevelMtls: {80: {mode: STRICT}}`) + SHOP),
    /shop\/web: 8080/,
  );
  t.match(
    message(authz('p', `spec:\n  ${ORDERS}\n  rules: [{to: [{operation: {methods: [GET]}}]}]`) + SHOP),
    /^to\.operation\.methods is for HTTP and port 5432 of shop\/orders is TCP/,
  );
  t.match(
    message(rule('r', 'spec: {host: web, trafficPolicy: {tls: {mode: DISABLE}}}') + SHOP),
    /port 8080 of shop\/web/,
  );
});

t.test('a thousand policies for a thousand workloads take little time', async (t) => {
  const parts: string[] = [SHOP];
  for (let i = 0; i < 1000; i++) {
    const namespace = `ns${i % 20}`;
    parts.push(
      authz(
        `p${i}`,
        `spec:\n  selector: {matchLabels: {app: a${i % 100}}}\n  rules:\n    - from: [{source: {principals: [cluster.local/ns/${namespace}/sa/a${i % 50}]}}]\n      to: [{operation: {methods: [GET], paths: [/p${i}]}}]`,
        namespace,
      ),
      `---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w${i}, namespace: ${namespace}}\nspec: {address: 10.2.${i >> 8}.${i & 255}, labels: {app: a${i % 100}}, serviceAccount: a${i % 50}}\n`,
      entry(
        `s${i}`,
        `spec:\n  hosts: [s${i}.${namespace}.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: a${i % 100}}}`,
        namespace,
      ),
    );
  }
  const set = parseDocuments(parts.join(''), 'big.yaml');
  t.equal(set.resources.length, 3005);
  const before = performance.now();
  analyze(set, {});
  const took = performance.now() - before;
  // Its growth is what is watched, not the machine: squared it would be minutes.
  t.ok(took < 10_000, `${Math.round(took)} ms`);
  t.comment(`${Math.round(took)} ms`);
});

t.test('every check was triggered above', async (t) => {
  const source = readFileSync(import.meta.filename, 'utf8');
  for (const name of Object.keys(setChecks)) t.match(source, new RegExp(`#! (?:\\w+ )*${name}\\b`), name);
});
