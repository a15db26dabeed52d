/** A TCP probe: whoever accepts the connection is well. */
import { dial, type Target } from './dial.ts';

/** How long what a server says of itself is read away, so that closing is no reset. */
const LINGER_MS = 1_000;

/**
 * Connects and closes again.
 * @throws Error that says why it could not connect, or the signal's reason
 */
export async function askTcp(target: Target, signal: AbortSignal): Promise<void> {
  const socket = await dial(target, signal);
  socket.on('error', () => {});
  socket.resume();
  socket.end();
  const patience = setTimeout(() => socket.destroy(), LINGER_MS);
  patience.unref();
  socket.once('close', () => clearTimeout(patience));
}
