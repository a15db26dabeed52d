/** External authorization over either protocol: time-outs, providers that are not there, restarts, abandonment. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
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

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Nothing of this thread goes on meanwhile. */
function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** A server with an event loop of its own, which denies everything after a while. */
async function peerThread(
  t: Test,
  protocol: ExtAuthzProvider['protocol'],
  afterMs = 0,
): Promise<{ readonly port: number }> {
  const script =
    protocol === 'http'
      ? `require('node:http').createServer((_, answer) => setTimeout(() => (answer.sendDate = false, answer.writeHead(403).end()), ${afterMs}))`
      : `require('node:http2').createServer().on('stream', (stream) => {
           stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
           stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
           setTimeout(() => stream.end(Buffer.from([0, 0, 0, 0, 4, 10, 2, 8, 7])), ${afterMs});
         })`;
  const start = `const { parentPort } = require('node:worker_threads');
    const server = ${script}.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));`;
  const worker = new Worker(start, { eval: true });
  t.teardown(() => worker.terminate());
  const [port] = (await once(worker, 'message')) as [number];
  return { port };
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
    t.equal(
      words(await client.check(faulty, check(), NEVER)),
      'denied 403 "" for port must be from 1 to 65535, not 0',
    );
    t.equal(peer.seen.length, 0);
    client.close();
  });

  t.test(
    `${protocol}: more checks at once than a service gets are denied at once, failOpen or not`,
    async (t) => {
      const peer = await peerOf(t, protocol);
      peer.hang();
      const client = createExtAuthz(reach(() => peer.port));
      const downstream = new AbortController();
      const most = protocol === 'http' ? 1024 : 4096;
      const waiting = Array.from({ length: most }, () => client.check(asking(), check(), downstream.signal));
      for (const failOpen of [false, true]) {
        t.match(
          words(await client.check(asking({ failOpen, statusOnError: 503 }), check(), NEVER)),
          protocol === 'http'
            ? 'denied 503 "" for all 1024 connections to it are busy'
            : 'denied 503 "" for 4096 checks are waiting for it already',
        );
      }
      downstream.abort();
      await Promise.all(waiting);
      t.equal(
        words(await client.check(asking({ timeout: 20 }), check(), NEVER)),
        'failed: no answer within 0.02 s',
        'there is room again',
      );
      client.close();
      await peer.stop();
    },
  );
}

for (const protocol of ['http', 'grpc'] as const) {
  t.test(`${protocol}: what this machine has too little of denies, failOpen or not`, async (t) => {
    for (const code of ['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL']) {
      const client = createExtAuthz(() => Promise.reject(new Error(`connect_failed: 10.0.0.9:80: ${code}`)));
      t.equal(
        words(await client.check(provider({ protocol, failOpen: true }), check(), NEVER)),
        `denied 403 "" for connect_failed: 10.0.0.9:80: ${code}`,
      );
      client.close();
    }
  });

  t.test(`${protocol}: checks that left do not keep others out while their connection comes`, async (t) => {
    let begun = 0;
    const never: Connect = () => {
      begun++;
      return new Promise(() => undefined);
    };
    const client = createExtAuthz(never);
    for (let i = 0; i < 3; i++) {
      const some = Array.from({ length: 600 }, () =>
        client.check(provider({ protocol, timeout: 20, failOpen: true }), check(), NEVER),
      );
      t.same(new Set((await Promise.all(some)).map(words)), new Set(['failed: no answer within 0.02 s']));
    }
    t.equal(begun, protocol === 'http' ? 600 : 1, 'connections begun');
    client.close();
  });

  t.test(`${protocol}: an answer that came while we were busy counts, however long that took`, async (t) => {
    const peer = await peerThread(t, protocol);
    const client = createExtAuthz(reach(() => peer.port));
    const asking = provider({ protocol, failOpen: true, timeout: 300 });
    t.equal(words(await client.check(asking, check(), NEVER)), 'denied 403 ""', 'once, to be connected');
    const waiting = client.check(asking, check(), NEVER);
    // Its question leaves in these turns, its answer comes in the pause.
    await turns();
    pause(600);
    t.equal(words(await waiting), 'denied 403 ""');
    client.close();
  });
}

t.test('a pause of ours does not end the connection on which others wait', async (t) => {
  const peer = await peerThread(t, 'grpc', 2_500);
  const connect = reach(() => peer.port);
  const client = createExtAuthz(connect);
  const waiting = client.check(provider({ protocol: 'grpc', failOpen: true }), check(), NEVER);
  await until('the connection', () => connect.sockets.size === 1);
  const short = await client.check(provider({ protocol: 'grpc', timeout: 50 }), check(), NEVER);
  t.equal(words(short), 'failed: no answer within 0.05 s');
  // The PING leaves in these turns. Its answer may take 2 s, and comes in the pause.
  await turns();
  pause(2_200);
  t.equal(words(await waiting), 'denied 403 ""');
  t.equal(connect.asked.length, 1);
  client.close();
});

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
