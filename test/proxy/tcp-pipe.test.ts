/** TCP through a sidecar, plain and inside TLS: however one end leaves, the other learns it, and how. */
import type { Socket } from 'node:net';
import t, { type Test } from 'tap';
import { type App, tcpApp } from '../e2e/harness/apps.ts';
import { open, Peer } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { openTls, type TlsPeer } from '../e2e/harness/tls-client.ts';
import { pause, until } from '../e2e/harness/wait.ts';
import { type InboundSidecar, inboundSidecar } from './inbound-sidecar.ts';

t.setTimeout(120_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const web = await ca.leaf(spiffe('shop', 'web'));

/** Both ends of one connection through a sidecar. */
interface Ends {
  readonly client: Peer;
  readonly app: Peer;
  readonly sidecar: InboundSidecar;
}

async function ends(t: Test, inTls: boolean): Promise<Ends> {
  const accepted: Peer[] = [];
  const app: App = await tcpApp(t, (socket: Socket) => {
    accepted.push(new Peer(socket));
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'tcp', leaf: orders });
  const client = inTls
    ? await openTls(t, sidecar.port, { leaf: web, ALPNProtocols: ['istio'] })
    : await open(t, sidecar.port);
  // Node's own clients answer an end with theirs; this one may go on.
  client.socket.allowHalfOpen = true;
  socketOf(client).allowHalfOpen = true;
  client.write('hello');
  const other = await until('the app to be reached', () => accepted[0]);
  await other.until('what the client says', (text) => text === 'hello');
  other.write('welcome');
  await client.until('the answer', (text) => text === 'welcome');
  return { client, app: other, sidecar };
}

/** The access log's line of the connection, once it is over. */
async function line({ sidecar }: Ends): Promise<Record<string, unknown> | undefined> {
  await until('the connection to be forgotten', () => sidecar.path.connections.size === 0);
  return (await sidecar.accessed()).at(-1);
}

for (const inTls of [false, true]) {
  t.test(inTls ? 'inside TLS' : 'plain', async (t) => {
    t.test('each end may close its side alone', async (t) => {
      for (const first of ['client', 'app'] as const) {
        const both = await ends(t, inTls);
        const [one, other] = first === 'client' ? [both.client, both.app] : [both.app, both.client];
        one.end();
        t.equal(await other.ended(), 'end', `${first} closes its side`);
        other.write('more');
        await until('what the other says', () => one.text.endsWith('more'));
        other.end();
        t.match(await line(both), { response_flags: '-' });
        t.match(await line(both), { bytes_received: first === 'client' ? 5 : 9 });
      }
    });

    t.test('a reset goes through, also behind a half-close', async (t) => {
      for (const first of ['client', 'app'] as const) {
        for (const halfClosed of [false, true]) {
          const both = await ends(t, inTls);
          const [one, other] = first === 'client' ? [both.client, both.app] : [both.app, both.client];
          if (halfClosed) {
            other.end();
            await one.ended();
          }
          socketOf(one).resetAndDestroy();
          const how = await until('the other to learn it', () => (other.over === 'end' ? null : other.over));
          t.equal(how, 'ECONNRESET', `${first}${halfClosed ? ', half-closed' : ''}`);
          t.match(await line(both), { response_flags: first === 'client' ? 'DC' : 'UC' });
        }
      }
    });

    t.test('who does not read holds the other back, and loses nothing', async (t) => {
      const size = 16 << 20;
      for (const first of ['client', 'app'] as const) {
        const both = await ends(t, inTls);
        const [one, other] = first === 'client' ? [both.client, both.app] : [both.app, both.client];
        const before = other.received.length;
        other.socket.pause();
        const sent = Buffer.alloc(size, 'abcdefg');
        for (let at = 0; at < size; at += 65_536) one.write(sent.subarray(at, at + 65_536));
        let left = one.socket.writableLength;
        await until('it to stop moving', async () => {
          await pause(200);
          const moved = left - one.socket.writableLength;
          left = one.socket.writableLength;
          return moved === 0;
        });
        t.ok(left > size / 4, `${first} is held back: ${left} bytes are still here`);
        other.socket.resume();
        await until('all of it', () => other.received.length === before + size);
        t.ok(other.received.subarray(before).equals(sent));
        one.end();
        other.end();
      }
    });

    t.test('a client that closes for good is no reader: the app is not sent for ever', async (t) => {
      for (const politely of [false, true]) {
        const both = await ends(t, inTls);
        const under = socketOf(both.client);
        // A FIN on both sides of it, and then nobody: what a process leaves that exits.
        if (politely) both.client.socket.end(() => under.destroy());
        else under.destroy();
        const timer = setInterval(() => both.app.socket.write(Buffer.alloc(65_536)), 5);
        try {
          await until('the app to be told', () => both.app.socket.destroyed, 5_000);
        } finally {
          clearInterval(timer);
        }
        t.ok(await line(both));
      }
    });
  });
}

/** The TCP socket, under TLS where there is any. */
function socketOf(peer: Peer): Socket {
  const { tls } = peer as Partial<TlsPeer>;
  return tls === undefined ? peer.socket : (Reflect.get(tls, '_parent') as Socket);
}
