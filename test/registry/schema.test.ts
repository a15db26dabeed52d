/** DestinationRule and MeshConfig: every field of Istio's schema is known, what is not honoured is said. */
import t from 'tap';
import { compile, errorsOf, linesOf, resource, snapshotOf } from './helper.ts';

const rule = (spec: string): string => resource('DestinationRule', 'shop/r', spec);

t.test('a DestinationRule with everything but TLS is accepted with warnings', async (t) => {
  const { problems } = compile(
    rule(`host: a.b
trafficPolicy:
  loadBalancer:
    consistentHash:
      httpCookie: {name: user, ttl: 0s, path: /, attributes: [{name: SameSite, value: Lax}]}
    localityLbSetting: {enabled: true, failover: [{from: a, to: b}]}
    warmup: {duration: 10s, aggression: 1.0}
  connectionPool:
    tcp: {maxConnections: 1, connectTimeout: 30ms, tcpKeepalive: {time: 7200s, interval: 75s}}
    http: {http2MaxRequests: 1000, maxRequestsPerConnection: 10, h2UpgradePolicy: UPGRADE}
  outlierDetection:
    consecutive5xxErrors: 7
    interval: 5m
    baseEjectionTime: 15m
  proxyProtocol: {version: V2}
  retryBudget: {percent: 20}
subsets:
- name: v1
  labels: {version: v1}
  trafficPolicy:
    loadBalancer: {simple: LEAST_REQUEST}
exportTo: ["*"]`),
  );
  t.same(linesOf(problems, 'Error'), []);
  t.same(linesOf(problems, 'Warning'), [
    '8 spec.trafficPolicy.loadBalancer OLK0110',
    '13 spec.trafficPolicy.connectionPool OLK0110',
    '16 spec.trafficPolicy.outlierDetection OLK0110',
    '20 spec.trafficPolicy.proxyProtocol OLK0110',
    '21 spec.trafficPolicy.retryBudget OLK0110',
    '26 spec.subsets[0].trafficPolicy.loadBalancer OLK0110',
  ]);
});

t.test('what is refused in a DestinationRule', async (t) => {
  const tls = (fields: string): string => `host: a.b\ntrafficPolicy:\n  tls:\n    mode: ${fields}`;
  const cases: readonly (readonly [string, string, string])[] = [
    ['no host', 'trafficPolicy: {tls: {mode: SIMPLE}}', '5 spec.host OLK0106'],
    ['a bad host', 'host: a_b.c', '6 spec.host OLK0108'],
    [
      'a typo in tls',
      tls('SIMPLE\n    caCertificate: /a'),
      '10 spec.trafficPolicy.tls.caCertificate OLK0103',
    ],
    ['a wrong mode', tls('MTLS'), '9 spec.trafficPolicy.tls.mode OLK0105'],
    [
      'MUTUAL without certificate',
      tls('MUTUAL\n    privateKey: /k'),
      '8 spec.trafficPolicy.tls.clientCertificate OLK0106',
    ],
    [
      'MUTUAL without key',
      tls('MUTUAL\n    clientCertificate: /c'),
      '8 spec.trafficPolicy.tls.privateKey OLK0106',
    ],
    [
      'a secret and files',
      tls('SIMPLE\n    credentialName: s\n    caCertificates: /c'),
      '11 spec.trafficPolicy.tls.caCertificates OLK0108',
    ],
    [
      'both verified and not',
      tls('SIMPLE\n    insecureSkipVerify: true\n    caCertificates: /c'),
      '10 spec.trafficPolicy.tls.insecureSkipVerify OLK0108',
    ],
    ['an empty policy', 'host: a.b\ntrafficPolicy: {}', '7 spec.trafficPolicy OLK0106'],
    [
      'a tunnel',
      'host: a.b\ntrafficPolicy: {tunnel: {targetHost: p, targetPort: 1}}',
      '7 spec.trafficPolicy.tunnel OLK0107',
    ],
    [
      'a port policy without port',
      'host: a.b\ntrafficPolicy:\n  portLevelSettings:\n  - tls: {mode: SIMPLE}',
      '9 spec.trafficPolicy.portLevelSettings[0].port OLK0106',
    ],
    [
      'a typo below what is not honoured',
      'host: a.b\ntrafficPolicy:\n  connectionPool:\n    tcp:\n      maxConnection: 1',
      '10 spec.trafficPolicy.connectionPool.tcp.maxConnection OLK0103',
    ],
    ['a subset without name', 'host: a.b\nsubsets:\n- labels: {a: b}', '8 spec.subsets[0].name OLK0106'],
    ['a subset twice', 'host: a.b\nsubsets:\n- name: a\n- name: a', '9 spec.subsets[1].name OLK0109'],
    ['~ in exportTo', 'host: a.b\nexportTo: ["~"]', '7 spec.exportTo[0] OLK0108'],
    [
      'a selected rule that is exported',
      'host: a.b\nworkloadSelector: {matchLabels: {a: b}}\nexportTo: ["*"]',
      '8 spec.exportTo OLK0108',
    ],
  ];
  for (const [why, spec, expected] of cases) {
    const found = errorsOf(rule(spec));
    t.ok(found.includes(expected), why, { found, expected });
  }
});

t.test('mesh config: what holds', async (t) => {
  const mesh = snapshotOf(`kind: MeshConfig
rootNamespace: mesh-root
trustDomain: td1
trustDomainAliases: [old, older]
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
pathNormalization: {normalization: MERGE_SLASHES}
defaultConfig: {proxyHeaders: {forwardedClientCert: FORWARD_ONLY}}
`).mesh;
  t.same(mesh, {
    rootNamespace: 'mesh-root',
    trustDomain: 'td1',
    trustDomainAliases: ['old', 'older'],
    outboundTrafficPolicy: 'REGISTRY_ONLY',
    pathNormalization: 'MERGE_SLASHES',
    forwardedClientCert: 'FORWARD_ONLY',
    meshTls: { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] },
    caCertificates: [],
  });
  t.same(
    snapshotOf('').mesh,
    {
      rootNamespace: 'istio-system',
      trustDomain: 'cluster.local',
      trustDomainAliases: [],
      outboundTrafficPolicy: 'ALLOW_ANY',
      pathNormalization: 'BASE',
      forwardedClientCert: 'SANITIZE_SET',
      meshTls: { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] },
      caCertificates: [],
    },
    'the defaults',
  );
  const flags = { rootNamespace: 'r', trustDomain: 't', trustDomainAliases: ['a'] };
  t.match(
    snapshotOf('kind: MeshConfig\nrootNamespace: x\ntrustDomain: y\ntrustDomainAliases: [z]\n', undefined, {
      overrides: flags,
    }).mesh,
    flags,
    'a flag beats mesh config',
  );
  t.equal(
    snapshotOf('kind: MeshConfig\npathNormalization: {normalization: DEFAULT}\n').mesh.pathNormalization,
    'BASE',
    '"DEFAULT: Apply default normalizations. Currently, this is BASE."',
  );
});

t.test('mesh config: a usual installation’s is accepted', async (t) => {
  const { problems } = compile(`kind: MeshConfig
accessLogFile: /dev/stdout
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
  proxyMetadata: {}
  tracing: {zipkin: {address: "zipkin:9411"}}
defaultProviders: {metrics: [prometheus]}
enablePrometheusMerge: true
extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa, port: 9191}}]
meshMTLS: {minProtocolVersion: TLSV1_3}
rootNamespace: istio-system
trustDomain: cluster.local
`);
  t.same(linesOf(problems, 'Error'), []);
  t.same(linesOf(problems, 'Warning'), [
    '3 defaultConfig OLK0110',
    '7 defaultProviders OLK0110',
    '8 enablePrometheusMerge OLK0110',
  ]);
});

t.test('mesh config: what is refused or warned of', async (t) => {
  const cases: readonly (readonly [string, string])[] = [
    ['trustDomains: [a]', '2 trustDomains OLK0103'],
    ['trustDomain: A_b/c', '2 trustDomain OLK0108'],
    ['trustDomainAliases:\n- ""', '3 trustDomainAliases[0] OLK0108'],
    ['rootNamespace: a/b', '2 rootNamespace OLK0108'],
    ['caCertificates: [{pem: x}]', '2 caCertificates[0].pem OLK0108'],
    ['outboundTrafficPolicy: {mode: NONE}', '2 outboundTrafficPolicy.mode OLK0105'],
    ['outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}', '2 outboundTrafficPolicy.mode OLK0107'],
    ['pathNormalization: {normalization: ALL}', '2 pathNormalization.normalization OLK0105'],
    ['defaultConfig: {caCertificatesPem: [x]}', '2 defaultConfig.caCertificatesPem OLK0107'],
    ['defaultConfig: {concurency: 2}', '2 defaultConfig.concurency OLK0103'],
    ['enableAutoMtls: "false"', '2 enableAutoMtls OLK0104'],
  ];
  for (const [fields, expected] of cases) {
    const found = errorsOf(`kind: MeshConfig\n${fields}\n`);
    t.ok(found.includes(expected), fields, { found, expected });
  }
  const warned = (fields: string) => linesOf(compile(`kind: MeshConfig\n${fields}\n`).problems, 'Warning');
  t.same(warned('defaultConfig: {proxyHeaders: {server: {value: x}}}'), [
    '2 defaultConfig.proxyHeaders.server OLK0110',
  ]);
});
