/** What the commands that ask a running sidecar share: where its admin port is, and one question to it. */
import { get } from 'node:http';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseHostPort } from '../ca-client/address.ts';
import { UsageError } from '../config/usage-error.ts';
import { ports } from '../mesh/ports.ts';
import { isObject } from '../mesh/schema.ts';
import { hostPort } from '../mesh/text.ts';
import { isLoopback } from '../telemetry/servers.ts';

export interface AdminAddress {
  readonly host: string;
  readonly port: number;
}

/** Of an answer. The largest is of some thousand peers. */
const MAX_BYTES = 64 * 1024 * 1024;
const PATIENCE_MS = 10_000;

/** Adds `--admin-port` and `--admin`. */
export function addAdminOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--admin-port <port>', "the sidecar's --admin-port, on 127.0.0.1")
        .env('OARLOCK_ADMIN_PORT')
        .argParser(portNumber)
        .default(ports.admin),
    )
    .addOption(
      new Option('--admin <host:port>', 'the same with its address, of this machine').argParser(address),
    );
}

function portNumber(text: string): number {
  const port = Number(text);
  if (/^[0-9]{1,5}$/.test(text) && port >= 1 && port <= 65_535) return port;
  throw new InvalidArgumentError('must be a port number.');
}

function address(text: string): AdminAddress {
  const parsed = parseHostPort(text);
  if (parsed !== null && parsed.port > 0 && (parsed.host === 'localhost' || isLoopback(parsed.host)))
    return parsed;
  throw new InvalidArgumentError(
    'must be an address of this machine and a port: the admin API answers here only.',
  );
}

/** What `addAdminOptions` parsed. */
export function adminAddress(options: Readonly<Record<string, unknown>>): AdminAddress {
  return (
    (options.admin as AdminAddress | undefined) ?? { host: '127.0.0.1', port: options.adminPort as number }
  );
}

/**
 * The JSON that the sidecar answers.
 * @param path as `/certs`
 * @param list a member of the answer that a sidecar of this version has, as a list
 * @throws UsageError of one line where nobody answers, or something else than such a sidecar does
 */
export async function askAdmin(at: AdminAddress, path: string, list: string): Promise<unknown> {
  const place = hostPort(at.host, at.port);
  let answer: Answer;
  try {
    answer = await fetchText(at, path);
  } catch (error) {
    throw new UsageError(
      `no sidecar answers on ${place} (${(error as Error).message}): is it running, and is this its --admin-port?`,
    );
  }
  if (answer.status !== 200)
    throw new UsageError(`${place} answers ${path} with ${answer.status}: is it a sidecar's admin port?`);
  const value = parsed(answer.text);
  if (isObject(value) && Array.isArray(value[list])) return value;
  throw new UsageError(
    `${place} answers ${path}, but not as a sidecar of this version does: is it a sidecar's admin port?`,
  );
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return null;
  }
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

function fetchText({ host, port }: AdminAddress, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = get(
      // The admin API tells a page in a browser from us by the name it was asked for.
      {
        host,
        port,
        path,
        agent: false,
        headers: { host: 'localhost' },
        signal: AbortSignal.timeout(PATIENCE_MS),
      },
      (response) => {
        const pieces: Buffer[] = [];
        let bytes = 0;
        response.on('data', (piece: Buffer) => {
          bytes += piece.length;
          if (bytes > MAX_BYTES) request.destroy(new Error(`more than ${MAX_BYTES} bytes`));
          else pieces.push(piece);
        });
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(pieces).toString() }),
        );
        response.on('error', reject);
      },
    );
    request.on('error', (error: NodeJS.ErrnoException) => {
      reject(
        error.name === 'AbortError' || error.name === 'TimeoutError' ? new Error('no answer in 10 s') : error,
      );
    });
  });
}
