/** Waits for a process that was started until it serves. */
import type { Child } from '../children.ts';
import { askPlain, connects } from '../request.ts';

/** Until the first request is answered. */
export const SERVED_MS = 15_000;
const POLL_MS = 2;

/** Tries until it works. @returns null, or why it never did */
export async function until(
  child: Child,
  withinMs: number,
  works: () => Promise<string | null>,
): Promise<string | null> {
  const end = performance.now() + withinMs;
  for (;;) {
    const why = await works().catch((error: Error) => error.message);
    if (why === null) return null;
    if (child.gone) return 'it ended';
    if (performance.now() > end) return why;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** For {@link until}: something listens. */
export async function listens(port: number): Promise<string | null> {
  await connects(port);
  return null;
}

/** For {@link until}: a request is answered with 200. */
export async function serves(port: number, host?: string): Promise<string | null> {
  const status = await askPlain(port, host);
  return status === 200 ? null : `its first answers are ${status === 0 ? 'none' : status}, not 200`;
}
