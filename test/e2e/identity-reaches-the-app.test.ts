/** X-Forwarded-Client-Cert over mutual TLS: what the app and policy see of it, by mesh config. */
import { createHash, X509Certificate } from 'node:crypto';
import t from 'tap';
import { echo, httpApp, type Told, tcpApp } from './harness/apps.ts';
import { Mesh } from './harness/mesh.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { ISTIO_HTTP, openTls } from './harness/tls-client.ts';

t.setTimeout(180_000);

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: http.port, tcp: tcp.port }));
const orders = await mesh.sidecar('orders');
const leaf = await mesh.ca.leaf(spiffe('shop', 'web'));
const hash = createHash('sha256').update(new X509Certificate(leaf.cert).raw).digest('hex');
const OURS = `By=${spiffe('shop', 'orders')};Hash=${hash};Subject="";URI=${spiffe('shop', 'web')}`;

async function ask(fields: string): Promise<{ status: number; told: string | null }> {
  const peer = await openTls(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP });
  peer.write(`GET /told HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n`);
  await peer.ended();
  const status = Number(peer.text.slice(9, 12));
  if (status !== 200) return { status, told: null };
  const { headers } = JSON.parse(
    peer.text.slice(peer.text.indexOf('{'), peer.text.lastIndexOf('}') + 1),
  ) as Told;
  return { status, told: headers['x-forwarded-client-cert'] ?? null };
}

const config = (mode: string): string => `
apiVersion: install.istio.io/v1alpha1
kind: MeshConfig
defaultConfig: {proxyHeaders: {forwardedClientCert: ${mode}}}
`;

const SENT = 'X-Forwarded-Client-Cert: By=them\r\nX_Forwarded-Client-Cert: By=twin\r\n';

// Envoy's documentation of forward_client_cert_details, for a client with a certificate.
const rows: readonly [mode: string, sent: string, told: string | null][] = [
  ['SANITIZE', SENT, null],
  ['SANITIZE', '', null],
  ['FORWARD_ONLY', SENT, 'By=them'],
  ['FORWARD_ONLY', '', null],
  ['APPEND_FORWARD', SENT, `By=them,${OURS}`],
  ['APPEND_FORWARD', '', OURS],
  ['SANITIZE_SET', SENT, OURS],
  ['SANITIZE_SET', '', OURS],
  ['ALWAYS_FORWARD_ONLY', SENT, 'By=them'],
];

t.test('each way of forwarding it', async (t) => {
  t.same(await ask(SENT), { status: 200, told: OURS }, 'without mesh config ours takes the place of theirs');
  let last = '';
  for (const [mode, sent, told] of rows) {
    if (mode !== last) await mesh.change('config.yaml', config(mode), [orders]);
    last = mode;
    t.same(await ask(sent), { status: 200, told }, `${mode}, ${sent === '' ? 'none' : 'one'} sent`);
  }
});

t.test('policy sees what the app gets', async (t) => {
  const rules = `[{when: [{key: "request.headers[x-forwarded-client-cert]", values: ["By=them*"]}]}]`;
  await mesh.change('config.yaml', `${config('APPEND_FORWARD')}---\n${policy('cert', rules)}`, [orders]);
  t.equal((await ask(SENT)).status, 200);
  t.equal((await ask('')).status, 403);
  await mesh.change('config.yaml', `${config('SANITIZE_SET')}---\n${policy('cert', rules)}`, [orders]);
  t.equal((await ask(SENT)).status, 403, 'nobody can claim it');
});
