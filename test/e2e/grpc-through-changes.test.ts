/** gRPC calls that live while policy, credentials, routes and processes change: they end as they would have, and new ones follow the change. */
import { connect } from 'node:http2';
import { type Client, credentials, status } from '@grpc/grpc-js';
import t from 'tap';
import { echo, tcpApp } from './harness/apps.ts';
import { chat, type GrpcApp, grpcApp, grpcClient, unary } from './harness/grpc-app.ts';
import { overHbone } from './harness/hbone.ts';
import { Mesh, type Sidecar } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { workload } from './harness/resources.ts';
import { HOST, policy, type ShopPorts, shop, shopPorts } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { until, within } from './harness/wait.ts';

t.setTimeout(180_000);

const CHAT = '/test.Echo/Chat';
const UNARY = '/test.Echo/Unary';

let app: GrpcApp;
let client: Client;
let web: Sidecar;
let orders: Sidecar;
let mesh: Mesh;
let ports: ShopPorts;

/** A second workload behind the same host, with a sidecar of its own. */
function twinOf(ordersPort: number, appPort: number): string {
  return `
${workload('twin', { http: ordersPort }).replace('labels: {app: twin', 'labels: {app: twin, of: orders')}---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: twin, namespace: shop}
spec:
  workloadSelector: {labels: {app: twin}}
  ingress:
  - port: {number: ${ordersPort}, name: grpc, protocol: GRPC}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:${appPort}
`;
}

t.before(async () => {
  ports = await shopPorts();
  const [twinPort = 0] = await freePorts(1);
  app = await grpcApp(t);
  const tcp = await tcpApp(t, echo);
  const resources = shop(ports, { http: app.port, tcp: tcp.port })
    .replaceAll('protocol: HTTP}', 'protocol: GRPC}')
    .replace('workloadSelector: {labels: {app: orders}}', 'workloadSelector: {labels: {of: orders}}')
    .replace('\n  labels: {app: orders', '\n  labels: {app: orders, of: orders');
  mesh = await Mesh.create(t, `${resources}---${twinOf(twinPort, app.port)}`);
  [web, orders] = await Promise.all([mesh.sidecar('web'), mesh.sidecar('orders')]);
  client = grpcClient(t, ports.http, HOST);
  // Until its twin is there, all calls come to `orders`.
  await until('orders to answer', async () => (await unary(client, 'x')).code === status.OK);
});

/** A call that goes on for as long as it is talked to. */
class Chat {
  readonly #call: ReturnType<typeof chat>;
  readonly #over: Promise<number>;
  #heard = '';
  #said = '';

  constructor(client: Client) {
    this.#call = chat(client);
    this.#call.on('data', (message: Buffer) => {
      this.#heard += message;
    });
    this.#call.on('error', () => {});
    this.#over = new Promise((resolve) => this.#call.on('status', ({ code }) => resolve(code)));
  }

  /** Says something and waits for the echo. */
  async say(text: string): Promise<void> {
    this.#said += text;
    this.#call.write(Buffer.from(text));
    await until(`the echo of ${text}`, () => this.#heard === this.#said);
  }

  /** Ends it. @returns the status it ended with */
  async end(): Promise<number> {
    this.#call.end();
    return within('the end of the chat', this.#over);
  }
}

async function talking(client: Client): Promise<Chat> {
  const talk = new Chat(client);
  await talk.say('a');
  return talk;
}

/** Where a call came from, as a callee's access log has it: one address a session. */
async function sessionOf(sidecar: Sidecar, path: string, mark: number): Promise<unknown> {
  return (await sidecar.accessed({ path }, mark)).downstream_remote_address;
}

async function called(): Promise<number> {
  return (await unary(client, 'x')).code;
}

t.test('a changed policy judges the next call of an old session, and ends no running one', async (t) => {
  const { ca, cert, key } = await mesh.ca.leaf(spiffe('shop', 'web'));
  // With its own TLS: a sidecar would begin a new session when its resources change.
  const own = credentials.createSsl(Buffer.from(ca), Buffer.from(key), Buffer.from(cert), {
    checkServerIdentity: () => undefined,
  });
  const direct = grpcClient(t, ports.ordersHttp, HOST, { 'grpc.ssl_target_name_override': HOST }, own);
  const { mark } = orders;
  const talk = await talking(direct);
  const deny = policy('deny', `[{to: [{operation: {paths: ["${UNARY}"]}}]}]`, 'DENY');
  for (let round = 0; round < 3; round++) {
    await mesh.change('deny.yaml', deny, [orders]);
    t.equal((await unary(direct, 'x')).code, status.PERMISSION_DENIED);
    await talk.say(`d${round}`);
    await mesh.change('deny.yaml', '', [orders]);
    t.equal((await unary(direct, 'x')).code, status.OK);
    await talk.say(`o${round}`);
  }
  t.equal(await talk.end(), status.OK);
  const session = await sessionOf(orders, CHAT, mark);
  const of = { type: 'access', path: UNARY, downstream_remote_address: session };
  t.equal(orders.process.stderr.matching(of).length, 6, 'one session for all');
});

t.test(
  'new credentials of the caller: running calls stay, new ones have a session of their own',
  async (t) => {
    const { mark } = orders;
    const talk = await talking(client);
    t.equal(await called(), status.OK);
    const before = await sessionOf(orders, UNARY, mark);
    await renew(web);
    const renewed = orders.mark;
    t.equal(await called(), status.OK);
    const after = await sessionOf(orders, UNARY, renewed);
    t.not(after, before);
    await talk.say('b');
    t.equal(await talk.end(), status.OK);
    t.equal(await sessionOf(orders, CHAT, mark), before);
    await renew(orders);
    const again = orders.mark;
    t.equal(await called(), status.OK);
    t.equal(await sessionOf(orders, UNARY, again), after, "the callee's do not end the caller's session");
  },
);

t.test('a changed route: running calls stay, new ones have a session of their own', async (t) => {
  const { mark } = orders;
  const talk = await talking(client);
  t.equal(await called(), status.OK);
  const before = await sessionOf(orders, UNARY, mark);
  const rule = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: ${HOST}
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}
`;
  await mesh.change('rule.yaml', rule, [web]);
  const changed = orders.mark;
  t.equal(await called(), status.OK);
  // Over HBONE both sessions come by one tunnel, whose address is all that the callee sees of them.
  if (!overHbone) t.not(await sessionOf(orders, UNARY, changed), before);
  await talk.say('b');
  t.equal(await talk.end(), status.OK);
  await mesh.change('rule.yaml', '', [web]);
});

t.test('a callee that stops under load: no call fails, new ones go to its twin', async (t) => {
  const talks = await Promise.all(Array.from({ length: 6 }, () => talking(client)));
  const twin = await mesh.sidecar('twin');
  await until('the twin to be called', async () => {
    await called();
    return twin.process.stderr.matching({ type: 'access', path: UNARY }).length > 0;
  });
  const load = new Load(client);
  await load.goesOn();
  orders.process.signal('SIGTERM');
  await orders.logged({ msg: 'stopping' });
  await load.goesOn();
  for (const talk of talks) {
    await talk.say('b');
    t.equal(await talk.end(), status.OK);
  }
  t.same(await orders.process.end(), { code: 0, signal: null });
  await load.goesOn();
  t.same(await load.stop(), []);
});

t.test("a caller's sidecar that stops says GOAWAY, and ends what runs", async (t) => {
  const session = connect(`http://127.0.0.1:${ports.http}`);
  t.teardown(() => session.destroy());
  const goaway = new Promise<number>((resolve) => session.on('goaway', resolve));
  const closed = new Promise((resolve) => session.on('close', resolve));
  const stream = session.request({
    ':method': 'POST',
    ':path': CHAT,
    ':authority': HOST,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  let heard = 0;
  let code = '';
  stream.on('data', (data: Buffer) => {
    heard += data.length;
  });
  stream.on('trailers', (trailers) => {
    code = String(trailers['grpc-status']);
  });
  const ended = new Promise((resolve) => stream.on('close', () => resolve(stream.rstCode)));
  stream.write(MESSAGE);
  await until('the echo', () => heard === MESSAGE.length);
  web.process.signal('SIGTERM');
  t.equal(await within('GOAWAY', goaway), 0);
  stream.write(MESSAGE);
  await until('the echo', () => heard === 2 * MESSAGE.length);
  stream.end();
  t.equal(await within('the end of the call', ended), 0);
  t.equal(code, '0');
  await within('the end of the connection', closed);
  t.same(await web.process.end(), { code: 0, signal: null });
  t.equal(await called(), status.UNAVAILABLE);
});

/** One byte, as gRPC frames it. */
const MESSAGE = Buffer.of(0, 0, 0, 0, 1, 120);

/** Puts new credentials in a sidecar's folder and waits until they are in force. */
async function renew(sidecar: Sidecar): Promise<void> {
  const serial = async (): Promise<string> => JSON.stringify((await sidecar.admin('/certs')).chain);
  const before = await serial();
  await mesh.certDir(sidecar.identity.split('/').at(-1) ?? '');
  await until('the new credentials', async () => (await serial()) !== before);
}

/** Unary calls, eight at a time, one after the other. */
class Load {
  readonly #failures: string[] = [];
  readonly #loops: readonly Promise<void>[];
  #served = 0;
  #stopped = false;

  constructor(client: Client) {
    this.#loops = Array.from({ length: 8 }, () => this.#run(client));
  }

  /** Waits for a hundred more. */
  async goesOn(): Promise<void> {
    const wanted = this.#served + 100;
    await until('the load to go on', () => this.#served >= wanted);
  }

  async stop(): Promise<readonly string[]> {
    this.#stopped = true;
    await Promise.all(this.#loops);
    return this.#failures;
  }

  async #run(client: Client): Promise<void> {
    while (!this.#stopped) {
      const { code, details } = await unary(client, 'x');
      if (code === status.OK) this.#served++;
      else this.#failures.push(`${code} ${details}`);
    }
  }
}
