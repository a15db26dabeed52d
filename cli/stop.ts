/** How a sidecar leaves: say so while it serves on, drain what comes in, keep what goes out while the app is there, close the rest. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Limits } from '../mesh/limits.ts';
import type { DataPlane } from './data-plane.ts';

/** Whether something of the app's is there to be served. */
export interface AppWatch {
  sees(): Promise<boolean>;
}

/** ms. */
export type StopTimes = Pick<Limits, 'drain' | 'drainDelay'>;

export interface Leaving {
  readonly plane: Pick<DataPlane, 'announce' | 'drain'>;
  readonly times: StopTimes;
  readonly log: Logger;
  /** Null: nothing tells, the app is gone when its connections are. */
  readonly app: AppWatch | null;
}

/** Between two looks at the app, ms. */
const LOOK_MS = 150;
/** Not seen in so many looks one after the other: between two sockets or two processes there may be none. */
const LOOKS = 3;
/** What the app said last is on its way to peers so long, at most: nothing else is left to be done without it. */
export const LAST_WORDS: StopTimes = { drainDelay: 0, drain: 1_000 };

/**
 * Brings the data plane to where all that is left may be closed.
 * @returns why what is left is closed, for the log
 */
export async function leave({ plane, times, log, app }: Leaving): Promise<string> {
  const over = new AbortController();
  const { signal } = over;
  try {
    const gone = app === null ? null : untilGone(app, log, signal);
    if (times.drainDelay > 0) {
      plane.announce(times.drainDelay);
      await first(sleep(times.drainDelay, signal), gone);
    }
    log.info('drain begins: nothing new is taken from outside');
    const grace = sleep(times.drain, signal).then(() => 'not finished within --drain');
    return await first(grace, gone === null ? alone(plane) : withApp(plane, gone, signal));
  } finally {
    over.abort();
  }
}

/** Nobody tells of the app: its connections do, of which an idle one says nothing. */
async function alone(plane: Leaving['plane']): Promise<string> {
  await plane.drain('inbound');
  await plane.drain('outbound');
  return 'all is drained';
}

/** What the app asks for is served as ever, as long as there is an app. */
async function withApp(plane: Leaving['plane'], gone: Promise<void>, signal: AbortSignal): Promise<string> {
  const drained = plane.drain('inbound');
  await gone;
  await first(drained, sleep(LAST_WORDS.drain, signal));
  return 'the app is gone';
}

/** Resolves once the app was not seen for a moment, and says so. What cannot be looked at is taken to be there. */
export async function untilGone(app: AppWatch, log: Logger, signal: AbortSignal): Promise<void> {
  for (let missed = 0; missed < LOOKS && !signal.aborted; ) {
    missed = (await look(app, log)) ? 0 : missed + 1;
    if (missed < LOOKS) await sleep(LOOK_MS, signal);
  }
  if (!signal.aborted) log.info('the app is gone');
}

function look(app: AppWatch, log: Logger): Promise<boolean> {
  return app.sees().catch((error: Error) => {
    log.debug({ error: error.message }, 'the app cannot be looked at');
    return true;
  });
}

async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  await pause(ms, undefined, { signal }).catch(() => {});
}

function first<T>(one: Promise<T>, other: Promise<T> | null): Promise<T> {
  return other === null ? one : Promise.race([one, other]);
}
