/** How a length of time is written on the command line and in Istio's resources: `24h`, `1h30m`, `500ms`. */

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const PART = /(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h)/gy;
/** Longer texts are nobody's duration. */
const MAX_LENGTH = 64;

/**
 * Reads a duration in Go's notation (`time.ParseDuration`), as Istio's flags and resources have it: one or
 * more numbers with a unit out of `h`, `m`, `s`, `ms`; fractions allowed; `0` needs no unit.
 * @returns whole milliseconds, rounded; null for anything else, signs included.
 */
export function parseDuration(text: string): number | null {
  const total = milliseconds(text);
  return total === null ? null : Math.round(total);
}

/** The same, where Istio asks for "ms precision": null too for a part of a millisecond. */
export function parseWholeMilliseconds(text: string): number | null {
  const total = milliseconds(text);
  // Fractions such as 1.001 s are not exact in binary.
  return total === null || Math.abs(total - Math.round(total)) > 1e-6 ? null : Math.round(total);
}

function milliseconds(text: string): number | null {
  if (text === '0') return 0;
  if (text === '' || text.length > MAX_LENGTH) return null;
  let total = 0;
  let end = 0;
  PART.lastIndex = 0;
  for (let part = PART.exec(text); part !== null; part = PART.exec(text)) {
    total += Number(part[1]) * (UNIT_MS[part[2] ?? ''] ?? Number.NaN);
    end = PART.lastIndex;
  }
  return end === text.length && Number.isSafeInteger(Math.round(total)) ? total : null;
}
