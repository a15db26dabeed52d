/** `/certs` and `/snapshot`: what they show of real credentials and a snapshot, and that no key is in it. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Credentials } from '../../mesh/credentials.ts';
import { identityOf } from '../../mesh/identity.ts';
import type { Route } from '../../mesh/route.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { snapshotView } from '../../telemetry/admin-views.ts';
import { ownView } from '../../telemetry/certs-view.ts';

function credentialsIn(dir: string): Credentials {
  const keyFile = join(dir, 'key.pem');
  const certFile = join(dir, 'cert.pem');
  execFileSync(
    'openssl',
    `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ${keyFile} -out ${certFile} -days 1 -subj / -set_serial 0x0abc -addext subjectAltName=critical,URI:spiffe://td/ns/shop/sa/orders`.split(
      ' ',
    ),
    { stdio: 'ignore' },
  );
  const chainPem = readFileSync(certFile, 'utf8');
  return {
    identity: identityOf('td', 'shop', 'orders'),
    chainPem,
    keyPem: readFileSync(keyFile, 'utf8'),
    rootsPem: [chainPem],
    federated: [],
    clockSkewMs: null,
    notBefore: Date.now() - 1_000,
    notAfter: Date.now() + 3_600_000,
    serial: '0abc',
    origin: `files ${dir}`,
  };
}

t.test('/certs shows chain, roots, validity and state, and no key', (t) => {
  const credentials = credentialsIn(t.testdir());
  const view = ownView(credentials, Date.now());
  t.match(view, {
    state: 'valid',
    identity: 'spiffe://td/ns/shop/sa/orders',
    origin: /^files /,
    chain: [
      {
        subjectAltName: 'URI:spiffe://td/ns/shop/sa/orders',
        serial: '0abc',
        notBefore: /Z$/,
        notAfter: /Z$/,
        fingerprint256: /^([0-9A-F]{2}:){31}[0-9A-F]{2}$/,
      },
    ],
    roots: [{ fingerprint256: /:/ }],
  });
  t.ok((view.secondsLeft ?? 0) > 3_500);
  const text = JSON.stringify(view);
  t.notMatch(text, 'PRIVATE KEY');
  const keyBody = credentials.keyPem.split('\n')[1] ?? 'missing';
  t.notMatch(text, keyBody.slice(0, 24));
  t.equal(ownView(credentials, credentials.notAfter).state, 'expired');
  t.equal(ownView(credentials, credentials.notBefore - 1).state, 'not_yet_valid');
  t.equal(ownView(null, 0).state, 'none');
  t.end();
});

t.test('/snapshot shows workload, modes with their source, listeners and routes', (t) => {
  const identity = 'spiffe://td/ns/shop/sa/payments';
  const tunnel = { port: 15008, identity, expectedIdentities: [identity] };
  const route: Route = {
    service: { host: 'payments.shop.svc.cluster.local', name: 'payments', namespace: 'shop' },
    port: 9090,
    protocol: 'http',
    tls: {
      mode: 'ISTIO_MUTUAL',
      auto: true,
      sni: 'outbound_.9090_._.payments.shop.svc.cluster.local',
      expectedIdentities: ['spiffe://td/ns/shop/sa/payments'],
      source: null,
      clientCertificate: null,
      privateKey: '/etc/keys/key.pem',
      caCertificates: null,
      caCrl: null,
      credentialName: null,
      insecureSkipVerify: false,
    },
    endpoints: [
      { address: '127.0.0.1', port: 19090, tls: 'ISTIO_MUTUAL', weight: 1, workload: null, tunnel },
    ],
    ownPort: null,
    warnings: [],
  };
  const snapshot: Snapshot = {
    captured: {
      hostsAt: () => [],
      routeAt: () => null,
      hostNamed: () => null,
      hostOfSni: () => null,
      namesAt: () => false,
      hostAnywhere: () => null,
      ingressAt: () => null,
    },
    generation: 7,
    mesh: {
      rootNamespace: 'istio-system',
      trustDomain: 'td',
      trustDomainAliases: [],
      outboundTrafficPolicy: 'ALLOW_ANY',
      pathNormalization: 'BASE',
      forwardedClientCert: 'SANITIZE_SET',
      meshTls: { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] },
      caCertificates: [],
    },
    accessLog: { file: null, encoding: null, format: null },
    workload: {
      name: 'orders',
      namespace: 'shop',
      labels: new Map([['app', 'orders']]),
      serviceAccount: 'orders',
      addresses: ['127.0.0.1'],
      ports: new Map([['http', 19080]]),
      weight: 1,
    },
    identity: identityOf('td', 'shop', 'orders'),
    ingress: [
      { bind: null, port: 8443, protocol: 'http', defaultEndpoint: { host: '127.0.0.1', port: 8080 } },
    ],
    egress: [
      {
        bind: '127.0.0.1',
        port: 9090,
        protocol: 'http',
        hosts: ['payments.shop.svc.cluster.local', 'gone.shop.svc.cluster.local'],
      },
    ],
    authorization: {
      policies: ['shop/allow-web'],
      byAction: { CUSTOM: [], DENY: [], ALLOW: ['shop/allow-web'], AUDIT: [] },
      ask: () => null,
      observe: null,
      explain: () => null,
      decideRequest: () => ({ allowed: true, policy: null, rule: null, detail: '', missed: [] }),
      decideConnection: () => ({ allowed: true, policy: null, rule: null, detail: '', missed: [] }),
    },
    tokens: { policies: [], rules: [] },
    extAuthz: new Map(),
    modeOf: (port) =>
      port === 19080 ? { mode: 'STRICT', source: 'shop/default' } : { mode: 'PERMISSIVE', source: null },
    serviceOf: (port) => (port === 19080 ? { host: 'orders.shop', name: 'orders', namespace: 'shop' } : null),
    declaresPort: (port) => port === 19080,
    hbonePort: 15008,
    protocolOf: () => 'http',
    portsOf: () => [9090],
    route: (host) => (host.startsWith('payments') ? route : null),
    workloadByIdentity: () => null,
    workloadByAddress: () => null,
    warnings: ['DestinationRule/shop/x: spec.trafficPolicy.loadBalancer: not honoured'],
  };
  const view = snapshotView(snapshot, []);
  t.match(JSON.parse(JSON.stringify(view)), {
    generation: 7,
    workload: {
      name: 'orders',
      namespace: 'shop',
      labels: { app: 'orders' },
      ports: { http: 19080 },
      hbonePort: 15_008,
    },
    ports: [
      { port: 8443, mode: 'PERMISSIVE', source: null },
      { port: 19080, mode: 'STRICT', source: 'shop/default', protocol: 'http', service: 'orders.shop' },
    ],
    listeners: { ingress: [{ port: 8443 }], egress: [{ port: 9090 }] },
    policies: ['shop/allow-web'],
    authorization: { ALLOW: ['shop/allow-web'] },
    requestAuthentication: [],
    providers: [],
    routes: [
      {
        host: 'payments.shop.svc.cluster.local',
        tls: { mode: 'ISTIO_MUTUAL' },
        endpoints: [{ port: 19090, tunnel: '127.0.0.1:15008' }],
      },
      { host: 'gone.shop.svc.cluster.local', known: false },
    ],
    warnings: [/not honoured/],
    problems: [],
  });
  t.notMatch(JSON.stringify(view), 'key.pem');
  t.match(snapshotView(null, ['a.yaml:3: broken']), {
    generation: 0,
    problems: ['a.yaml:3: broken'],
  });
  t.end();
});
