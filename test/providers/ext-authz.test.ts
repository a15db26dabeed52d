/** External authorization over either protocol: time-outs, providers that are not there, restarts, abandonment. */
import { type AddressInfo, createServer, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import { type Connect, createExtAuthz } from '../../providers/ext-authz.ts';
import { until } from '../e2e/harness/wait.ts';
import { check, NEVER, provider, reach, words } from './check-helper.ts';
import { grpcProvider, httpProvider } from './check-server.ts';

/** What both kinds of servers have in common here. */
interface Peer {
  readonly port: number;
  readonly seen: readonly unknown[];
  /** No answer from now on. */
  hang(): void;
  stop(): Promise<void>;
}

async function peerOf(t: Test, protocol: ExtAuthzProvider['protocol'], port = 0): Promise<Peer> {
  const peer = protocol === 'http' ? await httpProvider(t, port) : await grpcProvider(t, port);
  return {
    port: peer.port,
    seen: peer.seen,
    hang: () => {
      peer.answer = () => null;
    },
    stop: () => peer.stop(),
  };
}

for (const protocol of ['http', 'grpc'] as const) {
  const asking = (more: Partial<ExtAuthzProvider> = {}) => provider({ protocol, ...more });

  t.test(
    `${protocol}: the connect function is asked for the service as written, few times for many checks`,
    async (t) => {
      const peer = await peerOf(t, protocol);
      const connect = reach(() => peer.port);
      const client = createExtAuthz(connect);
      for (let i = 0; i < 5; i++) {
        const named = asking({ name: `p${i}`, service: 'ns/host.example', port: 9000 });
        t.equal(words(await client.check(named, check(), NEVER)), 'allowed');
      }
      t.same(new Set(connect.asked), new Set(['ns/host.example:9000']));
      // undici may take a second one while the first is about to be free.
      t.ok(connect.asked.length <= 2);
      t.equal(words(await client.check(asking({ service: 'other' }), check(), NEVER)), 'allowed');
      t.equal(connect.asked.at(-1), 'other:80', 'another service has connections of its own');
      client.close();
    },
  );

  t.test(`${protocol}: no answer in time`, async (t) => {
    const peer = await peerOf(t, protocol);
    const client = createExtAuthz(reach(() => peer.port));
    t.equal(words(await client.check(asking(), check(), NEVER)), 'allowed', 'once, to be connected');
    peer.hang();
    const before = performance.now();
    t.equal(
      words(await client.check(asking({ timeout: 50 }), check(), NEVER)),
      'failed: no answer within 0.05 s',
    );
    t.ok(performance.now() - before < 5000);
    client.close();
  });

  t.test(`${protocol}: nobody listens, or the service is not known`, async (t) => {
    const peer = await peerOf(t, protocol);
    await peer.stop();
    const refused = createExtAuthz(reach(() => peer.port));
    for (const failOpen of [false, true]) {
      t.match(
        words(await refused.check(asking({ failOpen }), check(), NEVER)),
        /^failed: connect ECONNREFUSED/,
      );
    }
    refused.close();
    const unknown = createExtAuthz(() => Promise.reject(new Error('no service x is known')));
    t.equal(words(await unknown.check(asking(), check(), NEVER)), 'failed: no service x is known');
    unknown.close();
  });

  t.test(`${protocol}: a connection that never comes about`, async (t) => {
    const never: Connect = () => new Promise(() => undefined);
    const client = createExtAuthz(never);
    t.equal(
      words(await client.check(asking({ timeout: 20 }), check(), NEVER)),
      'failed: no answer within 0.02 s',
    );
    const downstream = new AbortController();
    const waiting = client.check(asking(), check(), downstream.signal);
    downstream.abort();
    t.equal(words(await waiting), 'failed: the downstream left');
    client.close();
  });

  t.test(`${protocol}: the downstream leaves`, async (t) => {
    const peer = await peerOf(t, protocol);
    peer.hang();
    const connect = reach(() => peer.port);
    const client = createExtAuthz(connect);
    const downstream = new AbortController();
    const waiting = client.check(asking(), check(), downstream.signal);
    while (peer.seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
    downstream.abort();
    t.equal(words(await waiting), 'failed: the downstream left');
    t.equal(words(await client.check(asking(), check(), downstream.signal)), 'failed: the downstream left');
    t.equal(peer.seen.length, 1, 'whoever left before is not asked for');
    client.close();
  });

  t.test(`${protocol}: the server restarts`, async (t) => {
    const first = await peerOf(t, protocol);
    const connect = reach(() => first.port);
    const client = createExtAuthz(connect);
    t.equal(words(await client.check(asking(), check(), NEVER)), 'allowed');
    await first.stop();
    while (connect.sockets.size > 0) await new Promise((resolve) => setImmediate(resolve));
    t.match(words(await client.check(asking(), check(), NEVER)), /^failed: connect ECONNREFUSED/);
    const second = await peerOf(t, protocol, first.port);
    t.equal(words(await client.check(asking(), check(), NEVER)), 'allowed');
    t.equal(second.seen.length, 1);
    client.close();
  });

  t.test(`${protocol}: the server goes away under a check`, async (t) => {
    const peer = await peerOf(t, protocol);
    peer.hang();
    const client = createExtAuthz(reach(() => peer.port));
    const waiting = client.check(asking(), check(), NEVER);
    while (peer.seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
    await peer.stop();
    t.match(words(await waiting), /^failed: /);
    t.equal(peer.seen.length, 1, 'what was asked is not asked again');
    client.close();
  });

  t.test(`${protocol}: a server that speaks something else`, async (t) => {
    const sockets = new Set<Socket>();
    const other = createServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.once('data', () => socket.write('220 mail.example ESMTP\r\n'));
    });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const client = createExtAuthz(reach(() => (other.address() as AddressInfo).port));
    t.match(words(await client.check(asking(), check(), NEVER)), /^failed: /);
    client.close();
    for (const socket of sockets) socket.destroy();
    other.close();
  });

  t.test(`${protocol}: closing ends connections and what waits`, async (t) => {
    const peer = await peerOf(t, protocol);
    peer.hang();
    const connect = reach(() => peer.port);
    const client = createExtAuthz(connect);
    const waiting = client.check(asking(), check(), NEVER);
    while (peer.seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
    client.close();
    t.match(words(await waiting), /^failed: /);
    await until('every connection to be closed', () => connect.sockets.size === 0);
  });

  t.test(`${protocol}: a provider with a fault is never asked and never lets pass`, async (t) => {
    const peer = await peerOf(t, protocol);
    const client = createExtAuthz(reach(() => peer.port));
    const faulty = asking({ fault: 'port must be from 1 to 65535, not 0', failOpen: true });
    t.equal(words(await client.check(faulty, check(), NEVER)), 'denied 403 ""');
    t.equal(peer.seen.length, 0);
    client.close();
  });

  t.test(`${protocol}: more checks than a service may keep waiting fail at once`, async (t) => {
    const peer = await peerOf(t, protocol);
    peer.hang();
    const client = createExtAuthz(reach(() => peer.port));
    const downstream = new AbortController();
    const waiting = Array.from({ length: 4096 }, () => client.check(asking(), check(), downstream.signal));
    t.equal(
      words(await client.check(asking(), check(), NEVER)),
      'failed: 4096 checks are waiting for it already',
    );
    downstream.abort();
    await Promise.all(waiting);
    // The queues are emptied after those who wait have been told.
    const again = async (): Promise<string> => {
      const answer = words(await client.check(asking({ timeout: 20 }), check(), NEVER));
      return answer.includes('waiting')
        ? new Promise((resolve) => setImmediate(() => resolve(again())))
        : answer;
    };
    t.equal(await again(), 'failed: no answer within 0.02 s', 'there is room again');
    client.close();
    await peer.stop();
  });
}

t.test('a service not asked for long makes room for the 65th', async (t) => {
  const peer = await peerOf(t, 'grpc');
  const connect = reach(() => peer.port);
  const client = createExtAuthz(connect);
  const ask = (i: number) => client.check(provider({ protocol: 'grpc', service: `s${i}` }), check(), NEVER);
  for (let i = 0; i < 64; i++) await ask(i);
  t.equal(connect.sockets.size, 64);
  await ask(0);
  await ask(64);
  await until('one connection to be closed', () => connect.sockets.size === 64);
  await ask(0);
  t.equal(connect.asked.length, 65, 'the one asked again a moment ago is still there');
  await ask(1);
  t.equal(connect.asked.length, 66, 'the one asked longest ago is not');
  client.close();
});

t.test('a reason quotes no control characters and not without end', async (t) => {
  const client = createExtAuthz(() => Promise.reject(new Error(`a\r\nb\x1b[2J${'x'.repeat(1000)}`)));
  const reason = words(await client.check(provider(), check(), NEVER));
  t.match(reason, /^failed: a b \[2Jx+$/);
  t.ok(reason.length < 320);
  client.close();
});
