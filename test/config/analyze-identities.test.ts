/** Checks of identities, on plaintext and TCP too: what triggers each, on which line, and a sibling that does not. */
import { authz, entry, ORDERS, peer, rule, run, SHOP, WEB } from './analyze-cases.ts';

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

run(
  'trust domains with roots of their own',
  {
    'known by caCertificates': principals('td2/ns/shop/sa/orders'),
    'another one': principals('td3/ns/shop/sa/orders', '#! unknownTrustDomain'),
  },
  `${SHOP}---\nkind: MeshConfig\ncaCertificates: [{spiffeBundleUrl: "https://td2.example/bundle", trustDomains: [td2]}]\n`,
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
  'ALLOW for endpoints written into a ServiceEntry':
    entry(
      'inline',
      'spec:\n  hosts: [db.example]\n  addresses: [10.2.0.1]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 3306, name: mysql, protocol: TCP}]\n  endpoints: [{address: 10.0.0.7, labels: {app: inline}, serviceAccount: db}]',
    ) +
    authz(
      'p',
      'spec:\n  selector: {matchLabels: {app: inline}}\n  rules:\n    - to:\n        - operation:\n            methods: [GET] #! allowHttpOnTcp',
    ),
  'ALLOW for a port whose name tells':
    `---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: db, namespace: shop}\nspec: {address: 10.0.0.8, labels: {app: db}, serviceAccount: db, ports: {tcp-db: 3306}}\n` +
    authz(
      'p',
      'spec:\n  selector: {matchLabels: {app: db}}\n  rules:\n    - to:\n        - operation:\n            ports: ["3306"]\n            methods: [GET] #! allowHttpOnTcp',
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

run('DENY of plaintext itself', {
  everywhere:
    denyNamespaces('') +
    authz('q', `spec: {action: DENY, rules: [{from: [{source: {notPrincipals: ["*"]}}]}]}`) +
    peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
  'on another port':
    denyNamespaces('#! denyMissesPlaintext') +
    authz(
      'q',
      `spec:\n  ${WEB}\n  action: DENY\n  rules:\n    - from: [{source: {notPrincipals: ["*"]}}]\n      to:\n        - operation:\n            ports:\n              - "9090" #! unknownPort`,
    ) +
    peer('a', `spec:\n  ${WEB}\n  mtls: {mode: PERMISSIVE}`),
});

const MYSQL = `---
apiVersion: v1
kind: Service
metadata: {name: mysql, namespace: db}
spec:
  selector: {app: mysql} #! workloadsUnknown
  ports: [{port: 33060, name: tcp-mysql, targetPort: 3306}]
`;

run(
  'a Service tells of ports, where no workload is known',
  {
    'HTTP on TCP, for the whole namespace':
      MYSQL +
      authz(
        'p',
        'spec:\n  rules:\n    - to:\n        - operation:\n            methods: [GET] #! allowHttpOnTcp',
        'db',
      ),
    'the port of the service':
      MYSQL +
      authz(
        'p',
        'spec:\n  rules:\n    - to:\n        - operation:\n            ports:\n              - "3306"\n              - "33060" #! servicePort',
        'db',
      ),
    'a subset':
      MYSQL +
      rule(
        'r',
        'spec:\n  host: mysql.db.svc.cluster.local\n  subsets:\n    - name: v1\n      labels: {version: v1} #! workloadsUnknown',
        'db',
      ),
  },
  '',
);
