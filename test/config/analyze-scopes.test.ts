/** Checks of selectors, scopes and ports: what triggers each, on which line, and a sibling that does not. */
import { authz, entry, ISSUER, ORDERS, peer, rule, run, sidecar, token, WEB } from './analyze-cases.ts';

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
