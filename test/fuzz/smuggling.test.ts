/** Streams of requests by chance: node's strict parser behind the sidecar counts the very requests that we say we let pass. */
import { createServer, type IncomingMessage, METHODS } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import t, { type Test } from 'tap';
import type { AccessLog } from '../../telemetry/access-log.ts';
import { LOOPBACK } from '../corpus/play.ts';
import { sidecars } from '../corpus/sidecars.ts';
import { chance, mutated, OVER, requests } from './mutate.ts';

const AT_ONCE = 12;

/** What one side counted: `METHOD path`, each as often as it came. */
class Tally {
  readonly counts = new Map<string, number>();

  add(line: string): void {
    this.counts.set(line, (this.counts.get(line) ?? 0) + 1);
  }

  /** Lines that came more often here than there. */
  beyond(other: Tally): string[] {
    return [...this.counts].filter(([line, n]) => n > (other.counts.get(line) ?? 0)).map(([line]) => line);
  }
}

/** An app that answers 200 to each whole request, and writes down each it heard of. */
async function countingApp(t: Test, heard: Tally, broken: string[]): Promise<number> {
  const server = createServer({ insecureHTTPParser: false }, (request, response) => {
    hear(request);
    request.on('error', () => {});
    request.on('end', () => response.end('ok'));
    request.resume();
  });
  const hear = ({ method, url }: IncomingMessage): void => heard.add(`${method} ${url}`);
  // A request that expects something is one like any other.
  server.on('checkContinue', (request, response) => server.emit('request', request, response));
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
  server.on('upgrade', (request, socket) => {
    hear(request);
    socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
  });
  server.on('connect', (request, socket) => {
    broken.push(`CONNECT ${request.url}`);
    socket.destroy();
  });
  server.on('clientError', (error: NodeJS.ErrnoException & { rawPacket?: Buffer }, socket) => {
    const packet = error.rawPacket?.toString('latin1') ?? '';
    const [method = ''] = packet.split(' ', 1);
    // Any token is a method (RFC 9110 §9.1); node knows a list of them, and says so of others.
    const unknown = error.code === 'HPE_INVALID_METHOD' && TOKEN.test(method) && !METHODS.includes(method);
    if (!unknown && error.code?.startsWith('HPE_') === true)
      broken.push(`${error.code}: ${packet.slice(0, 500)}`);
    socket.destroy();
  });
  server.keepAliveTimeout = 60_000;
  await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve));
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  return (server.address() as AddressInfo).port;
}

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

const PATIENCE = 10_000;
let sent = 0;

/** One address has some 28,000 ports, each of use once a minute: a run needs more. */
function nextAddress(): { localAddress?: string } {
  if (process.platform !== 'linux') return {};
  sent++;
  return { localAddress: `127.0.53.${10 + (sent % 200)}` };
}

/** Sends it all, ends its side, and reads until the other side has ended. @returns false where it never does */
function send(port: number, text: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: LOOPBACK, allowHalfOpen: true, ...nextAddress() });
    socket.on('error', () => {});
    socket.on('end', () => socket.destroy());
    const timer = setTimeout(() => {
      resolve(false);
      socket.destroy();
    }, PATIENCE);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(true);
    });
    socket.resume();
    socket.end(Buffer.from(text, 'latin1'));
  });
}

t.setTimeout(OVER);

t.test('the app counts the requests that we let pass', { timeout: OVER }, async (t) => {
  const { seed, next, until } = chance();
  const heard = new Tally();
  const broken: string[] = [];
  /** Answered by the app, and all that reached it: by our own account. */
  const served = new Tally();
  const passed = new Tally();
  const accessLog: AccessLog = {
    write({ method, path, responseCode, reason }) {
      const line = `${method} ${path}`;
      if (responseCode === 200) served.add(line);
      if (reason === null || reason !== 'policy_denied') passed.add(line);
    },
    requestHeaders: [],
    dropped: 0,
    flush: () => Promise.resolve(),
    reopen: () => {},
    close: () => Promise.resolve(),
  };
  const { enter, errors } = await sidecars(t, { accessLog });
  const entrance = await enter.inbound(await countingApp(t, heard, broken));
  t.teardown(() => entrance.close());
  let count = 0;
  const work = async (): Promise<void> => {
    for (; performance.now() < until; count++) {
      // Two behind each other: where the first ends is what it is about.
      const text = mutated(requests, next) + mutated(requests, next);
      if (!(await send(entrance.port, text))) broken.push(`never ended: ${text}`);
      if (broken.length > 0) return;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const replay = `OARLOCK_FUZZ_SEED=${seed}`;
  t.comment(`${count} streams, ${replay}`);
  t.same(broken, [], `the app could read all of it; ${replay}`);
  t.same(heard.beyond(passed), [], `the app heard of nothing that we did not let pass; ${replay}`);
  t.same(served.beyond(heard), [], `what we say was served, it served; ${replay}`);
  t.same(
    [...heard.counts.keys()].filter((line) => /^PURGE | \/admin/.test(line)),
    [],
    `nothing that is denied got through; ${replay}`,
  );
  t.same(errors, [], 'no fault of the sidecars themselves');
  t.ok(count > 100, 'enough of them');
});
