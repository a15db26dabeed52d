/** The lenient judge must be able to say no: what a relay of bytes lets through it must see, and nothing else. */
import { type AddressInfo, connect, createServer } from 'node:net';
import t from 'tap';
import { groups } from './groups.ts';
import { judge } from './lenient.ts';
import { type Enter, LOOPBACK, play, type Stand, WHOLE } from './play.ts';

/** Knows nothing of HTTP. */
const relay: Enter = async (appPort) => {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const up = connect({ host: LOOPBACK, port: appPort, allowHalfOpen: true, noDelay: true });
    socket.on('error', () => up.destroy()).pipe(up);
    up.on('error', () => socket.destroy()).pipe(socket);
    socket.once('close', () => up.destroy());
    up.once('close', () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve));
  return { port: (server.address() as AddressInfo).port, close: () => server.close() };
};

const stand: Stand = { host: LOOPBACK, server: null, patience: 1_500, reading: 'lenient' };

interface Row {
  readonly group: string;
  readonly table: string;
  readonly name: string;
  readonly holds: boolean;
}

const row = (holds: boolean, group: string, table: string, name: string): Row => ({
  group,
  table,
  name,
  holds,
});

const rows: readonly Row[] = [
  row(true, 'heads', 'methods', 'the method PUT'),
  row(true, 'heads', 'values', 'obs-text in a value'),
  row(true, 'heads', 'values', 'a value with \\x01'),
  row(false, 'heads', 'values', 'a value with \\x00'),
  row(false, 'heads', 'lineEnds', 'bare LF ends the request line'),
  row(false, 'heads', 'names', 'a space before the colon'),
  row(false, 'heads', 'folds', 'obs-fold by a space'),
  row(true, 'targets', 'paths', '/a/../b'),
  row(false, 'targets', 'bytes', 'a fragment'),
  row(false, 'targets', 'hosts', 'two Hosts'),
  row(false, 'targets', 'hosts', 'a list'),
  row(false, 'targets', 'forms', 'CONNECT'),
  row(true, 'framing', 'contentLength', 'five'),
  row(false, 'framing', 'contentLength', '"+5"'),
  row(false, 'framing', 'both', 'Content-Length before'),
  row(false, 'framing', 'smuggling', 'CL.TE'),
  row(true, 'chunks', 'sizes', 'a leading zero'),
  row(false, 'chunks', 'sizes', '"5 "'),
  row(false, 'chunks', 'data', 'an LF behind it'),
  row(false, 'chunks', 'trailers', 'Content-Length: 50 is filtered out'),
  row(true, 'chunks', 'cuts', 'within the data'),
  row(false, 'fields', 'requests', 'a nominated field'),
  row(false, 'fields', 'answers', 'a nominated field'),
  row(true, 'tunnels', 'granted', 'as browsers ask'),
  row(false, 'tunnels', 'notAsked', 'h2c'),
  row(false, 'tunnels', 'badSwitch', 'unasked'),
  row(false, 'replies', 'statusLines', '"HTTP/1.1 20 OK"'),
  row(false, 'replies', 'framing', 'both'),
  row(false, 'replies', 'interims', 'none to a client of 1.0: 103, 40 bytes'),
  row(false, 'replies', 'surplus', 'two answers'),
  row(false, 'replies', 'oldClients', 'chunks become plain'),
  row(true, 'replies', 'cuts', 'within a chunk'),
  row(true, 'reuse', 'pipelining', 'two'),
];

for (const { group, table, name, holds } of rows) {
  t.test(`${group}.${table}: ${name} ${holds ? 'holds' : 'does not hold'}`, async (t) => {
    const found = groups[group]?.[table]?.find((one) => one.name === name);
    if (found === undefined) throw new Error('no such case');
    const { misses } = judge(
      { table: `${group}.${table}`, row: found },
      await play(found, relay, WHOLE, stand),
    );
    t.equal(misses.length === 0, holds, misses.join('; '));
  });
}
