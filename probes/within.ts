/** The end of every probe: its own time, or that nobody waits any longer. */

/**
 * Calls `work` with a signal that aborts after `timeoutMs`, or with `gone`, and waits no longer than that.
 * @throws what `work` throws, or the signal's reason: `no answer within …` where the time was over
 */
export async function within<T>(
  timeoutMs: number,
  gone: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  const signal = AbortSignal.any([late.signal, gone]);
  try {
    return await new Promise<T>((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
      work(signal).then(resolve, reject);
    });
  } finally {
    clearTimeout(timer);
  }
}
