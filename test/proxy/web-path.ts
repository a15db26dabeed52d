/** What the tests of dialling share: a data path of `web`, and servers to dial by a route. */
import { pino } from 'pino';
import type { Test } from 'tap';
import { limitsWith } from '../../mesh/limits.ts';
import type { Endpoint, RouteTls } from '../../mesh/route.ts';
import { DataPath } from '../../proxy/data-path.ts';
import type { DialTarget } from '../../proxy/dial.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { type Leaf, spiffe } from '../e2e/harness/test-ca.ts';
import { credentialsOf } from './inbound-sidecar.ts';

export interface Scene {
  readonly path: DataPath;
  files: { cert: string | null; key: string | null; ca: string | null; crl: string | null };
}

export function webPath(t: Test, leaf: Leaf): Scene {
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => performance.now(), cluster: 'test' });
  const files: Scene['files'] = { cert: null, key: null, ca: leaf.ca, crl: null };
  const bytes = (text: string | null): Buffer | null => (text === null ? null : Buffer.from(text));
  const path = new DataPath({
    limits: limitsWith({}),
    log: pino({ level: 'silent' }),
    metrics,
    accessLog: null,
    readTlsFiles: () => ({
      cert: bytes(files.cert),
      key: bytes(files.key),
      ca: bytes(files.ca),
      crl: bytes(files.crl),
    }),
    names: { version: 0, known: () => null, resolve: (_name, done) => done.unresolved('ENOTFOUND') },
    verifierOf: () => ({ verify: () => Promise.reject(new Error('nobody asks')) }),
    extAuthz: { check: () => Promise.reject(new Error('nobody asks')) },
  });
  path.applyCredentials(credentialsOf(leaf));
  t.teardown(() => path.stop());
  return { path, files };
}

/** By a rule of that mode, for `orders`. */
export function target(port: number, mode: RouteTls['mode'], more: Partial<RouteTls> = {}): DialTarget {
  const tls: RouteTls = {
    mode,
    auto: false,
    sni: 'orders.example',
    expectedIdentities: mode === 'ISTIO_MUTUAL' ? [spiffe('shop', 'orders')] : ['orders.example'],
    source: 'shop/orders',
    clientCertificate: null,
    privateKey: null,
    caCertificates: 'ca.pem',
    caCrl: null,
    credentialName: null,
    insecureSkipVerify: false,
    ...more,
  };
  const endpoint: Endpoint = {
    address: '127.0.0.1',
    port,
    tls: mode,
    weight: 1,
    workload: null,
    tunnel: null,
  };
  return { kind: 'peer', endpoint, tls, protocol: 'tcp' };
}
