/** The callers on either side of ztunnel: they run in a test's own process and, by ztunnel-agent.ts, in a namespace. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect as openSession } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { digestOf, endings, FAREWELL, farewells, GREETING, RESET_WORD } from './ztunnel-apps.ts';

export interface Target {
  readonly host: string;
  readonly port: number;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** One request on a connection of its own. An answer that does not come whole is a rejection. */
function get(
  target: Target,
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<HttpAnswer> {
  return exchange(target, path, 'GET', Buffer.alloc(0), headers);
}

/** Requests at once on one HTTP/2 connection; the answers in their order. */
async function getByHttp2({ host, port }: Target, paths: readonly string[]): Promise<HttpAnswer[]> {
  const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const session = openSession(`http://${authority}`);
  // Its requests tell of it.
  session.on('error', () => {});
  try {
    return await Promise.all(
      paths.map(async (path) => {
        const stream = session.request({ ':path': path, ':authority': authority });
        const [headers] = (await once(stream, 'response')) as [Record<string, string>];
        const body = (await buffer(stream)).toString();
        return { status: Number(headers[':status']), headers: {}, body };
      }),
    );
  } finally {
    session.destroy();
  }
}

/** That many posts at once, each of so many random bytes, to `/echo`; how many came back the same. */
async function postAndCompare(target: Target, bytes: number, count = 1): Promise<number> {
  const same = await Promise.all(Array.from({ length: count }, () => comesBack(target, bytes)));
  return same.filter(Boolean).length;
}

async function comesBack(target: Target, bytes: number): Promise<boolean> {
  const sent = randomBytes(bytes);
  const { body } = await exchange(target, '/echo', 'POST', sent, {}, 'latin1');
  return Buffer.from(body, 'latin1').equals(sent);
}

function exchange(
  { host, port }: Target,
  path: string,
  method: string,
  body: Buffer,
  headers: Readonly<Record<string, string>>,
  encoding: BufferEncoding = 'utf8',
): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const length = method === 'GET' ? {} : { 'content-length': String(body.length) };
    const outgoing = request({ host, port, path, method, headers: { ...length, ...headers }, agent: false });
    outgoing.on('error', reject);
    outgoing.on('response', (response) => {
      buffer(response).then(
        (bytes) =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: bytes.toString(encoding),
          }),
        reject,
      );
    });
    outgoing.end(body);
  });
}

/** Leaves an exchange in the middle, by a reset: half a request is sent, and what it is answered so far may have come. */
async function abandon({ host, port }: Target): Promise<boolean> {
  const outgoing = request({ host, port, path: '/echo', method: 'POST', agent: false });
  outgoing.on('error', () => {});
  outgoing.setHeader('content-length', 1_000_000);
  outgoing.write(randomBytes(500_000));
  await once(outgoing, 'drain');
  outgoing.socket?.resetAndDestroy();
  return true;
}

/** What a TCP caller got, and how it was left. */
export interface Ended {
  readonly text: string;
  /** `end`: a FIN came. `ECONNRESET` and its like: an abort. */
  readonly over: string;
}

/** Sends that many random bytes and a FIN; true where the app, which answers after the FIN, had them all. */
async function halfClose(target: Target, bytes: number): Promise<boolean> {
  const sent = randomBytes(bytes);
  const { text, over } = await speak(target, sent, true);
  return over === 'end' && text === digestOf(sent);
}

/** Waits until the app has ended its side, then sends that many bytes; their digest. */
async function outlast(target: Target, bytes: number): Promise<string> {
  const socket = dial(target);
  const over = ending(socket);
  await heard(socket, FAREWELL.length);
  await over;
  const sent = randomBytes(bytes);
  socket.end(sent);
  await once(socket, 'close');
  return digestOf(sent);
}

/** Waits for the greeting before it says a word; resolves with all that was said. */
async function beGreeted(target: Target): Promise<string> {
  const socket = dial(target);
  const text = await heard(socket, GREETING.length);
  socket.write('EHLO');
  const rest = await heard(socket, 4);
  socket.destroy();
  return text + rest;
}

/** Sends a word and stays; resolves once the other side ends it. */
function say(target: Target, word: string): Promise<Ended> {
  return speak(target, Buffer.from(word), false);
}

/** Has the app reset a connection that carried a word both ways. */
async function beReset(target: Target): Promise<Ended> {
  const socket = dial(target);
  const over = ending(socket);
  socket.write('ping');
  const text = await heard(socket, 4);
  socket.write(RESET_WORD);
  const how = await over;
  // ztunnel tells of it once both directions are over.
  socket.destroy();
  return { text, over: how };
}

/** Resets a connection that carried a word both ways. */
async function reset(target: Target): Promise<string> {
  const socket = dial(target);
  socket.write('ping');
  const text = await heard(socket, 4);
  socket.resetAndDestroy();
  return text;
}

/** Holds that many connections open at once, each with a word of its own both ways; how many had it right. */
async function manyAtOnce(target: Target, count: number): Promise<number> {
  const sockets: Socket[] = [];
  let right = 0;
  while (sockets.length < count) {
    const wave = Array.from({ length: WAVE }, () => dial(target));
    sockets.push(...wave);
    // No wave before the last one is through: a SYN that a full listener drops costs a second and more.
    right += (await Promise.all(wave.map(echoesItsOwn))).filter(Boolean).length;
  }
  for (const socket of sockets) socket.destroy();
  return right;
}

async function echoesItsOwn(socket: Socket): Promise<boolean> {
  const word = randomBytes(8).toString('hex');
  socket.write(word);
  try {
    return (await heard(socket, word.length)) === word;
  } catch {
    return false;
  }
}

/** Opens that many connections and resets each at once, before anything can have come of it. */
async function leaveAtOnce(target: Target, count: number): Promise<void> {
  for (let left = count; left > 0; left -= WAVE) {
    const wave = Array.from({ length: WAVE }, () => dial(target));
    for (const socket of wave) socket.once('connect', () => socket.resetAndDestroy());
    await Promise.all(wave.map((socket) => once(socket, 'close')));
  }
}

/** The connection of `startTalk`, until `endTalk`. */
let talk: { readonly socket: Socket; readonly over: Promise<string> } | null = null;

/** Opens a connection to an echo that answers. */
async function startTalk(target: Target): Promise<void> {
  const socket = dial(target);
  talk = { socket, over: ending(socket) };
  await isEchoed(socket);
}

/** Has it echo once more and ends it. */
async function endTalk(): Promise<{ readonly echoed: boolean; readonly over: string }> {
  if (talk === null) throw new Error('nobody talks');
  const { socket, over } = talk;
  talk = null;
  // It may be at its end already, and then no event tells of it again.
  const echoed = await Promise.race([isEchoed(socket), over.then(() => false)]).catch(() => false);
  socket.end();
  return { echoed, over: await over };
}

async function isEchoed(socket: Socket): Promise<boolean> {
  socket.write('tick');
  return (await heard(socket, 4)) === 'tick';
}

/** True where nobody listens. */
export function isShut(target: Target): Promise<boolean> {
  const socket = dial(target);
  return new Promise((resolve) => {
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', () => resolve(true));
  });
}

/** What either side can be asked to do, by name. */
export const callers = {
  get,
  getByHttp2,
  abandon,
  postAndCompare,
  halfClose,
  outlast,
  beGreeted,
  say,
  beReset,
  reset,
  manyAtOnce,
  leaveAtOnce,
  startTalk,
  endTalk,
  endings: async (): Promise<readonly string[]> => endings,
  farewells: async (): Promise<readonly string[]> => farewells,
};

type Callers = typeof callers;
export type CallerName = keyof Callers;

/** Has one side do a thing: its own process, or another one's. */
export type Ask = <Name extends CallerName>(
  name: Name,
  ...args: Parameters<Callers[Name]>
) => Promise<Awaited<ReturnType<Callers[Name]>>>;

/** Connections that are dialled together: fewer than any listener lets wait (ztunnel's: 128). */
const WAVE = 50;

function dial({ host, port }: Target): Socket {
  const socket = connect({ host, port, allowHalfOpen: true, noDelay: true });
  socket.on('error', () => {});
  return socket;
}

async function speak(target: Target, bytes: Buffer, andEnd: boolean): Promise<Ended> {
  const socket = dial(target);
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  const over = ending(socket);
  if (andEnd) socket.end(bytes);
  else socket.write(bytes);
  const how = await over;
  socket.destroy();
  return { text: Buffer.concat(parts).toString('latin1'), over: how };
}

function ending(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    socket.on('end', () => resolve('end'));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.on('close', () => resolve('closed'));
  });
}

/** The next bytes of that number. */
function heard(socket: Socket, bytes: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const over = (): void => reject(new Error(`it ended after ${JSON.stringify(text)}`));
    const onData = (chunk: Buffer): void => {
      text += chunk.toString('latin1');
      if (text.length < bytes) return;
      socket.off('data', onData);
      socket.off('close', over);
      socket.off('end', over);
      resolve(text);
    };
    socket.on('data', onData);
    socket.on('close', over);
    socket.on('end', over);
  });
}
