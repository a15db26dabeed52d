/** Works out from a CA's answer how far this machine's clock is ahead of the CA's. */

/** A certificate's times, milliseconds since the epoch. */
export interface Validity {
  readonly notBefore: number;
  readonly notAfter: number;
}

/** What of an answer tells the time at which it was given. */
export interface DatedAnswer {
  /** Header `date` (RFC 9110 §6.6.1): our CA and most proxies send it, istiod does not. */
  readonly date: string | null;
  /** The certificate that was issued just now, and the one after it in the chain; null where there is none. */
  readonly leaf: Validity | null;
  readonly issuer: Validity | null;
  /** The validity that was asked for, in milliseconds. */
  readonly askedMs: number;
}

/** Both an HTTP date and X.509's times are cut to whole seconds: on average half of one is lost. */
const LOST_MS = 500;
/** CAs date certificates back, so that clocks somewhat behind take them (Istio: 2 min); hardly any by more than this. */
const MOST_BACKDATING_MS = 600_000;
/** A date between RFC 9110's IMF-fixdate marks; its two obsolete forms are for senders of 1994. */
const IMF_FIXDATE = /^\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT$/;

/**
 * @param ourTime our clock in the middle of the exchange, milliseconds since the epoch.
 * @returns milliseconds our clock is ahead (negative: behind), good to half a round trip and half a second; where
 *   only "not before" tells, the least it can be behind; null where nothing tells.
 */
export function clockSkew({ date, leaf, issuer, askedMs }: DatedAnswer, ourTime: number): number | null {
  const sent = date === null ? null : httpDate(date);
  if (sent !== null) return Math.round(ourTime - sent - LOST_MS);
  if (leaf === null) return null;
  const issued = leaf.notAfter - askedMs;
  const granted =
    leaf.notAfter !== issuer?.notAfter &&
    issued >= leaf.notBefore &&
    issued <= leaf.notBefore + MOST_BACKDATING_MS;
  if (granted) return Math.round(ourTime - issued - LOST_MS);
  return ourTime < leaf.notBefore ? Math.round(ourTime - leaf.notBefore) : null;
}

/** Milliseconds since the epoch; null for what is no HTTP date. */
export function httpDate(text: string): number | null {
  const time = IMF_FIXDATE.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(time) ? null : time;
}
