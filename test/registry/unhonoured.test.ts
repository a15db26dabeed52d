/** What is accepted without effect is still checked as Istio's schema and webhook check it. */
import t from 'tap';
import { compile, errorsOf, linesOf, resource } from './helper.ts';

function rule(policy: string): string {
  return resource('DestinationRule', 'web/r', `host: a.b\ntrafficPolicy: {${policy}}`);
}

/** A traffic policy that is refused, and the field named. */
const refused: readonly (readonly [string, string])[] = [
  ['connectionPool: {}', 'connectionPool OLK0106'],
  ['connectionPool: {tcp: {maxConnections: -1}}', 'connectionPool.tcp.maxConnections OLK0108'],
  ['connectionPool: {tcp: {maxConnections: "1"}}', 'connectionPool.tcp.maxConnections OLK0104'],
  ['connectionPool: {tcp: {connectTimeout: 10}}', 'connectionPool.tcp.connectTimeout OLK0108'],
  ['connectionPool: {tcp: {connectTimeout: 0.5ms}}', 'connectionPool.tcp.connectTimeout OLK0108'],
  ['connectionPool: {tcp: {connectTimeout: 1.0005s}}', 'connectionPool.tcp.connectTimeout OLK0108'],
  ['connectionPool: {tcp: {connectTimeout: -1s}}', 'connectionPool.tcp.connectTimeout OLK0108'],
  ['connectionPool: {tcp: {connectTimeout: 0s}}', 'connectionPool.tcp.connectTimeout OLK0108'],
  ['connectionPool: {tcp: {idleTimeout: 1.0005s}}', 'connectionPool.tcp.idleTimeout OLK0108'],
  ['connectionPool: {tcp: {tcpKeepalive: {probes: -1}}}', 'connectionPool.tcp.tcpKeepalive.probes OLK0108'],
  [
    'connectionPool: {http: {http2KeepAlive: {interval: 1s}}}',
    'connectionPool.http.http2KeepAlive.timeout OLK0106',
  ],
  [
    'connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}',
    'connectionPool.http.useClientProtocol OLK0108',
  ],
  ['outlierDetection: {maxEjectionPercent: 101}', 'outlierDetection.maxEjectionPercent OLK0108'],
  ['outlierDetection: {interval: x}', 'outlierDetection.interval OLK0108'],
  [
    'outlierDetection: {consecutiveLocalOriginFailures: 1}',
    'outlierDetection.consecutiveLocalOriginFailures OLK0108',
  ],
  [
    'loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}',
    'loadBalancer.consistentHash OLK0108',
  ],
  [
    'loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}',
    'loadBalancer.consistentHash.useSourceIp OLK0108',
  ],
  ['loadBalancer: {consistentHash: {httpCookie: {}}}', 'loadBalancer.consistentHash.httpCookie.name OLK0106'],
  [
    'loadBalancer: {consistentHash: {maglev: {tableSize: 9}}}',
    'loadBalancer.consistentHash.maglev.tableSize OLK0108',
  ],
  ['loadBalancer: {consistentHash: {maglev: {}}}', 'loadBalancer.consistentHash.maglev.tableSize OLK0108'],
  ['loadBalancer: {warmup: {}}', 'loadBalancer.warmup.duration OLK0106'],
  ['loadBalancer: {warmup: {duration: 1s, aggression: 0}}', 'loadBalancer.warmup.aggression OLK0108'],
  [
    'loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}',
    'loadBalancer.warmup.minimumPercent OLK0108',
  ],
  [
    'loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 60}}]}}',
    'loadBalancer.localityLbSetting.distribute[0].to OLK0108',
  ],
  [
    'loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}, {from: a/z, to: {b: 100}}]}}',
    'loadBalancer.localityLbSetting.distribute OLK0108',
  ],
  [
    'loadBalancer: {localityLbSetting: {distribute: [{from: a//z, to: {b: 100}}]}}',
    'loadBalancer.localityLbSetting.distribute OLK0108',
  ],
  [
    'loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}',
    'loadBalancer.localityLbSetting.failover[0] OLK0108',
  ],
  [
    'loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}}',
    'loadBalancer.localityLbSetting.failoverPriority OLK0108',
  ],
  [
    'loadBalancer: {zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}}',
    'loadBalancer.zoneAwareLbSetting.failoverPriority OLK0108',
  ],
  [
    'loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}',
    'loadBalancer.zoneAwareLbSetting OLK0108',
  ],
  ['proxyProtocol: {version: V3}', 'proxyProtocol.version OLK0105'],
  ['proxyProtocol: {versions: V1}', 'proxyProtocol.versions OLK0103'],
  ['retryBudget: {percent: 101}', 'retryBudget.percent OLK0108'],
  [
    'portLevelSettings: [{port: {number: 1}, connectionPool: {}}]',
    'portLevelSettings[0].connectionPool OLK0106',
  ],
];

const accepted: readonly string[] = [
  'connectionPool: {tcp: {connectTimeout: 1h2m3.5s, idleTimeout: 0s, tcpKeepalive: {time: 7200s, interval: 75s}}}',
  'connectionPool: {http: {}}',
  'outlierDetection: {consecutive5xxErrors: 7, interval: 5m, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1}',
  'loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}, maglev: {tableSize: 65537}}}',
  'loadBalancer: {localityLbSetting: {enabled: true, distribute: [{from: "a/z/*", to: {"a/z/*": 80, "a/y/*": 20}}]}}',
  'loadBalancer: {zoneAwareLbSetting: {failover: [{from: a, to: b}], minClusterSize: 3}}',
  'loadBalancer: {warmup: {duration: 1s, minimumPercent: 10, aggression: 1.5}}',
  'proxyProtocol: {version: V2}',
  'retryBudget: {percent: 20.5, minRetryConcurrency: 3, budgetInterval: 10s}',
  'portLevelSettings: [{port: {}, tls: {mode: DISABLE}}]',
];

t.test('what Istio refuses is refused, the field named', async (t) => {
  for (const [policy, expected] of refused) {
    t.same(errorsOf(rule(policy)), [`7 spec.trafficPolicy.${expected}`], policy);
  }
});

t.test('what Istio accepts is accepted', async (t) => {
  for (const policy of accepted) t.same(errorsOf(rule(policy)), [], policy);
});

t.test('selectors without labels and doubled hosts are warned of', async (t) => {
  const warnings = (yaml: string): readonly string[] => linesOf(compile(yaml).problems, 'Warning');
  t.same(warnings(resource('DestinationRule', 'web/r', 'host: a.b\nworkloadSelector: {}')), [
    '7 spec.workloadSelector OLK0106',
  ]);
  const egress = (hosts: string): string => resource('Sidecar', 'web/s', `egress: [{hosts: [${hosts}]}]`);
  t.same(warnings(egress('"./a.b", "web/a.b"')), ['6 spec.egress[0].hosts OLK0109']);
  t.same(warnings(egress('"*/*", "x/a.b"')), ['6 spec.egress[0].hosts OLK0108']);
  t.same(warnings(egress('"./a.b", "~./a.b", "x/*"')), []);
  const entry = (spec: string): string => resource('ServiceEntry', 'web/s', spec);
  t.same(warnings(entry('hosts: ["*a.com"]\nports: [{number: 1, name: a, protocol: HTTP}]')), [
    '6 spec.hosts[0] OLK0108',
  ]);
  t.same(warnings(entry('hosts: [a.com]\nports: [{number: 1, name: a}]')), [
    '7 spec.ports[0].protocol OLK0108',
  ]);
});

t.test('annotations that Istio keeps for itself', async (t) => {
  for (const name of ['istio.io/dry-run', 'internal.istio.io/parents']) {
    const yaml = rule('tls: {mode: DISABLE}').replace(
      'namespace: web',
      `namespace: web, annotations: {${name}: x}`,
    );
    t.match(errorsOf(yaml), [/metadata\.annotations.* OLK0108/], name);
  }
});
