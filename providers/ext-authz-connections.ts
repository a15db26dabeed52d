/** Connections for checks over HTTP/1.1: as many as there are checks at once, each carrying one at a time. */
import type { Duplex } from 'node:stream';
import { Client } from 'undici';
import { ALL_BUSY, MAX_CONNECTIONS, NotAsked, orAbort } from './ext-authz-asker.ts';

/** Retired before a server with the usual 5 s of keep-alive closes it under a check. */
const IDLE_MS = 4_000;
/** As the data path's `maxHeadBytes`. */
const MAX_HEAD_BYTES = 61_440;

/** The server closed a connection that was kept before the question was written. */
export class Gone extends Error {}

/** A connection for one check, which gives it back or drops it. */
export interface Lease {
  readonly client: Client;
  /** It carried a check before. */
  readonly used: boolean;
}

export interface Connections {
  /**
   * @param signal nobody waits for the connection any more
   * @throws NotAsked where too many are busy, Error where there is no connection
   */
  take(signal: AbortSignal): Promise<Lease>;
  giveBack(client: Client): void;
  drop(client: Client): void;
  close(): void;
}

/** @param open a new connection to the service */
export function connectionsBy(open: () => Promise<Duplex>): Connections {
  const all = new Set<Client>();
  const idle: Client[] = [];
  /** Begun for checks that left meanwhile: the next check takes over, so that no more are begun than checks wait. */
  const left = new Set<Promise<Duplex>>();
  let taken = 0;
  let closed = false;

  async function opened(signal: AbortSignal): Promise<Duplex> {
    const [opening = open()] = left;
    left.delete(opening);
    try {
      return await orAbort(opening, signal);
    } catch (error) {
      if (signal.aborted) leave(opening);
      throw error;
    }
  }

  function leave(opening: Promise<Duplex>): void {
    left.add(opening);
    opening.then(
      (stream) => {
        if (left.delete(opening)) stream.destroy();
      },
      () => left.delete(opening),
    );
  }

  function end(client: Client): void {
    all.delete(client);
    client.destroy().catch(ignore);
  }

  function ended(client: Client): void {
    all.delete(client);
    const at = idle.indexOf(client);
    // One that is taken has a question that waits for it, which hears of it by the second call for a connection.
    if (at >= 0) {
      idle.splice(at, 1);
      end(client);
    }
  }

  function clientOf(stream: Duplex): Client {
    if (closed || stream.destroyed) {
      stream.destroy();
      throw new Error(closed ? 'no more checks are made' : 'it closed the connection');
    }
    let given = false;
    const client = new Client('http://provider', {
      pipelining: 1,
      keepAliveTimeout: IDLE_MS,
      keepAliveMaxTimeout: IDLE_MS,
      maxHeaderSize: MAX_HEAD_BYTES,
      // The check's own time bounds both.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: (_options, done) => {
        const again = given;
        given = true;
        // Later: undici does not go on by itself where a connection is there at once.
        process.nextTick(() => {
          if (again) done(new Gone('other side closed'), null);
          // undici asks for a stream's methods only; its types know none but sockets
          else done(null, stream as Parameters<typeof done>[1] & object);
        });
      },
    });
    client.on('disconnect', () => ended(client));
    // It is cut soon: a check under way finishes, and the next one takes another connection.
    stream.once('leaving', () => ended(client));
    all.add(client);
    return client;
  }

  return {
    async take(signal) {
      if (taken >= MAX_CONNECTIONS) throw new NotAsked(ALL_BUSY);
      taken++;
      // The one used last: those that are not needed any more run into their time-out.
      const kept = idle.pop();
      if (kept !== undefined) return { client: kept, used: true };
      try {
        return { client: clientOf(await opened(signal)), used: false };
      } catch (error) {
        taken--;
        throw error;
      }
    },
    giveBack(client) {
      taken--;
      if (all.has(client)) idle.push(client);
      else end(client);
    },
    drop(client) {
      taken--;
      end(client);
    },
    close() {
      closed = true;
      for (const client of all) end(client);
    },
  };
}

function ignore(): void {}
