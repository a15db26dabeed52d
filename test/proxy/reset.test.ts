/** Ending a socket as an abort, in whatever state it is: it is closed, its descriptor too, and whoever listens hears of it. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import t, { type Test } from 'tap';
import { abortStream, reset, socketUnder } from '../../proxy/connections.ts';
import { listen } from '../e2e/harness/apps.ts';
import { open } from '../e2e/harness/clients.ts';
import { TestCa } from '../e2e/harness/test-ca.ts';
import { pause, until, within } from '../e2e/harness/wait.ts';

const leaf = await (await TestCa.create()).leaf(null, { dns: ['a.example'] });

/** Open TCP connections of this process, the tests' own ends included. */
function handles(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;
}

async function accepted(t: Test): Promise<{ socket: Socket; gone(): Promise<string> }> {
  const server = createServer({ allowHalfOpen: true });
  const { port } = await listen(t, server);
  const came = once(server, 'connection');
  const peer = await open(t, port);
  const [socket] = (await came) as [Socket];
  socket.on('error', () => {});
  return { socket, gone: () => peer.ended() };
}

const rows: readonly { name: string; before(socket: Socket): unknown; seen: string }[] = [
  { name: 'as it is', before: () => {}, seen: 'ECONNRESET' },
  { name: 'behind a write', before: (socket) => socket.write('hello'), seen: 'ECONNRESET' },
  // Its FIN is on its way already.
  { name: 'being shut down', before: (socket) => socket.end('hello'), seen: 'end' },
  {
    name: 'shut down',
    before: (socket) => new Promise<void>((done) => socket.end('hello', () => setTimeout(done, 50))),
    seen: 'end',
  },
];

for (const { name, before, seen } of rows) {
  t.test(`a socket ${name}`, async (t) => {
    const open = handles();
    const { socket, gone } = await accepted(t);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    await before(socket);
    reset(socket);
    reset(socket);
    t.equal(await gone(), seen);
    await within('the close event', closed);
    t.ok(socket.destroyed);
    await until('the descriptor to be closed', () => handles() <= open + 1);
  });
}

t.test('TLS being shut down towards a peer that does not read', async (t) => {
  const open = handles();
  const server = createTlsServer({ cert: leaf.cert, key: leaf.key });
  const { port } = await listen(t, server);
  const came = once(server, 'secureConnection');
  const client = connectTls({ port, rejectUnauthorized: false });
  client.on('error', () => {});
  t.teardown(() => client.destroy());
  const [stream] = (await came) as [TLSSocket];
  stream.on('error', () => {});
  const socket = socketUnder(stream);
  if (socket === null) throw new Error('no socket under TLS');
  client.pause();
  for (let i = 0; i < 16; i++) stream.write(Buffer.alloc(1_048_576));
  stream.end();
  await pause(100);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  abortStream(stream, socket);
  await within('the close event', closed);
  await until('the descriptor to be closed', () => handles() <= open + 1);
});
