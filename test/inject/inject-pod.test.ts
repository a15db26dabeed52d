/** Injection by Istio's rules; expected values are those of Istio's own pairs (pkg/kube/inject/testdata). */
import t from 'tap';
import { DEFAULT_INJECT_CONFIG, type InjectConfig } from '../../inject/inject-config.ts';
import { injectPod } from '../../inject/inject-pod.ts';
import { isObject, type Json, type JsonObject } from '../../inject/json.ts';
import { injectObject } from '../../inject/objects.ts';
import { ownerOfPod } from '../../inject/owner.ts';
import { schemaProblems } from './schemas.ts';

// biome-ignore lint/suspicious/noExplicitAny: pods are looked into by tests that know them
type Any = any;

interface Made {
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly metadata?: JsonObject;
  readonly spec?: JsonObject;
}

/** Istio's hello. */
function hello({ annotations = {}, labels = {}, metadata = {}, spec = {} }: Made = {}): JsonObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'hello', labels: { app: 'hello', ...labels }, annotations, ...metadata },
    spec: {
      containers: [{ name: 'hello', image: 'hello:1', ports: [{ name: 'http', containerPort: 80 }] }],
      ...spec,
    },
  };
}

function inject(
  made: Made = {},
  config: Partial<InjectConfig> = {},
): { pod: Any; warnings: readonly string[] } {
  const ownerOf = (pod: Parameters<typeof ownerOfPod>[0]) => ownerOfPod(pod, 'default');
  return injectPod(hello(made), 'the pod', ownerOf, { ...DEFAULT_INJECT_CONFIG, ...config });
}

function container(pod: Any, name: string): Any {
  return [...(pod.spec.initContainers ?? []), ...pod.spec.containers].find((one) => one.name === name);
}

function envOf(pod: Any): Readonly<Record<string, string>> {
  const list: readonly Any[] = container(pod, 'istio-proxy').env;
  return Object.fromEntries(
    list.map(({ name, value, valueFrom }) => [name, value ?? valueFrom.fieldRef.fieldPath]),
  );
}

const names = (list: readonly Any[] = []): readonly string[] => list.map(({ name }) => name);

t.test('what Istio adds, under its names', async (t) => {
  const { pod, warnings } = inject();
  t.same(warnings, []);
  t.same(names(pod.spec.initContainers), ['istio-init', 'istio-proxy']);
  t.same(names(pod.spec.containers), ['hello']);
  t.same(pod.metadata.labels, {
    app: 'hello',
    'security.istio.io/tlsMode': 'istio',
    'service.istio.io/canonical-name': 'hello',
    'service.istio.io/canonical-revision': 'latest',
  });
  const { 'sidecar.istio.io/status': status, ...annotations } = pod.metadata.annotations;
  t.same(annotations, {
    'istio.io/rev': 'default',
    'kubectl.kubernetes.io/default-container': 'hello',
    'kubectl.kubernetes.io/default-logs-container': 'hello',
    'prometheus.io/path': '/stats/prometheus',
    'prometheus.io/port': '15020',
    'prometheus.io/scrape': 'true',
  });
  t.same(JSON.parse(status), {
    initContainers: ['istio-init', 'istio-proxy'],
    containers: null,
    volumes: names(pod.spec.volumes),
    imagePullSecrets: null,
    revision: 'default',
  });
  const init = container(pod, 'istio-init');
  t.same(init.args, ['iptables']);
  t.match(init.securityContext, {
    allowPrivilegeEscalation: false,
    privileged: false,
    capabilities: { add: ['NET_ADMIN', 'NET_RAW'], drop: ['ALL'] },
    readOnlyRootFilesystem: true,
    runAsUser: 0,
    runAsGroup: 0,
    runAsNonRoot: false,
  });
  const proxy = container(pod, 'istio-proxy');
  t.same(proxy.args, ['run']);
  t.equal(proxy.restartPolicy, 'Always');
  t.same(proxy.securityContext, {
    allowPrivilegeEscalation: false,
    privileged: false,
    capabilities: { drop: ['ALL'] },
    readOnlyRootFilesystem: true,
    runAsUser: 1337,
    runAsGroup: 1337,
    runAsNonRoot: true,
    seccompProfile: { type: 'RuntimeDefault' },
  });
  const ready = { path: '/healthz/ready', port: 15021 };
  t.same(proxy.startupProbe, { httpGet: ready, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 600 });
  t.same(proxy.readinessProbe, { httpGet: ready, periodSeconds: 15, timeoutSeconds: 3, failureThreshold: 4 });
  t.same(proxy.resources, {
    requests: { cpu: '100m', memory: '128Mi' },
    limits: { cpu: '2', memory: '1Gi' },
  });
  t.match(envOf(pod), {
    POD_NAME: 'metadata.name',
    POD_NAMESPACE: 'metadata.namespace',
    INSTANCE_IP: 'status.podIP',
    SERVICE_ACCOUNT: 'spec.serviceAccountName',
    HOST_IP: 'status.hostIP',
    INSTANCE_IPS: 'status.podIPs',
    ISTIO_META_POD_PORTS: '[{"name":"http","containerPort":80}]',
    TRUST_DOMAIN: 'cluster.local',
    ISTIO_META_CLUSTER_ID: 'Kubernetes',
    ISTIO_META_INTERCEPTION_MODE: 'REDIRECT',
    CA_ADDR: 'oarlock-ca.oarlock-system.svc:15012',
  });
  t.same(JSON.parse(envOf(pod).ISTIO_META_LABELS ?? ''), pod.metadata.labels);
  const volume = (name: string) => pod.spec.volumes.find((one: Any) => one.name === name);
  t.same(volume('istio-token').projected.sources, [
    { serviceAccountToken: { audience: 'istio-ca', expirationSeconds: 43_200, path: 'istio-token' } },
  ]);
  t.same(volume('istiod-ca-cert').configMap, { name: 'istio-ca-root-cert' });
  t.same(names(proxy.volumeMounts).toSorted(), names(pod.spec.volumes).toSorted(), 'every volume is mounted');
  for (const { mountPath } of proxy.volumeMounts) {
    t.ok(
      ['/var/run/secrets/tokens', '/var/run/secrets/istio', '/etc/istio/pod'].includes(mountPath) ||
        /oarlock/.test(mountPath),
    );
  }
});

t.test('twice is once', async (t) => {
  for (const made of [{}, { annotations: { 'sidecar.istio.io/nativeSidecar': 'false' } }]) {
    const once = inject(made).pod;
    const again = injectPod(once, 'the pod', (pod) => ownerOfPod(pod, 'default'), DEFAULT_INJECT_CONFIG);
    t.equal(again.pod, once);
    t.same(again.warnings, []);
  }
});

t.test("annotations become the rules' flags", async (t) => {
  const traffic = (name: string, value: string) => ({ [`traffic.sidecar.istio.io/${name}`]: value });
  const rows: readonly (readonly [annotations: Record<string, string>, flags: readonly string[]])[] = [
    [{}, []],
    [traffic('includeInboundPorts', '1,2,3'), ['--include-inbound-ports=1,2,3']],
    [traffic('includeInboundPorts', ''), ['--include-inbound-ports=']],
    [traffic('excludeInboundPorts', '4, 5'), ['--exclude-inbound-ports=4,5']],
    [traffic('includeOutboundPorts', '5000'), ['--include-outbound-ports=5000']],
    [traffic('excludeOutboundPorts', '7,8,9'), ['--exclude-outbound-ports=7,8,9']],
    [
      traffic('includeOutboundIPRanges', '127.0.0.1/24,10.96.0.1/24'),
      ['--include-outbound-cidrs=127.0.0.1/24,10.96.0.1/24'],
    ],
    [
      traffic('excludeOutboundIPRanges', '10.96.0.2/24,fd00::/8'),
      ['--exclude-outbound-cidrs=10.96.0.2/24,fd00::/8'],
    ],
    [traffic('excludeInterfaces', 'eth1'), ['--exclude-interfaces=eth1']],
    [traffic('kubevirtInterfaces', 'net1,net2'), ['--kubevirt-interfaces=net1,net2']],
    [{ 'istio.io/reroute-virtual-interfaces': 'net0ps2' }, ['--kubevirt-interfaces=net0ps2']],
    // The kubelet and Prometheus come there in plaintext.
    [{ 'status.sidecar.istio.io/port': '123' }, ['--exclude-inbound-ports=123']],
    [{ 'proxy.istio.io/config': 'statusPort: 123' }, ['--exclude-inbound-ports=123']],
    [
      { 'proxy.istio.io/config': 'statusPort: 123', 'status.sidecar.istio.io/port': '124' },
      ['--exclude-inbound-ports=124'],
    ],
    [
      { 'proxy.istio.io/config': 'statusPort: 123', ...traffic('excludeInboundPorts', '4, 5') },
      ['--exclude-inbound-ports=4,5,123'],
    ],
    [
      { 'proxy.istio.io/config': 'statusPort: 123', ...traffic('excludeInboundPorts', '123,5') },
      ['--exclude-inbound-ports=123,5'],
    ],
    [{ 'proxy.istio.io/config': 'statusPort: 15020' }, []],
    [{ 'proxy.istio.io/config': 'statusPort: 0' }, []],
  ];
  for (const [annotations, flags] of rows) {
    const { pod } = inject({ annotations });
    t.same(container(pod, 'istio-init').args, ['iptables', ...flags], JSON.stringify(annotations));
  }
});

t.test("the operator's word for all pods, which a pod's annotation beats", async (t) => {
  const traffic = (name: string, value: string) => ({ [`traffic.sidecar.istio.io/${name}`]: value });
  const all: Partial<InjectConfig> = {
    includeIPRanges: '10.0.0.0/8',
    excludeIPRanges: '169.254.169.254/32, fd00::/8',
    includeInboundPorts: '*',
    excludeInboundPorts: 9100,
    includeOutboundPorts: '5000',
    excludeOutboundPorts: '5432,6379',
  };
  const flags = [
    '--include-outbound-cidrs=10.0.0.0/8',
    '--exclude-outbound-cidrs=169.254.169.254/32,fd00::/8',
    '--include-inbound-ports=*',
    '--include-outbound-ports=5000',
    '--exclude-outbound-ports=5432,6379',
    '--exclude-inbound-ports=9100',
  ];
  const rows: readonly (readonly [
    annotations: Record<string, string>,
    config: Partial<InjectConfig>,
    flags: readonly string[],
  ])[] = [
    [{}, all, flags],
    [traffic('excludeOutboundPorts', '7'), { excludeOutboundPorts: '5432' }, ['--exclude-outbound-ports=7']],
    [traffic('excludeOutboundPorts', ''), { excludeOutboundPorts: '5432' }, ['--exclude-outbound-ports=']],
    [traffic('excludeInterfaces', 'eth1'), {}, ['--exclude-interfaces=eth1']],
    [
      { 'status.sidecar.istio.io/port': '123' },
      { excludeInboundPorts: '9100' },
      ['--exclude-inbound-ports=9100,123'],
    ],
  ];
  for (const [annotations, config, wanted] of rows) {
    const { pod } = inject({ annotations }, config);
    t.same(container(pod, 'istio-init').args, ['iptables', ...wanted], JSON.stringify([annotations, config]));
  }
});

t.test("a CNI plugin reads from the pod's annotations what the rules are to be", async (t) => {
  const traffic = 'traffic.sidecar.istio.io';
  const config: Partial<InjectConfig> = {
    cni: true,
    excludeIPRanges: '10.96.0.1/32',
    excludeOutboundPorts: 5432,
  };
  const annotations = {
    'proxy.istio.io/config': 'statusPort: 123',
    [`${traffic}/excludeOutboundPorts`]: '7',
    'sidecar.istio.io/interceptionMode': 'TPROXY',
  };
  const { pod } = inject({ annotations }, config);
  t.same(names(pod.spec.initContainers), ['istio-proxy']);
  t.match(pod.metadata.annotations, {
    'sidecar.istio.io/interceptionMode': 'REDIRECT',
    [`${traffic}/excludeOutboundIPRanges`]: '10.96.0.1/32',
    [`${traffic}/excludeOutboundPorts`]: '7',
    [`${traffic}/excludeInboundPorts`]: '123',
  });
  t.notOk(`${traffic}/includeInboundPorts` in pod.metadata.annotations, 'what nobody said is not said');
  t.notMatch(
    JSON.stringify(inject({}, { excludeIPRanges: '10.96.0.1/32' }).pod.metadata.annotations),
    /traffic\.sidecar/,
    'without one, they are flags of istio-init',
  );
});

t.test('what the environment says of the rules reaches who sets them', async (t) => {
  const metadata = (text: string) => ({ 'proxy.istio.io/config': `proxyMetadata: {${text}}` });
  const rows: readonly (readonly [
    annotations: Record<string, string>,
    env: Record<string, string>,
    wanted: Record<string, string>,
  ])[] = [
    [{}, {}, {}],
    [{}, { OARLOCK_IPTABLES_IPV6: 'off' }, { OARLOCK_IPTABLES_IPV6: 'off' }],
    [metadata('OARLOCK_IPTABLES_BACKEND: nft'), {}, { OARLOCK_IPTABLES_BACKEND: 'nft' }],
    [
      metadata('OARLOCK_IPTABLES_BACKEND: nft'),
      { OARLOCK_IPTABLES_BACKEND: 'iptables', OARLOCK_IPTABLES_IPV6: 'on' },
      { OARLOCK_IPTABLES_BACKEND: 'nft', OARLOCK_IPTABLES_IPV6: 'on' },
    ],
    // Where one says the port, the other must lead there.
    [{}, { OARLOCK_INBOUND_PORT: '16006' }, { OARLOCK_INBOUND_PORT: '16006' }],
    [{}, { OARLOCK_HBONE_PORT: 'off' }, {}],
    // Of Node, which would keep it from starting the tools.
    [{}, { NODE_OPTIONS: '--permission', OARLOCK_DRAIN: '1s' }, {}],
  ];
  for (const [annotations, env, wanted] of rows) {
    const { pod } = inject({ annotations }, { env });
    const given: readonly Any[] = container(pod, 'istio-init').env ?? [];
    t.same(
      Object.fromEntries(given.map(({ name, value }) => [name, value])),
      wanted,
      JSON.stringify([annotations, env]),
    );
    t.match(envOf(pod), env.OARLOCK_DRAIN === undefined ? wanted : env, 'and the sidecar as well');
  }
});

t.test('annotations with values that Istio refuses', async (t) => {
  const rows: readonly (readonly [name: string, value: string])[] = [
    ['traffic.sidecar.istio.io/includeOutboundIPRanges', 'bad'],
    ['traffic.sidecar.istio.io/includeOutboundIPRanges', '*,10.0.0.0/8'],
    ['traffic.sidecar.istio.io/excludeOutboundIPRanges', '*'],
    ['traffic.sidecar.istio.io/excludeOutboundIPRanges', '10.0.0.0/33'],
    ['traffic.sidecar.istio.io/includeInboundPorts', 'bad'],
    ['traffic.sidecar.istio.io/excludeInboundPorts', '*'],
    ['traffic.sidecar.istio.io/excludeOutboundPorts', '65536'],
    ['traffic.sidecar.istio.io/excludeInterfaces', 'eth0; reboot'],
    ['sidecar.istio.io/interceptionMode', 'redirect'],
    ['status.sidecar.istio.io/port', 'http'],
    ['readiness.status.sidecar.istio.io/periodSeconds', '-1'],
    ['sidecar.istio.io/proxyCPU', 'much'],
    ['prometheus.istio.io/merge-metrics', 'maybe'],
    ['proxy.istio.io/config', 'concurrency: many'],
    ['proxy.istio.io/config', '- a list'],
    ['sidecar.istio.io/userVolume', 'no JSON'],
  ];
  for (const [name, value] of rows) {
    t.throws(
      () => inject({ annotations: { [name]: value } }),
      { name: 'InjectError', message: new RegExp(name) },
      `${name} ${value}`,
    );
  }
});

t.test('what one pod may say otherwise', async (t) => {
  const rows: readonly (readonly [what: string, made: Made, see: (pod: Any) => unknown, wanted: unknown])[] =
    [
      [
        'resources: one annotation, and only annotations count',
        { annotations: { 'sidecar.istio.io/proxyCPU': '4000m' } },
        (pod) => container(pod, 'istio-proxy').resources,
        { requests: { cpu: '4000m' } },
      ],
      [
        'resources: all four',
        {
          annotations: {
            'sidecar.istio.io/proxyCPU': '100m',
            'sidecar.istio.io/proxyCPULimit': '1000m',
            'sidecar.istio.io/proxyMemory': '1Gi',
            'sidecar.istio.io/proxyMemoryLimit': '2Gi',
          },
        },
        (pod) => container(pod, 'istio-init').resources,
        { requests: { cpu: '100m', memory: '1Gi' }, limits: { cpu: '1000m', memory: '2Gi' } },
      ],
      [
        'image',
        { annotations: { 'sidecar.istio.io/proxyImage': 'example.com/oarlock:2' } },
        (pod) => [container(pod, 'istio-init').image, container(pod, 'istio-proxy').image],
        ['example.com/oarlock:2', 'example.com/oarlock:2'],
      ],
      [
        'log level in Envoy words',
        { annotations: { 'sidecar.istio.io/logLevel': 'warning' } },
        (pod) => envOf(pod).OARLOCK_LOG_LEVEL,
        'warn',
      ],
      [
        'readiness',
        {
          annotations: {
            'readiness.status.sidecar.istio.io/initialDelaySeconds': '100',
            'readiness.status.sidecar.istio.io/periodSeconds': '200',
            'readiness.status.sidecar.istio.io/failureThreshold': '300',
          },
        },
        (pod) => container(pod, 'istio-proxy').readinessProbe,
        {
          httpGet: { path: '/healthz/ready', port: 15021 },
          initialDelaySeconds: 100,
          periodSeconds: 200,
          timeoutSeconds: 3,
          failureThreshold: 300,
        },
      ],
      [
        'a status port of 0: no probes',
        { annotations: { 'status.sidecar.istio.io/port': '0' } },
        (pod) => [container(pod, 'istio-proxy').readinessProbe, envOf(pod).OARLOCK_METRICS_PORT],
        [undefined, 'off'],
      ],
      [
        'volumes of the user',
        {
          annotations: {
            'sidecar.istio.io/userVolume': '{"data":{"persistentVolumeClaim":{"claimName":"claim"}}}',
            'sidecar.istio.io/userVolumeMount': '{"data":{"mountPath":"/mnt","readOnly":true}}',
          },
        },
        (pod) => [pod.spec.volumes.at(-1), container(pod, 'istio-proxy').volumeMounts.at(-1)],
        [
          { name: 'data', persistentVolumeClaim: { claimName: 'claim' } },
          { name: 'data', mountPath: '/mnt', readOnly: true },
        ],
      ],
      [
        'environment of proxy config; ours gives way',
        {
          annotations: {
            'proxy.istio.io/config': 'proxyMetadata: {FOO: bar, SECRET_TTL: 1h, CA_ADDR: "ca:1"}',
          },
        },
        (pod) => [envOf(pod).FOO, envOf(pod).SECRET_TTL, envOf(pod).CA_ADDR],
        ['bar', '1h', 'ca:1'],
      ],
      [
        'threads and drain of proxy config',
        { annotations: { 'proxy.istio.io/config': '{"concurrency":4,"terminationDrainDuration":"20s"}' } },
        (pod) => [envOf(pod).OARLOCK_CONCURRENCY, envOf(pod).OARLOCK_DRAIN],
        ['4', '20000ms'],
      ],
      [
        'no redirection',
        { annotations: { 'sidecar.istio.io/interceptionMode': 'NONE' } },
        (pod) => [names(pod.spec.initContainers), envOf(pod).OARLOCK_INTERCEPT],
        [['istio-proxy'], 'none'],
      ],
      [
        'HBONE',
        { annotations: { 'proxy.istio.io/config': 'proxyMetadata: {ISTIO_META_ENABLE_HBONE: "true"}' } },
        (pod) => pod.metadata.labels['networking.istio.io/tunnel'],
        'http',
      ],
      [
        'own labels stay',
        { labels: { 'service.istio.io/canonical-name': 'mine', version: 'v3' } },
        (pod) => [
          pod.metadata.labels['service.istio.io/canonical-name'],
          pod.metadata.labels['service.istio.io/canonical-revision'],
        ],
        ['mine', 'v3'],
      ],
      [
        "the app's own metrics stay its own",
        { annotations: { 'prometheus.io/port': '9090', 'prometheus.io/scrape': 'true' } },
        (pod) => [
          pod.metadata.annotations['prometheus.io/port'],
          pod.metadata.annotations['prometheus.io/path'],
        ],
        ['9090', undefined],
      ],
      [
        'native, with init containers of the app after it',
        { spec: { containers: [{ name: 'app' }], initContainers: [{ name: 'one' }, { name: 'two' }] } },
        (pod) => names(pod.spec.initContainers),
        ['istio-init', 'istio-proxy', 'one', 'two'],
      ],
      [
        'plain: rules last, sidecar last',
        {
          annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
          spec: { containers: [{ name: 'app' }], initContainers: [{ name: 'one' }] },
        },
        (pod) => [
          names(pod.spec.initContainers),
          names(pod.spec.containers),
          container(pod, 'istio-proxy').restartPolicy,
        ],
        [['one', 'istio-init'], ['app', 'istio-proxy'], undefined],
      ],
      [
        'plain, and the app waits: sidecar first',
        {
          annotations: {
            'sidecar.istio.io/nativeSidecar': 'false',
            'proxy.istio.io/config': '{ "holdApplicationUntilProxyStarts": true }',
          },
        },
        (pod) => [names(pod.spec.containers), container(pod, 'istio-proxy').lifecycle],
        [['istio-proxy', 'hello'], { postStart: { exec: { command: ['oarlock', 'wait'] } } }],
      ],
      [
        "plain: drains within the pod's grace period",
        {
          annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
          spec: { containers: [{ name: 'a' }], terminationGracePeriodSeconds: 60 },
        },
        (pod) => [envOf(pod).OARLOCK_DRAIN_DELAY, envOf(pod).OARLOCK_DRAIN],
        ['5s', '53000ms'],
      ],
      [
        "plain, in a Job's pod that shares its processes: first, or a quick app were over before it looks",
        {
          annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
          spec: { containers: [{ name: 'a' }], restartPolicy: 'Never', shareProcessNamespace: true },
        },
        (pod) => [
          envOf(pod).OARLOCK_EXIT_WITH_APP,
          names(pod.spec.containers),
          container(pod, 'istio-proxy').lifecycle.postStart,
        ],
        ['all', ['istio-proxy', 'a'], { exec: { command: ['oarlock', 'wait'] } }],
      ],
      [
        'but not where the pod says so',
        {
          annotations: {
            'sidecar.istio.io/nativeSidecar': 'false',
            'proxy.istio.io/config': 'holdApplicationUntilProxyStarts: false',
          },
          spec: { containers: [{ name: 'a' }], restartPolicy: 'Never', shareProcessNamespace: true },
        },
        (pod) => [envOf(pod).OARLOCK_EXIT_WITH_APP, names(pod.spec.containers)],
        ['all', ['a', 'istio-proxy']],
      ],
      [
        'plain, in a pod that shares its processes and is to stay',
        {
          annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
          spec: { containers: [{ name: 'a' }], shareProcessNamespace: true },
        },
        (pod) => [envOf(pod).OARLOCK_EXIT_WITH_APP, names(pod.spec.containers)],
        [undefined, ['a', 'istio-proxy']],
      ],
    ];
  for (const [what, made, see, wanted] of rows) t.same(see(inject(made).pod), wanted, what);
});

t.test('a native sidecar is told of the end of its pod when the app is, and serves on', async (t) => {
  const lifecycleOf = (pod: JsonObject): unknown => container(inject(pod).pod, 'istio-proxy').lifecycle;
  const spec = { containers: [{ name: 'hello', image: 'hello:1' }] };
  const drain = (port: number): unknown => ({
    preStop: {
      exec: { command: ['oarlock', 'probe', `http://127.0.0.1:${port}/drain`, '--method', 'POST'] },
    },
  });
  const annotated = (annotations: Record<string, string>): JsonObject => ({
    metadata: { annotations },
    spec,
  });
  t.same(lifecycleOf({ spec }), drain(15020));
  t.same(lifecycleOf(annotated({ 'status.sidecar.istio.io/port': '15030' })), drain(15030));
  t.same(lifecycleOf(annotated({ 'status.sidecar.istio.io/port': '0' })), undefined, 'nobody can be told');
  t.same(lifecycleOf(annotated({ 'sidecar.istio.io/nativeSidecar': 'false' })), undefined, 'SIGTERM says it');
});

t.test("the user's own istio-proxy", async (t) => {
  const { pod } = inject({
    spec: {
      containers: [
        { name: 'hello', image: 'hello:1' },
        {
          name: 'istio-proxy',
          image: 'auto',
          resources: { requests: { cpu: '123m' } },
          lifecycle: { preStop: { exec: { command: ['sleep', '10'] } } },
          env: [{ name: 'OARLOCK_LOG_LEVEL', value: 'debug' }],
          volumeMounts: [{ name: 'certs', mountPath: '/etc/certs' }],
          securityContext: { readOnlyRootFilesystem: false, runAsUser: 1234, runAsGroup: 4321 },
        },
      ],
      volumes: [{ name: 'certs', secret: { secretName: 'istio-certs' } }],
    },
  });
  const proxy = container(pod, 'istio-proxy');
  t.same(names(pod.spec.containers), ['hello']);
  t.equal(proxy.image, DEFAULT_INJECT_CONFIG.image);
  t.equal(proxy.restartPolicy, 'Always');
  t.same(proxy.resources, {
    requests: { cpu: '123m', memory: '128Mi' },
    limits: { cpu: '2', memory: '1Gi' },
  });
  t.same(proxy.lifecycle, { preStop: { exec: { command: ['sleep', '10'] } } });
  t.equal(envOf(pod).OARLOCK_LOG_LEVEL, 'debug');
  t.match(proxy.securityContext, {
    runAsUser: 1234,
    runAsGroup: 4321,
    readOnlyRootFilesystem: false,
    privileged: false,
  });
  t.ok(names(proxy.volumeMounts).includes('certs') && names(proxy.volumeMounts).includes('istio-token'));
  t.equal(pod.spec.volumes[0].name, 'certs');
  t.same(container(pod, 'istio-init').args, ['iptables', '--uid=1234', '--gid=4321'], 'its traffic passes');
});

t.test('who is injected', async (t) => {
  const inject = 'sidecar.istio.io/inject';
  const rows: readonly (readonly [
    what: string,
    made: Made,
    policy: 'enabled' | 'disabled',
    injected: boolean,
    warning: RegExp | null,
  ])[] = [
    ['says nothing', {}, 'enabled', true, null],
    ['says nothing', {}, 'disabled', false, null],
    ['annotation true', { annotations: { [inject]: 'true' } }, 'disabled', true, null],
    ['annotation false', { annotations: { [inject]: 'false' } }, 'enabled', false, null],
    ['label false', { labels: { [inject]: 'false' } }, 'enabled', false, null],
    [
      'label beats annotation',
      { labels: { [inject]: 'true' }, annotations: { [inject]: 'false' } },
      'disabled',
      true,
      null,
    ],
    ['neither', { labels: { [inject]: 'yes' } }, 'disabled', false, null],
    ['neither', { labels: { [inject]: 'yes' } }, 'enabled', true, /must be "true" or "false", not "yes"/],
    [
      'host network',
      { spec: { hostNetwork: true, containers: [{ name: 'a' }] } },
      'enabled',
      false,
      /hostNetwork/,
    ],
    [
      'injected by Istio',
      {
        annotations: { 'sidecar.istio.io/status': '{}' },
        spec: { containers: [{ name: 'istio-proxy', args: ['proxy', 'sidecar'] }] },
      },
      'enabled',
      false,
      /not by Oarlock/,
    ],
    ['a gateway', { annotations: { 'inject.istio.io/templates': 'gateway' } }, 'enabled', false, /gateway/],
    [
      'TPROXY',
      { annotations: { 'sidecar.istio.io/interceptionMode': 'TPROXY' } },
      'enabled',
      true,
      /TPROXY is not offered/,
    ],
    [
      'a Job with a plain sidecar',
      {
        annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
        spec: { restartPolicy: 'Never', containers: [{ name: 'a' }] },
      },
      'enabled',
      true,
      /will not complete/,
    ],
    [
      'a Job with a plain sidecar that sees its app',
      {
        annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
        spec: { restartPolicy: 'Never', shareProcessNamespace: true, containers: [{ name: 'a' }] },
      },
      'enabled',
      true,
      null,
    ],
    [
      'the same, and its app would be started again',
      {
        annotations: { 'sidecar.istio.io/nativeSidecar': 'false' },
        spec: { restartPolicy: 'OnFailure', shareProcessNamespace: true, containers: [{ name: 'a' }] },
      },
      'enabled',
      true,
      /set restartPolicy: Never/,
    ],
    [
      'the same, and its app does not wait',
      {
        annotations: {
          'sidecar.istio.io/nativeSidecar': 'false',
          'proxy.istio.io/config': 'holdApplicationUntilProxyStarts: false',
        },
        spec: { restartPolicy: 'Never', shareProcessNamespace: true, containers: [{ name: 'a' }] },
      },
      'enabled',
      true,
      /leave out holdApplicationUntilProxyStarts: false/,
    ],
    [
      'annotations of Envoy',
      {
        annotations: {
          'sidecar.istio.io/bootstrapOverride': 'map',
          'sidecar.istio.io/proxyCPU': '100m',
          'prometheus.io/port': '1',
          'traffic.istio.io/nodeSelector': '{}',
        },
      },
      'enabled',
      true,
      /^annotation "sidecar\.istio\.io\/bootstrapOverride" is not offered: it has no effect$/,
    ],
    [
      'a name mistyped',
      { annotations: { 'traffic.sidecar.istio.io/excludeOutboundPort': '5432' } },
      'enabled',
      true,
      /^annotation "traffic\.sidecar\.istio\.io\/excludeOutboundPort" is not offered/,
    ],
    [
      "Envoy's own in proxy config",
      { annotations: { 'proxy.istio.io/config': '{tracing: {}, concurrency: 2, gatewayTopology: {}}' } },
      'enabled',
      true,
      /^annotation proxy\.istio\.io\/config: not offered, without effect: "tracing", "gatewayTopology"$/,
    ],
    [
      'and very many',
      {
        annotations: {
          'proxy.istio.io/config': JSON.stringify(
            Object.fromEntries([...'abcdefghi'].map((key) => [key, 1])),
          ),
        },
      },
      'enabled',
      true,
      /"d", "e", 4 more$/,
    ],
  ];
  for (const [what, made, policy, injected, warning] of rows) {
    const ownerOf = (pod: Parameters<typeof ownerOfPod>[0]) => ownerOfPod(pod, 'default');
    const done = injectPod(hello(made), 'the pod', ownerOf, { ...DEFAULT_INJECT_CONFIG, policy });
    t.equal(done.injected, injected, `${what}, ${policy}`);
    if (warning === null) t.same(done.warnings, [], what);
    else t.match(done.warnings.join(), warning, what);
  }
  for (const namespace of ['kube-system', 'kube-public', 'kube-node-lease', 'local-path-storage']) {
    t.equal(
      injectObject(hello({ metadata: { namespace } }), 'x', DEFAULT_INJECT_CONFIG).warnings.length,
      1,
      namespace,
    );
  }
});

t.test('names in the mesh come from who made the pod', async (t) => {
  const controller = (kind: string, name: string, apiVersion = 'apps/v1') => ({
    name: undefined,
    generateName: 'x-',
    ownerReferences: [{ apiVersion, kind, name, controller: true }],
  });
  const rows: readonly (readonly [metadata: JsonObject, labels: Record<string, string>, name: string])[] = [
    [{}, {}, 'hello'],
    [controller('ReplicaSet', 'web-5d4f8'), { 'pod-template-hash': '5d4f8' }, 'web'],
    [controller('ReplicaSet', 'web-5d4f8'), {}, 'web-5d4f8'],
    [controller('StatefulSet', 'db'), {}, 'db'],
    [controller('Job', 'backup-28412345', 'batch/v1'), {}, 'backup'],
    [controller('Job', 'backup-28', 'batch/v1'), {}, 'backup-28'],
    [{ name: `${'n'.repeat(62)}-more` }, {}, 'n'.repeat(62)],
  ];
  for (const [metadata, labels, name] of rows) {
    const pod = hello({ metadata: { labels, ...metadata } });
    const done = injectPod(pod, 'the pod', (found) => ownerOfPod(found, 'default'), DEFAULT_INJECT_CONFIG)
      .pod as Any;
    t.equal(done.metadata.labels['service.istio.io/canonical-name'], name, JSON.stringify(metadata));
  }
});

t.test('each kind has its template found, and what comes out is valid by its schema', async (t) => {
  const { metadata, spec } = hello({ annotations: {} });
  const template = { metadata: { labels: { app: 'hello' } }, spec } as JsonObject;
  const selector = { matchLabels: { app: 'hello' } };
  const job = { template: { ...template, spec: { ...(spec as JsonObject), restartPolicy: 'Never' } } };
  const objects: readonly JsonObject[] = [
    { apiVersion: 'v1', kind: 'Pod', metadata, spec } as JsonObject,
    { apiVersion: 'apps/v1', kind: 'Deployment', spec: { selector, template } },
    { apiVersion: 'apps/v1', kind: 'StatefulSet', spec: { selector, template, serviceName: 'hello' } },
    { apiVersion: 'apps/v1', kind: 'DaemonSet', spec: { selector, template } },
    { apiVersion: 'apps/v1', kind: 'ReplicaSet', spec: { selector, template } },
    { apiVersion: 'v1', kind: 'ReplicationController', spec: { template } },
    { apiVersion: 'batch/v1', kind: 'Job', spec: job },
    { apiVersion: 'batch/v1', kind: 'CronJob', spec: { schedule: '* * * * *', jobTemplate: { spec: job } } },
  ].map((object) => ({ metadata: { name: 'hello' }, ...object }) as JsonObject);
  const done: Json[] = [];
  for (const nativeSidecar of [true, false]) {
    const config = { ...DEFAULT_INJECT_CONFIG, nativeSidecar, holdApplicationUntilProxyStarts: true };
    for (const object of objects) {
      const { value } = injectObject(object, 'default', config);
      t.match(JSON.stringify(value), /"istio-proxy"/, String(object.kind));
      t.same(injectObject(value, 'default', config).value, value, 'twice is once');
      done.push(value);
    }
  }
  t.same(await schemaProblems(t, done as Any), []);
  const list = injectObject(
    { apiVersion: 'v1', kind: 'List', items: objects },
    'default',
    DEFAULT_INJECT_CONFIG,
  );
  const { items } = list.value as Any;
  t.ok(items.every((item: Json) => isObject(item) && JSON.stringify(item).includes('istio-proxy')));
});

t.test('what is no template stays', async (t) => {
  for (const object of [
    { apiVersion: 'v1', kind: 'Service', spec: {} },
    { apiVersion: 'serving.example/v1', kind: 'Deployment', spec: {} },
    { apiVersion: 'v1', kind: 'Nothing' },
    'text',
    null,
  ]) {
    t.equal(injectObject(object, 'default', DEFAULT_INJECT_CONFIG).value, object);
  }
});

t.test('a shape Kubernetes would not take is named', async (t) => {
  const rows: readonly (readonly [object: Json, words: RegExp])[] = [
    [
      { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'x' }, spec: {} },
      /Deployment default\/x: spec.template must be/,
    ],
    [hello({ spec: { containers: {} as Json } }), /spec.containers must be a list/],
    [hello({ spec: { containers: [{ image: 'x' }] } }), /spec.containers\[0\] must be an object with a name/],
    [hello({ metadata: { annotations: { a: 5 } } }), /annotations: a must be a string/],
  ];
  for (const [object, words] of rows) {
    t.throws(() => injectObject(object, 'default', DEFAULT_INJECT_CONFIG), {
      name: 'InjectError',
      message: words,
    });
  }
});

t.test('an app that runs as the sidecar does is told of', async (t) => {
  const as = (pod: JsonObject | null, container: JsonObject | null): JsonObject => ({
    ...(pod === null ? {} : { securityContext: pod }),
    containers: [{ name: 'hello', ...(container === null ? {} : { securityContext: container }) }],
  });
  const past = (whom: string): readonly string[] => [
    `container hello runs as ${whom}, which is the sidecar's: its connections go past the mesh`,
  ];
  const proxy = { name: 'istio-proxy', securityContext: { runAsUser: 2000, runAsGroup: 2000 } };
  const rows: readonly (readonly [what: string, spec: JsonObject, warnings: readonly string[]])[] = [
    ['another user', as(null, { runAsUser: 1000, runAsGroup: 1000 }), []],
    ['its user', as(null, { runAsUser: 1337 }), past('user 1337')],
    ['its group', as(null, { runAsGroup: 1337 }), past('group 1337')],
    ['both, by the pod', as({ runAsUser: 1337, runAsGroup: 1337 }, null), past('user 1337 and group 1337')],
    ["the container's own word", as({ runAsUser: 1337 }, { runAsUser: 1000 }), []],
    [
      'a sidecar of another user',
      { containers: [...(as(null, { runAsUser: 1337 }).containers as Json[]), proxy] },
      [],
    ],
    [
      'and an app of that one',
      { containers: [...(as(null, { runAsUser: 2000 }).containers as Json[]), proxy] },
      past('user 2000'),
    ],
  ];
  for (const [what, spec, warnings] of rows) t.same(inject({ spec }).warnings, warnings, what);
  const uncaptured = { 'sidecar.istio.io/interceptionMode': 'NONE' };
  t.same(inject({ annotations: uncaptured, spec: as(null, { runAsUser: 1337 }) }).warnings, [], 'no capture');
});

t.test('what has no name yet is called by what its name will be made of', async (t) => {
  const template = { spec: { containers: [{ name: 'main' }] } };
  const named = (value: JsonObject): string => {
    const done: Any = injectObject(value, 'default', DEFAULT_INJECT_CONFIG).value;
    return (done.spec.template ?? done).metadata.labels['service.istio.io/canonical-name'];
  };
  const metadata = { generateName: 'import-' };
  t.equal(named({ apiVersion: 'batch/v1', kind: 'Job', metadata, spec: { template } }), 'import');
  t.equal(named({ apiVersion: 'v1', kind: 'Pod', metadata, spec: template.spec }), 'import');
});
