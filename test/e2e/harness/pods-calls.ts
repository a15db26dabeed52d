/** What the callers in pods do: curl, with a secret in all it says, and what became of it. */
import { randomBytes } from 'node:crypto';
import { APP_UID, type Pod } from './pods.ts';
import type { Told } from './pods-apps.ts';

/** How a call of curl's ended. */
export interface Called {
  /** Of curl: 0 where there was a whole answer. */
  readonly exit: number | null;
  /** Of HTTP; 0 without an answer. */
  readonly status: number;
  readonly body: string;
  /** curl's own words where it failed. */
  readonly error: string;
  readonly secret: string;
}

export interface HowToCall {
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent by POST, the secret before it. */
  readonly body?: string;
  readonly flags?: readonly string[];
  readonly uid?: number;
  /** Seconds. */
  readonly patience?: number;
}

/** A word that nobody else says: where it is found, it was readable. */
export function newSecret(): string {
  return `secret-${randomBytes(12).toString('hex')}`;
}

/** One request by curl, as a user who is not the sidecar's, with a secret in its path, a header, and its body. */
export async function curl(pod: Pod, url: string, how: HowToCall = {}): Promise<Called> {
  const { headers = {}, body, flags = [], uid = APP_UID, patience = 20 } = how;
  const secret = newSecret();
  const argv = [
    ...['curl', '--silent', '--show-error', '--globoff', '--max-time', String(patience), '--noproxy', '*'],
    ...['--write-out', '\n%{http_code}', '--header', `x-secret: ${secret}`],
    ...Object.entries(headers).flatMap(([name, value]) => ['--header', `${name}: ${value}`]),
    ...(body === undefined ? [] : ['--data-binary', `${secret} ${body}`]),
    ...flags,
    `${url}${url.includes('?') ? '&' : '?'}${secret}`,
  ];
  const { status, stdout, stderr } = await pod.run(argv, { uid });
  const end = stdout.lastIndexOf('\n');
  return {
    exit: status,
    status: Number(stdout.slice(end + 1)),
    body: stdout.slice(0, Math.max(end, 0)),
    error: stderr.trim(),
    secret,
  };
}

/** What Python's HTTP app was told. @throws where anybody else answered, or nobody */
export function toldOf({ exit, status, body, error }: Called): Told {
  if (exit !== 0 || status !== 200) throw new Error(`${status} ${error} ${body}`);
  return JSON.parse(body) as Told;
}

/** The identity that a sidecar told the app of, in X-Forwarded-Client-Cert; null: the peer had none. */
export function callerOf(told: Told): string | null {
  return /URI=([^;,]+)/.exec(told.headers['x-forwarded-client-cert'] ?? '')?.[1] ?? null;
}
