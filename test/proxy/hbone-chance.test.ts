/** A thousand connections through tunnels of ours, each with a script of chance for both ends: every byte, end and abort arrives as it left. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import t, { type Test } from 'tap';
import { tcpApp } from '../e2e/harness/apps.ts';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { seededRandom } from './client-hello.ts';
import { hboneCaller } from './hbone-caller.ts';
import { hbonePeer } from './hbone-peer.ts';
import { hboneSidecar, TCP } from './hbone-sidecar.ts';

t.setTimeout(120_000);

const CONNECTIONS = 1_000;
/** At once: more than a tunnel takes. */
const AT_ONCE = 200;
const STREAMS = 60;

/** What an end does: so many bytes, or its end, or an abort. */
type Step = number | 'end' | 'abort';
type Script = readonly Step[];

const next = seededRandom(7);
/** What is sent is a part of this; where it begins is told by who sends. */
const noise = randomBytes(4_194_304);

/** @param mayAbort it ends so one time in eight */
function script(mayAbort: boolean): Script {
  const steps: Step[] = Array.from({ length: next(6) }, () =>
    next(20) === 0 ? 1 + next(300_000) : 1 + next(3_000),
  );
  steps.push(mayAbort && next(8) === 0 ? 'abort' : 'end');
  return steps;
}

const sizeOf = (steps: Script): number =>
  steps.reduce<number>((sum, step) => sum + (typeof step === 'number' ? step : 0), 0);

/** One end of a connection: plays its script, and compares what it hears with the other's. */
class End {
  readonly #stream: Duplex;
  readonly #from: number;
  heard = 0;
  /** Not what the other end sent. */
  wrong = false;
  over: string | null = null;
  readonly closed: Promise<void>;

  /** @param from where in the noise the other end's bytes begin */
  constructor(stream: Duplex, from: number) {
    this.#stream = stream;
    this.#from = from;
    stream.on('data', (chunk: Buffer) => {
      const at = this.#from + this.heard;
      if (!chunk.equals(noise.subarray(at, at + chunk.length))) this.wrong = true;
      this.heard += chunk.length;
    });
    stream.on('end', () => {
      this.over ??= 'end';
    });
    stream.on('error', (error: NodeJS.ErrnoException) => {
      this.over ??= error.code ?? error.message;
    });
    this.closed = new Promise((resolve) =>
      stream.on('close', () => {
        this.over ??= 'closed';
        resolve();
      }),
    );
  }

  /** @param from where in the noise its own bytes begin */
  async play(steps: Script, from: number, abort: () => void): Promise<void> {
    let at = from;
    for (const step of steps) {
      if (this.#stream.destroyed) return;
      if (step === 'end') this.#stream.end();
      else if (step === 'abort') abort();
      else {
        const flows = this.#stream.write(noise.subarray(at, at + step));
        at += step;
        if (!flows) await Promise.race([once(this.#stream, 'drain').catch(() => {}), this.closed]);
      }
      await new Promise((resolve) => (next(2) === 0 ? setImmediate(resolve) : setTimeout(resolve, next(8))));
    }
  }
}

interface Play {
  readonly client: Script;
  readonly app: Script;
  /** Where in the noise their bytes begin. */
  readonly clientFrom: number;
  readonly appFrom: number;
  /** The app's end, once it is known whose it is. */
  there: End | null;
}

/** Bytes that tell the app which connection it is. */
const NAME = 4;

function plays(appAborts: boolean): Play[] {
  return Array.from({ length: CONNECTIONS }, () => {
    const client = script(true);
    return {
      client,
      // One of the two at most: an abort that crosses another is seen by neither.
      app: script(appAborts && !client.includes('abort')),
      clientFrom: next(1_000_000),
      appFrom: next(1_000_000),
      there: null,
    };
  });
}

/** Reads the name, then plays. @returns takes the app's end of a connection */
function appOf(all: readonly Play[]): (stream: Duplex, abort: () => void) => void {
  return (stream, abort) => {
    stream.on('error', () => {});
    const named = (): void => {
      const name = stream.read(NAME) as Buffer | null;
      if (name === null) return;
      stream.off('readable', named);
      const play = all[name.readUInt32BE(0)];
      if (play === undefined) throw new Error('nobody of that name');
      play.there = new End(stream, play.clientFrom);
      stream.resume();
      void play.there.play(play.app, play.appFrom, abort);
    };
    stream.on('readable', named);
  };
}

/** @returns what did not arrive as it left */
async function played(play: Play, id: number, port: number): Promise<string | null> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  const name = Buffer.alloc(NAME);
  name.writeUInt32BE(id);
  const here = new End(socket, play.appFrom);
  socket.write(name);
  await here.play(play.client, play.clientFrom, () => socket.resetAndDestroy());
  await within(`connection ${id} (${play.client} | ${play.app})`, here.closed);
  const { there } = play;
  if (there === null) return play.client.includes('abort') ? null : `${id}: it never came`;
  await within(`the app's end of ${id} (${play.client} | ${play.app})`, there.closed);
  if (here.wrong || there.wrong) return `${id}: other bytes`;
  const whole = there.heard === sizeOf(play.client) && here.heard === sizeOf(play.app);
  if (play.client.includes('abort')) return there.over === 'end' ? `${id}: the app saw an end` : null;
  if (play.app.includes('abort')) return here.over === 'end' ? `${id}: the client saw an end` : null;
  return whole && here.over === 'end' && there.over === 'end'
    ? null
    : `${id}: ${there.heard} of ${sizeOf(play.client)}, ${there.over}; ${here.heard} of ${sizeOf(play.app)}, ${here.over}`;
}

async function playAll(t: Test, all: readonly Play[], port: number): Promise<void> {
  const faults: string[] = [];
  let id = 0;
  const one = async (): Promise<void> => {
    while (id < all.length) {
      const mine = id++;
      const fault = await played(all[mine] as Play, mine, port);
      if (fault !== null) faults.push(fault);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  t.same(faults, []);
}

t.test('to a sidecar of ours', async (t) => {
  const all = plays(true);
  const serve = appOf(all);
  const app = await tcpApp(t, (socket) => serve(socket, () => socket.resetAndDestroy()));
  const inbound = await hboneSidecar(t, { tcp: app.port });
  const places = [{ hbone: inbound.port, port: TCP }];
  const limits = { maxTunnelStreams: STREAMS };
  const { tcp, metric } = await hboneCaller(t, inbound.ca, { places, limits });
  await playAll(t, all, tcp);
  await until('nothing to be left', async () => (await metric('oarlock_connections_open')) === 0);
  t.equal(await metric('oarlock_tunnel_streams', { direction: 'outbound' }), 0);
  await inbound.metricIs('oarlock_tunnel_streams', { direction: 'inbound' }, 0);
  t.equal(await metric('oarlock_refusals_total', { reason: 'tunnel_broken' }), 0);
  t.equal(await inbound.refusals('tunnel_broken'), 0);
});

t.test("to node:http2's server", async (t) => {
  // It says END_STREAM before any reset of its own: an abort of it cannot be played.
  const all = plays(false);
  const serve = appOf(all);
  const { ca } = await hboneSidecar(t);
  const peer = await hbonePeer(t, await ca.leaf(spiffe('shop', 'orders')), ({ stream }) => {
    stream.respond({ ':status': 200 });
    serve(stream, () => {});
  });
  const places = [{ hbone: peer.port, port: TCP }];
  const { tcp, metric } = await hboneCaller(t, ca, { places, limits: { maxTunnelStreams: STREAMS } });
  await playAll(t, all, tcp);
  await until('nothing to be left', async () => (await metric('oarlock_connections_open')) === 0);
  t.equal(await metric('oarlock_tunnel_streams', { direction: 'outbound' }), 0);
  t.equal(peer.asked.length >= CONNECTIONS * 0.9, true);
});
