/** Checks of DestinationRules, services and Sidecars: what triggers each, on which line, and a sibling that does not. */
import { entry, peer, rule, run, sidecar, WEB } from './analyze-cases.ts';

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

const LEGACY = (labels: string, more: string, mark: string) => `---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: legacy, namespace: shop}
spec: ${mark}
  address: 10.0.0.9
  labels: {app: web${labels}}
${more}`;

run('workloads outside the mesh that are STRICT', {
  'by label, and a policy of its namespace':
    LEGACY(', security.istio.io/tlsMode: disabled', '  serviceAccount: legacy\n', '#! plaintextToStrict') +
    peer('n', 'spec: {mtls: {mode: STRICT}}'),
  'without account, and a policy of its own':
    LEGACY('', '', '#! plaintextToStrict noAccount') + peer('w', `spec:\n  ${WEB}\n  mtls: {mode: STRICT}`),
  'by label, where the mesh alone is STRICT': LEGACY(
    ', security.istio.io/tlsMode: disabled',
    '  serviceAccount: legacy\n',
    '',
  ),
  'by label, and a rule tells clients to speak mutual TLS':
    LEGACY(', security.istio.io/tlsMode: disabled', '  serviceAccount: legacy\n', '') +
    peer('n', 'spec: {mtls: {mode: STRICT}}') +
    rule('r', 'spec: {host: web, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}'),
});

const NAMELESS = `---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: old, namespace: shop}
spec: {address: 10.0.0.3, labels: {app: old, security.istio.io/tlsMode: istio}}
`;
const old = (mark: string, more = '') =>
  entry(
    'old',
    `spec: ${mark}\n  hosts: [old.shop.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: old}}\n${more}`,
  );

run('a wildcard in the client’s namespace', {
  'hides the exact rule':
    rule(
      'all',
      'spec:\n  host: "*.shop.svc.cluster.local" #! hidesRule\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}',
      'apps',
    ) + rule('web', 'spec: {host: web, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}'),
  'hides it not, where the exact host is there too':
    rule(
      'all',
      'spec: {host: "*.shop.svc.cluster.local", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}',
      'apps',
    ) +
    rule(
      'own',
      'spec: {host: web.shop.svc.cluster.local, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}',
      'apps',
    ) +
    rule('web', 'spec: {host: web, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}'),
  'of the root namespace comes last':
    rule(
      'all',
      'spec: {host: "*.shop.svc.cluster.local", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}',
      'istio-system',
    ) + rule('web', 'spec: {host: web, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}'),
});

run('whom clients expect', {
  'no account': old('#! anyIdentity') + NAMELESS,
  'no account, but names': old('', '  subjectAltNames: [spiffe://cluster.local/ns/shop/sa/old]') + NAMELESS,
  'no account, by a rule':
    old('') +
    NAMELESS +
    rule('r', 'spec:\n  host: old\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}} #! anyIdentity'),
  'no account, names by a rule':
    old('') +
    NAMELESS +
    rule(
      'r',
      'spec: {host: old, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://cluster.local/ns/shop/sa/old]}}}',
    ),
  'plaintext expects nobody': oldMachine(),
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
    'spec:\n  egress:\n    - hosts:\n        - ./nobody.shop.svc.cluster.local #! unknownHost\n        - other/*',
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
