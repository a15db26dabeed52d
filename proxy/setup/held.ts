/** Connections that came before there were credentials and a snapshot: held, not refused, so that an app may start before its sidecar is ready. */
import type { Socket } from 'node:net';
import { type Direction, unmapped } from '../connections.ts';
import { networkOf } from '../shunned.ts';

/** Of each direction: however many come in, there is room for what the app opens. */
const MAX_HELD = 1_024;
/** Of those that come in, from one address or IPv6 /64: who ends his side of one is not seen while it holds bytes. */
const MAX_OF_CALLER = 64;
/** How long one is held: longer than a CA's restart, shorter than anyone's patience. */
const HOLD_MS = 60_000;

/** What becomes of one: either, once. */
export interface Fate {
  serve(): void;
  /** It has waited too long. */
  turnAway(): void;
}

interface Place {
  readonly direction: Direction;
  /** Whose share it takes; null: nobody's. */
  readonly caller: string | null;
  readonly fate: Fate;
  readonly timer: NodeJS.Timeout;
  readonly left: () => void;
}

export class Held {
  readonly #places = new Map<Socket, Place>();
  readonly #sizes: Record<Direction, number> = { inbound: 0, outbound: 0 };
  readonly #ofCallers = new Map<string, number>();

  /** One that leaves or has waited too long makes room. @returns false where there is none: nothing was done */
  take(direction: Direction, socket: Socket, fate: Fate): boolean {
    const caller = direction === 'inbound' ? networkOf(unmapped(socket.remoteAddress ?? '')) : null;
    const share = caller === null ? 0 : (this.#ofCallers.get(caller) ?? 0);
    if (this.#sizes[direction] >= MAX_HELD || share >= MAX_OF_CALLER) return false;
    const left = (): void => {
      // It ended its side and said nothing, or it is gone: nobody waits any more.
      if (!socket.destroyed && socket.readableLength > 0) return;
      this.#forget(socket);
      socket.destroy();
    };
    const timer = setTimeout(() => {
      this.#forget(socket);
      fate.turnAway();
    }, HOLD_MS);
    socket.on('error', ignore);
    socket.on('end', left).on('close', left);
    this.#places.set(socket, { direction, caller, fate, timer, left });
    this.#sizes[direction]++;
    if (caller !== null) this.#ofCallers.set(caller, share + 1);
    return true;
  }

  /** Serves them all. */
  release(): void {
    for (const [socket, { fate }] of [...this.#places]) {
      this.#forget(socket);
      fate.serve();
    }
  }

  close(): void {
    for (const socket of [...this.#places.keys()]) {
      this.#forget(socket);
      socket.destroy();
    }
  }

  #forget(socket: Socket): void {
    const place = this.#places.get(socket);
    if (place === undefined) return;
    const { direction, caller, timer, left } = place;
    clearTimeout(timer);
    socket.off('end', left).off('close', left);
    this.#places.delete(socket);
    this.#sizes[direction]--;
    if (caller === null) return;
    const share = (this.#ofCallers.get(caller) ?? 0) - 1;
    if (share > 0) this.#ofCallers.set(caller, share);
    else this.#ofCallers.delete(caller);
  }
}

function ignore(): void {}
