/** `oarlock iptables --hold`: looks again and again whether the rules of capture stand, and sets them where they do not. */
import { setTimeout as pause } from 'node:timers/promises';
import { bringAbout, findings, findPlace, type Ipv6, takenBefore } from '../intercept/intercept.ts';
import type { CaptureOptions } from '../intercept/options.ts';
import type { Backend, Finding } from '../intercept/store.ts';
import { InterceptError } from '../intercept/tools.ts';
import { giveBackWhenQuiet } from './give-back.ts';
import { findingLine } from './iptables-findings.ts';

/** A line of the log names this many of what had changed. */
const MOST_NAMED = 3;

export interface Held {
  readonly options: CaptureOptions;
  /** Where the rules were set. */
  readonly backend: Backend;
  readonly ipv6: Ipv6;
  /** Between two looks; so there is one line for each at most. */
  readonly intervalMs: number;
  /** The trouble that was told already. */
  readonly told: string;
}

/** Resolves at SIGTERM or SIGINT, and leaves the rules as they are: the app may live on for a moment. */
export async function hold(held: Held): Promise<void> {
  const stop = new AbortController();
  // The first process of a container gets no signal that it has not asked for.
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => stop.abort());
  void giveBackWhenQuiet();
  let said = held.told;
  for (;;) {
    await pause(held.intervalMs, null, { signal: stop.signal }).catch(() => {});
    if (stop.signal.aborted) return;
    const trouble = setAgain(held);
    // What stays is told once.
    if (trouble !== said && trouble !== '') tell(trouble);
    said = trouble;
  }
}

/** @returns what could not be put right; empty: all is well */
function setAgain({ options, backend, ipv6 }: Held): string {
  try {
    const place = findPlace(backend, ipv6);
    const found = findings(options, place).filter(({ kind }) => kind !== 'before');
    const { changed, place: now } = bringAbout(options, place, ipv6);
    if (changed) tell(`the rules of capture had changed, and are set again: ${someOf(found)}`);
    return someOf(takenBefore(options, now));
  } catch (error) {
    if (error instanceof InterceptError) return `the rules of capture cannot be held: ${error.message}`;
    throw error;
  }
}

/** In one line, which names a few. */
export function someOf(found: readonly Finding[]): string {
  const named = found.slice(0, MOST_NAMED).map(findingLine);
  if (found.length > named.length) named.push(`${found.length - named.length} more`);
  return named.join('; ');
}

function tell(text: string): void {
  process.stderr.write(`oarlock: ${text}\n`);
}
