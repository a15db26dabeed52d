/** Takes a data plane down as `run` does. */
import type { Logger } from 'pino';
import type { LocalPlane } from '../../cli/data-plane.ts';
import { leave } from '../../cli/stop.ts';

/** @param drain ms that running streams and requests have */
export async function leavePlane(plane: LocalPlane, log: Logger, drain: number): Promise<void> {
  await plane.stop(await leave({ plane, times: { drain, drainDelay: 0 }, log, app: null }));
}
