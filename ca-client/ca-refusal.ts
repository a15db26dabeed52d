/** Puts into words why a CA gave no certificate, and what to do about it. */
import type { Metadata, ServiceError } from '@grpc/grpc-js';
import { tokenAdvice } from './bearer-token.ts';
import { clockSkew } from './clock-skew.ts';
import type { Grpc } from './grpc.ts';
import { retryAfterMs } from './retry-after.ts';
import { CredentialsError } from './source.ts';

/** What was asked, and what is known of the answer beside its status. */
export interface Refusal {
  /** `HOST:PORT` of the CA. */
  readonly address: string;
  readonly caRootFile: string;
  readonly tokenFile: string;
  /** What that file held; never quoted. */
  readonly token: string;
  readonly clusterId: string | null;
  readonly deadlineMs: number;
  /** Metadata of headers and trailers, as far as there were any. */
  readonly answers: readonly Metadata[];
  /** Header `date`, null where there was none. */
  readonly date: string | null;
  /** Our clock in the middle of the exchange, and now: milliseconds since the epoch. */
  readonly ourTime: number;
  readonly now: number;
}

/** Clocks further apart than this are named in errors: they may be the cause. */
const TELLING_SKEW_MS = 30_000;
const LONGEST_WORDS = 500;

/** Names the CA, the status and what to do. The CA's own words are kept, shortened: they may be anyone's. */
export function explainRefusal(
  status: Grpc['status'],
  error: ServiceError,
  refusal: Refusal,
): CredentialsError {
  const { address, answers, date, ourTime, now } = refusal;
  // against its types, grpc-js tells neither code nor details of a message whose compression it does not know
  const { code = status.INTERNAL, details = 'its message cannot be read' }: Partial<ServiceError> = error;
  const words = plain(details).slice(0, LONGEST_WORDS);
  const advice = code === status.UNAVAILABLE ? connectionAdvice(words, refusal) : null;
  const hint = advice ?? hintOf(status, code, refusal);
  const skew = clockSkew({ date, leaf: null, issuer: null, askedMs: 0 }, ourTime);
  return new CredentialsError(
    `CA ${address}: ${status[code] ?? code}: ${words}${hint === null ? '' : `; ${hint}`}${wordsOnSkew(skew)}`,
    { retryAfterMs: retryAfterMs(answers, now) },
  );
}

/** For the end of an error: nothing where clocks are as good as the same. */
export function wordsOnSkew(skewMs: number | null): string {
  if (skewMs === null || Math.abs(skewMs) < TELLING_SKEW_MS) return '';
  const seconds = Math.round(Math.abs(skewMs) / 1000);
  return `; this machine's clock is ${seconds} s ${skewMs > 0 ? 'ahead of' : 'behind'} the CA's`;
}

/** One line, without what Node and grpc-js add that leads astray here. */
function plain(details: string): string {
  return details
    .replace(/\s+/g, ' ')
    .replace('; if the root CA is installed locally, try running Node.js with --use-system-ca', '')
    .replace(/\.? Resolution note: ?$/, '');
}

function hintOf(
  status: Grpc['status'],
  code: number,
  { token, tokenFile, clusterId, deadlineMs, now }: Refusal,
): string | null {
  const hints: Partial<Record<number, string>> = {
    [status.UNAUTHENTICATED]: tokenAdvice(token, { file: tokenFile, clusterId, now }),
    [status.PERMISSION_DENIED]: `check whose token ${tokenFile} holds, and that the CA issues for it`,
    [status.INVALID_ARGUMENT]:
      'it does not like the request: ask for a shorter validity (Istio grants MAX_WORKLOAD_CERT_TTL) ' +
      'or another type of key',
    [status.DEADLINE_EXCEEDED]: `it did not answer within ${deadlineMs / 1000} s; check the CA and the network`,
    [status.RESOURCE_EXHAUSTED]: 'it is busy, or its answer is too long; will try again',
    [status.INTERNAL]: "look into the CA's log",
    [status.UNKNOWN]: 'is that the port of a CA? Istio has it at 15012',
    [status.UNIMPLEMENTED]: 'is that the port of a CA? Istio has it at 15012',
  };
  return hints[code] ?? null;
}

/** By OpenSSL's and Node's words for what ended the handshake. */
function connectionAdvice(words: string, { caRootFile }: Refusal): string {
  if (/certificate has expired|certificate is not yet valid/.test(words)) {
    return "the CA's own certificate is not valid now: have it renewed, or set this machine's clock";
  }
  if (/altnames|Hostname\/IP/.test(words)) {
    return "the CA's certificate does not carry that name: ask it by a name that it carries";
  }
  if (/self-signed certificate|unable to (?:verify|get)|certificate signature failure/.test(words)) {
    return `${caRootFile} does not hold the root of the CA's certificate: take the root from the CA anew`;
  }
  return `check that the CA runs there and that ${caRootFile} holds the root of its certificate`;
}
