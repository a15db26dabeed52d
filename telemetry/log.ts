/** The daemon's logger: pino's JSON lines, with secrets struck out and the last lines kept at exit. */
import { type Logger, pino, stdTimeFunctions } from 'pino';
import { LineWriter } from './line-writer.ts';

export type { Logger };
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

const REDACTED = '[redacted]';
const SECRET_WORDS = 'key|token|secret|password|authorization|cookie';
/** `key`, `keyPem`, `privateKey`, `client_key`, `token`, `bearerTokens`, `secret` … and not `monkey`. */
const SECRET_NAME = new RegExp(`(^|[_-])(${SECRET_WORDS})(_?pem)?s?$`, 'i');
const SECRET_CAMEL_NAME = /[a-z](Key|Token|Secret|Password)(Pem)?s?$/;
/** Names that end like a secret's and are none. */
const HARMLESS_NAME = /^public_?keys?$/i;
const PRIVATE_KEY_PEM =
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?="))/g;
/** Deeper objects are not logged by anyone here; the bound is for cycles. */
const MAX_DEPTH = 6;

/**
 * Makes a logger whose lines have an ISO time and a level's name, and neither pid nor hostname. A field
 * named like a secret, at any depth, is replaced; so is a private key in PEM anywhere in a line.
 * @param destination stderr unless given
 */
export function createLogger(level: LogLevel, destination: LineWriter = new LineWriter('stderr')): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: {
        level: (label) => ({ level: label }),
        log: (fields) => redactFields(fields, 0),
      },
      // A child's own fields pass no formatter.
      redact: { paths: SECRET_WORDS.split('|'), censor: (value) => (value === null ? null : REDACTED) },
      hooks: {
        // The net under the names: an error's message, a command line, a file read by mistake.
        streamWrite: (line) =>
          line.includes('PRIVATE KEY') ? line.replace(PRIVATE_KEY_PEM, REDACTED) : line,
      },
    },
    destination,
  );
}

function isSecret(name: string): boolean {
  return (SECRET_NAME.test(name) || SECRET_CAMEL_NAME.test(name)) && !HARMLESS_NAME.test(name);
}

function redactFields(fields: Record<string, unknown>, depth: number): Record<string, unknown> {
  const clean: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    clean[name] = isSecret(name) && value !== null && value !== undefined ? REDACTED : redact(value, depth);
  }
  return clean;
}

function redact(value: unknown, depth: number): unknown {
  // Errors, dates and the like stay whole: pino has serializers for them.
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= MAX_DEPTH) return '[too deep]';
  if (Array.isArray(value)) return value.map((item) => redact(item, depth + 1));
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  return redactFields(value as Record<string, unknown>, depth + 1);
}
