/** An HTTP app by hand: it says exactly what a test wants said, cuts where told, and remembers how it was left. */
import { createServer, type Socket } from 'node:net';
import type { Test } from 'tap';
import { type App, listen } from './apps.ts';
import { bytesInKernel, hasTcpTable } from './proc.ts';
import { pause, until } from './wait.ts';

/** What the app does with a request. */
export interface Script {
  /** When: as soon as somebody connects, once the head is here, or once the bytes received contain `mark`. */
  readonly when: 'accept' | 'head' | { readonly mark: string };
  readonly says?: string;
  /** What comes after that; it stays open unless told. */
  readonly leaves?: 'fin' | 'rst';
}

/** A connection as the app saw it. */
export interface Visit {
  readonly socket: Socket;
  /** All that came. */
  text: string;
  /** `end`: a FIN came; an error's code: an abort; null: it is open. */
  over: string | null;
}

export interface RawApp extends App {
  readonly visits: readonly Visit[];
  /** The visit whose bytes have this path, waiting for it. */
  visit(path: string): Promise<Visit>;
  /** True where no request of that path ever came. */
  unseen(path: string): boolean;
}

/**
 * @param scripts by path; a path without one is answered 200 with a length, whatever it says
 * @param onAccept asked at each connection, before anything came; null: wait for the head
 */
export async function rawApp(
  t: Test,
  scripts: ReadonlyMap<string, Script>,
  onAccept: () => Script | null,
): Promise<RawApp> {
  const visits: Visit[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const visit: Visit = { socket, text: '', over: null };
    visits.push(visit);
    let begun = 0;
    const over = (how: string): void => {
      visit.over ??= how;
    };
    socket.on('error', (error: NodeJS.ErrnoException) => over(error.code ?? error.message));
    socket.on('end', () => {
      over('end');
      socket.end();
    });
    socket.on('close', () => over('closed'));
    const atOnce = onAccept();
    if (atOnce !== null) play(socket, atOnce);
    socket.on('data', (chunk: Buffer) => {
      visit.text += chunk.toString('latin1');
      // One request at a time: this app is not asked to tell pipelined ones apart.
      const request = visit.text.slice(begun);
      const head = /^[A-Z]+ (\S+) HTTP\/1\.1\r\n[\s\S]*?\r\n\r\n/.exec(request);
      if (head === null) return;
      const script = scripts.get(head[1] ?? '');
      if (script === undefined) {
        begun = visit.text.length;
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      } else if (typeof script.when === 'string' || request.includes(script.when.mark)) {
        begun = visit.text.length;
        play(socket, script);
      }
    });
  });
  const app = await listen(t, server);
  return {
    ...app,
    visits,
    visit: (path) => until(`${path} at the app`, () => visits.find(({ text }) => text.includes(` ${path} `))),
    unseen: (path) => !visits.some(({ text }) => text.includes(path)),
  };
}

function play(socket: Socket, { says = '', leaves }: Script): void {
  if (leaves === undefined) socket.write(says, 'latin1');
  else if (leaves === 'fin') socket.end(says, 'latin1');
  // What was said must have left before the reset, which would take it back.
  else if (says === '') socket.resetAndDestroy();
  else socket.write(says, 'latin1', () => void resetOnceRead(socket));
}

/** What waits in the kernel a reset would throw away. */
async function resetOnceRead(socket: Socket): Promise<void> {
  const { remotePort = 0 } = socket;
  if (hasTcpTable) await until('the other end to read it', () => bytesInKernel([remotePort]) === 0);
  else await pause(RESET_AFTER);
  socket.resetAndDestroy();
}

/** The time that has to do where nobody tells of the kernel's queues (ms). */
const RESET_AFTER = 50;
