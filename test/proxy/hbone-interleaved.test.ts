/** Streams on tunnels of either role whose connection cuts frames anywhere: bytes, ends and resets as scripts of chance have them. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, performServerHandshake, type ServerHttp2Stream } from 'node:http2';
import type { Duplex } from 'node:stream';
import t, { type Test } from 'tap';
import { limitsWith } from '../../mesh/limits.ts';
import type { TunnelStream } from '../../proxy/hbone/stream.ts';
import { Tunnel, type TunnelEnd, type TunnelKeeper } from '../../proxy/hbone/tunnel.ts';
import { hear } from '../../proxy/hear.ts';
import { within } from '../e2e/harness/wait.ts';
import { seededRandom } from './client-hello.ts';
import { wire } from './hbone-wire.ts';

const STREAMS = 1_000;
const TUNNELS = 8;
/** On one tunnel at once, and not beyond what either side allows. */
const AT_ONCE = 40;

/** Small windows: each stream has to wait for the other side's leave now and then. */
const limits = limitsWith({ streamWindow: 32_768, maxTunnelStreams: AT_ONCE });
const noise = randomBytes(2_097_152);
const next = seededRandom(11);

/** Bytes, a pause of the reader by turns of the event loop, the end, or a reset. */
type Step = { readonly write: number } | { readonly pause: number } | 'end' | 'reset';

interface Script {
  readonly steps: readonly Step[];
  /** Where in the noise its bytes begin, and how many they are. */
  readonly from: number;
  readonly octets: number;
  readonly resets: boolean;
}

function script(mayReset: boolean): Script {
  const steps: Step[] = Array.from({ length: next(7) }, () => {
    if (next(4) === 0) return { pause: 1 + next(20) };
    return { write: next(6) === 0 ? 1 + next(200_000) : 1 + next(2_000) };
  });
  const resets = mayReset && next(6) === 0;
  steps.push(resets ? 'reset' : 'end');
  const octets = steps.reduce(
    (sum, step) => sum + (typeof step === 'object' && 'write' in step ? step.write : 0),
    0,
  );
  return { steps, from: next(500_000), octets, resets };
}

interface Play {
  readonly client: Script;
  readonly server: Script;
}

/** One side of a stream: says its script, and holds what it hears against the other's. */
class Side {
  readonly #stream: Duplex;
  readonly #theirs: Script;
  heard = 0;
  same = true;
  /** `end`: all was said. Else how it was cut. */
  over: string | null = null;
  readonly closed: Promise<unknown>;

  constructor(stream: Duplex, theirs: Script) {
    this.#stream = stream;
    this.#theirs = theirs;
    const hears = (chunk: Buffer): void => {
      const at = theirs.from + this.heard;
      this.same &&= chunk.equals(noise.subarray(at, at + chunk.length));
      this.heard += chunk.length;
    };
    // The data path's way past the queue, and the usual one.
    if (next(2) === 0) hear(stream, hears);
    else stream.on('data', hears);
    stream.on('end', () => {
      this.over ??= 'end';
    });
    stream.on('error', (error: NodeJS.ErrnoException) => {
      this.over ??= error.code ?? error.message;
    });
    // Node's streams say so of a reset that has no error's code, and 'end' after it.
    stream.on('aborted', () => {
      this.over ??= 'aborted';
    });
    this.closed = new Promise((resolve) => stream.on('close', resolve));
  }

  async play({ steps, from }: Script): Promise<void> {
    let at = from;
    for (const step of steps) {
      if (this.#stream.destroyed) return;
      if (step === 'end') this.#stream.end();
      else if (step === 'reset') this.#stream.destroy(new Error('reset by the test'));
      else if ('pause' in step) {
        this.#stream.pause();
        for (let turn = 0; turn < step.pause; turn++) await turnOver();
        this.#stream.resume();
      } else {
        const flows = this.#stream.write(noise.subarray(at, at + step.write));
        at += step.write;
        if (!flows) await Promise.race([once(this.#stream, 'drain').catch(() => {}), this.closed]);
      }
      await turnOver();
    }
  }

  /** What it heard against what it should have; null: as it should be. @param cut one of both resets */
  fault(cut: boolean): string | null {
    if (!this.same) return 'other bytes';
    if (cut) return this.over === 'end' ? 'a reset that looks like an end' : null;
    if (this.over !== 'end') return `${this.over} instead of an end`;
    return this.heard === this.#theirs.octets ? null : `${this.heard} of ${this.#theirs.octets} octets`;
  }
}

function turnOver(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Mostly in large pieces, at times in small ones, and now and then octet by octet. */
function cut(octets: number): number {
  const most = next(3) === 0 ? 1 + next(40) : 1 + next(40_000);
  return Math.min(octets, most);
}

/** Somebody who asks for streams: of us, or node:http2's. */
interface Asker {
  /** @param hears makes the stream's side, before a byte of it can come; null: it was reset instead of answered */
  ask(id: number, hears: (stream: Duplex) => Side): Promise<Side | null>;
}

const NOWHERE = { remoteAddress: '10.0.0.1', remotePort: 1, localAddress: '10.0.0.2', localPort: 2 };

/** Tunnels that ended while they were in use. */
const broken: TunnelEnd[] = [];

class Keeper implements TunnelKeeper {
  readonly #serve: (id: number, stream: TunnelStream) => void;

  constructor(serve: (id: number, stream: TunnelStream) => void) {
    this.#serve = serve;
  }

  addressesOf(): typeof NOWHERE {
    return NOWHERE;
  }

  asked(_tunnel: Tunnel, stream: TunnelStream, { authority }: { readonly authority: string }): void {
    stream.accept();
    this.#serve(Number(authority.split(':')[1]), stream);
  }

  roomChanged(): void {}

  closed(_tunnel: Tunnel, end: TunnelEnd): void {
    broken.push(end);
  }
}

type Serve = (id: number, stream: Duplex) => void;

const roles = {
  ourClient(end: Duplex): Asker {
    const keeper = new Keeper(() => {
      throw new Error('a server asked for a stream');
    });
    const tunnel = new Tunnel('client', end, limits, keeper);
    tunnel.start();
    return {
      ask: (id, hears) =>
        new Promise((resolve, reject) => {
          tunnel.open([[':authority', `10.0.0.2:${id}`]], NOWHERE, {
            opened: (stream) => resolve(hears(stream)),
            refused: (status) => reject(new Error(`refused with ${status}`)),
            lost: () => resolve(null),
          });
        }),
    };
  },

  ourServer(end: Duplex, serve: Serve): void {
    new Tunnel('server', end, limits, new Keeper(serve)).start();
  },

  nodeClient(end: Duplex): Asker {
    const session = connect('http://peer', {
      createConnection: () => end,
      settings: { initialWindowSize: 32_768 },
    });
    session.on('error', () => {});
    return {
      async ask(id, hears) {
        const stream = session.request({ ':method': 'CONNECT', ':authority': `10.0.0.2:${id}` });
        const side = hears(stream);
        const answered = once(stream, 'response').catch(() => {});
        await Promise.race([answered, side.closed]);
        return side;
      },
    };
  },

  nodeServer(end: Duplex, serve: Serve): void {
    const session = performServerHandshake(end as never, { settings: { initialWindowSize: 32_768 } });
    session.on('error', () => {});
    session.on('stream', (stream: ServerHttp2Stream, headers) => {
      stream.on('error', () => {});
      stream.respond({ ':status': 200 });
      serve(Number(headers[':authority']?.split(':')[1]), stream);
    });
  },
};

/** Plays all on some tunnels. @returns what was not as it should be */
async function playAll(
  plays: readonly Play[],
  makeClient: (end: Duplex) => Asker,
  makeServer: (end: Duplex, serve: Serve) => void,
): Promise<readonly string[]> {
  const faults: string[] = [];
  const servers = new Map<number, Side>();
  const serve: Serve = (id, stream) => {
    const play = plays[id];
    if (play === undefined) throw new Error(`nobody asked for ${id}`);
    const side = new Side(stream, play.client);
    servers.set(id, side);
    void side.play(play.server);
  };
  let id = 0;
  const worker = async (client: Asker): Promise<void> => {
    while (id < plays.length) {
      const mine = id++;
      const { client: ours, server: theirs } = plays[mine] as Play;
      const asked = client.ask(mine, (stream) => new Side(stream, theirs));
      const here = await within(`an answer to ${mine}`, asked);
      if (here === null) {
        if (!theirs.resets) faults.push(`${mine}: it was not answered`);
        continue;
      }
      await here.play(ours);
      const there = servers.get(mine);
      if (there === undefined) throw new Error(`${mine} was answered by nobody`);
      await within(`both ends of ${mine}`, Promise.all([here.closed, there.closed]));
      // One that resets may have heard anything.
      const cutBy = ours.resets || theirs.resets;
      for (const [side, self] of [
        [here, ours],
        [there, theirs],
      ] as const) {
        const fault = self.resets ? null : side.fault(cutBy);
        if (fault !== null) faults.push(`${mine}, the ${side === here ? 'client' : 'server'}: ${fault}`);
      }
    }
  };
  const clients = Array.from({ length: TUNNELS }, () => {
    const [one, other] = wire(cut);
    for (const end of [one, other]) end.on('error', () => {});
    makeServer(other, serve);
    return makeClient(one);
  });
  await Promise.all(clients.flatMap((client) => Array.from({ length: AT_ONCE }, () => worker(client))));
  return faults;
}

/** At most one of both resets: where both do, neither hears of the other's. */
function plays(): readonly Play[] {
  return Array.from({ length: STREAMS }, () => {
    const client = script(true);
    return { client, server: script(!client.resets) };
  });
}

const pairs = [
  ['our client, our server', roles.ourClient, roles.ourServer],
  ["node:http2's client, our server", roles.nodeClient, roles.ourServer],
  ["our client, node:http2's server", roles.ourClient, roles.nodeServer],
] as const;

for (const [what, makeClient, makeServer] of pairs) {
  t.test(what, async (t: Test) => {
    const faults = await playAll(plays(), makeClient, makeServer);
    t.strictSame(faults, []);
    t.strictSame(broken, []);
  });
}
