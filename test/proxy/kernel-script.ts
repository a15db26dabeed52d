/** Runs in a network namespace of its own, with rules of capture by hand, and tells as JSON what the kernel said to each call. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type NetConnectOpts, type Server, type Socket } from 'node:net';
import { loadBindFrom } from '../../proxy/setup/bound-socket.ts';
import { loadOriginalDestination } from '../../proxy/setup/original-destination.ts';

const PORT = 15_006;
const IPV4 = '10.99.0.1';
const IPV6 = 'fd00:99::1';
/** Fewer than are asked for. */
const EPHEMERAL = 64;

const run = (command: string): void => {
  const [file = '', ...args] = command.split(' ');
  execFileSync(file, args, { stdio: ['ignore', 'ignore', 'inherit'] });
};
const ask = await loadOriginalDestination();
const bindFrom = await loadBindFrom();

/** What is known of a connection once it is accepted: `ADDRESS PORT`, `null`, or the error's message. */
function said(socket: Socket): string {
  try {
    const original = ask(socket);
    return original === null ? 'null' : `${original.address} ${original.port}`;
  } catch (error) {
    return (error as Error).message;
  }
}

async function serve(host: string, port: number, options = {}): Promise<Server> {
  const server = createServer(options);
  server.listen({ host, port, ...options });
  await once(server, 'listening');
  return server;
}

async function accepted(server: Server, options: NetConnectOpts): Promise<Socket> {
  const socket = connect(options);
  const [[peer]] = await Promise.all([
    once(server, 'connection') as Promise<[Socket]>,
    once(socket, 'connect'),
  ]);
  socket.on('error', () => {});
  socket.destroy();
  return peer;
}

const told: Record<string, unknown> = {};
run('ip link set lo up');
run(`ip addr add ${IPV4}/32 dev lo`);
run(`ip addr add ${IPV6}/128 dev lo nodad`);
run('ip addr add ::6/128 dev lo nodad');
const dual = await serve('::', PORT);
const calls: readonly (readonly [string, NetConnectOpts])[] = [
  ['ipv4', { host: IPV4, port: 8080 }],
  ['ipv6', { host: IPV6, port: 8081 }],
  ['loopback ipv6', { host: '::1', port: 8082 }],
  ['direct ipv4', { host: '127.0.0.1', port: PORT }],
  ['direct ipv6', { host: '::1', port: PORT }],
];
told['before any rule'] = said(await accepted(dual, { host: '127.0.0.1', port: PORT }));
for (const tool of ['iptables', 'ip6tables']) {
  run(`${tool} -t nat -A OUTPUT -o lo -p tcp --dport 8080:8090 -j REDIRECT --to-ports ${PORT}`);
}
for (const [title, options] of calls) told[title] = said(await accepted(dual, options));
const gone = await accepted(dual, { host: IPV4, port: 8080 });
gone.destroy();
told.closed = said(gone);
dual.close();
const single = await serve('0.0.0.0', PORT);
told['ipv4 alone'] = said(await accepted(single, { host: IPV4, port: 8083 }));
single.close();

// Twice as many at once as there are ports, to two servers: a port is in use by both, never twice to one.
run(`sysctl -q -w net.ipv4.ip_local_port_range=40000\t${40_000 + EPHEMERAL - 1}`);
for (const [title, from, host] of [
  ['bound ipv4', '127.0.0.6', IPV4],
  ['bound ipv6', '::6', IPV6],
] as const) {
  const servers = [await serve(host, 9_001), await serve(host, 9_002)];
  const callers: string[] = [];
  const sockets: Socket[] = [];
  for (const server of servers) {
    server.on('connection', ({ remoteAddress, remotePort }: Socket) => {
      callers.push(`${remoteAddress} ${(remotePort ?? 0) - 40_000 < EPHEMERAL}`);
    });
    for (let count = 0; count < EPHEMERAL; count++) {
      const port = (server.address() as { port: number }).port;
      const fd = bindFrom(from);
      const socket = connect({ host, port, fd, allowHalfOpen: true, noDelay: true } as NetConnectOpts);
      sockets.push(socket);
      await once(socket, 'connect');
    }
  }
  told[title] = { count: callers.length, callers: [...new Set(callers)] };
  for (const socket of sockets) socket.destroy();
  for (const server of servers) server.close();
}
told['bound to a stranger'] = bindFrom('203.0.113.7');
process.stdout.write(JSON.stringify(told));
process.exit(0);
