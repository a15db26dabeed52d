/** Whose sockets there are in a network namespace, by the kernel's tables. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AppSockets } from '../../cli/app-sockets.ts';
import { tempDir } from '../e2e/harness/mesh.ts';

const HEAD =
  '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode';
const LISTEN = '0A';
const ESTABLISHED = '01';
const TIME_WAIT = '06';

/** As the kernel writes one: ours are 100 to 109. */
const line = (state: string, uid: number, inode: number, address = '0100007F'): string =>
  `   0: ${address}:1F90 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000  ${uid}        0 ${inode} 1 0000000000000000 100 0 0 10 0`;

function procOf(tcp: readonly string[], tcp6: readonly string[] | null): string {
  const proc = tempDir(t);
  for (const dir of ['self/net', 'self/fd']) mkdirSync(join(proc, dir), { recursive: true });
  writeFileSync(join(proc, 'self/net/tcp'), `${[HEAD, ...tcp].join('\n')}\n`);
  if (tcp6 !== null) writeFileSync(join(proc, 'self/net/tcp6'), `${[HEAD, ...tcp6].join('\n')}\n`);
  symlinkSync('/dev/null', join(proc, 'self/fd/0'));
  for (let inode = 100; inode < 110; inode++)
    symlinkSync(`socket:[${inode}]`, join(proc, `self/fd/${inode}`));
  return proc;
}

const rows: readonly (readonly [title: string, tcp: string[], tcp6: string[] | null, sees: boolean])[] = [
  ['none', [], [], false],
  ['a kernel without IPv6', [], null, false],
  ['our own', [line(LISTEN, 1337, 100), line(ESTABLISHED, 1337, 109)], [line(LISTEN, 1337, 101)], false],
  ['one that listens', [line(LISTEN, 1337, 100), line(LISTEN, 1000, 200)], [], true],
  ['the name server of Docker, at 127.0.0.11', [line(LISTEN, 0, 200, '0B00007F')], [], false],
  ['a neighbour of its address', [line(LISTEN, 0, 200, '0C00007F')], [], true],
  ['one with a connection', [line(ESTABLISHED, 1000, 200)], [], true],
  ['the same over IPv6', [], [line(ESTABLISHED, 1000, 200)], true],
  ['one that runs as our user', [line(LISTEN, 1337, 100), line(LISTEN, 1337, 200)], [], true],
  [
    'what nobody holds any more',
    [line(TIME_WAIT, 0, 0), line('04', 1000, 0)],
    [line(TIME_WAIT, 0, 0)],
    false,
  ],
];

for (const [title, tcp, tcp6, sees] of rows) {
  t.test(title, async (t) => {
    t.equal(await new AppSockets(procOf(tcp, tcp6)).sees(), sees);
  });
}
