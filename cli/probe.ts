/** `oarlock probe`: asks one URL, for health checks in an image that has neither shell nor curl. */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { Command, InvalidArgumentError, Option } from 'commander';
import { duration } from '../config/options.ts';
import { UsageError } from '../config/usage-error.ts';
import type { HttpAnswer } from '../probes/http.ts';
import { addOutputOption, printJson } from './query.ts';

/** The `probe` command: exit status 0 when well, 1 when not, 2 for bad usage. */
export function probeCommand(): Command {
  const command = new Command('probe')
    .description('Asks one URL: http, https, tcp://HOST:PORT or grpc://HOST:PORT[/SERVICE].')
    .argument('<url>')
    .addOption(
      new Option('--timeout <duration>', 'give up after this time').argParser(duration).default(5_000, '5s'),
    )
    .addOption(new Option('--method <method>', 'of the request (default: GET)').argParser(method))
    .addOption(new Option('--header <name: value>', 'to be sent (repeatable)').argParser(header))
    .addOption(
      new Option(
        '--expect <status>',
        'the only good ones: 204, 3xx (repeatable, commas; redirects are not followed)',
      ).argParser(statuses),
    )
    .option('--insecure', 'take any certificate')
    .option('--cacert <file>', "roots in PEM (default: the system's and Node's own)")
    .option('--resolve <host:port:address>', "where the URL's host is");
  addOutputOption(command);
  return command.action((url: string, options: Flags) => run(url, options));
}

interface Flags {
  readonly timeout: number;
  readonly method?: string;
  /** Names and values in turn. */
  readonly header?: readonly string[];
  readonly expect?: readonly string[];
  readonly insecure?: boolean;
  readonly cacert?: string;
  readonly resolve?: string;
  readonly output?: 'json';
}

/** What came of it. */
interface Outcome {
  readonly ok: boolean;
  /** Null: it was not HTTP, or no answer came. */
  readonly answer: HttpAnswer | null;
  /** For people; null: well. */
  readonly error: string | null;
}

async function run(text: string, flags: Flags): Promise<void> {
  const ask = question(text, flags);
  const { within } = await import('../probes/within.ts');
  const began = performance.now();
  let outcome: Outcome;
  try {
    outcome = await within(flags.timeout, new AbortController().signal, ask);
  } catch (error) {
    outcome = { ok: false, answer: null, error: (error as Error).message };
  }
  const { ok, answer, error } = outcome;
  if (flags.output === 'json') {
    printJson({
      url: text,
      ok,
      status: answer?.status ?? null,
      body: answer?.body.toString() ?? null,
      truncated: answer?.truncated ?? false,
      redirect: answer?.elsewhere ?? null,
      error,
      durationMs: Math.round(performance.now() - began),
    });
  } else {
    if (answer !== null) process.stdout.write(answer.body);
    if (answer?.elsewhere) process.stderr.write(`redirected to ${answer.elsewhere}, which was not asked\n`);
    if (error !== null) process.stderr.write(`oarlock: ${text}: ${error}\n`);
  }
  if (!ok) process.exitCode = 1;
}

type Ask = (signal: AbortSignal) => Promise<Outcome>;

/** @throws UsageError that says what to give */
function question(text: string, flags: Flags): Ask {
  const url = URL.parse(text);
  if (url === null || url.hostname === '')
    throw new UsageError(`${text} is no URL such as http://127.0.0.1:8080/`);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  if (url.protocol === 'http:' || url.protocol === 'https:') return overHttp(url, host, flags);
  const kind = url.protocol.slice(0, -1);
  if (kind !== 'tcp' && kind !== 'grpc')
    throw new UsageError(`${kind}: only http, https, tcp and grpc can be asked`);
  for (const name of ['method', 'header', 'expect', 'insecure', 'cacert'] as const) {
    if (flags[name] !== undefined) throw new UsageError(`--${name} is for http and https`);
  }
  if (url.port === '') throw new UsageError(`${text} needs a port: ${kind}://HOST:PORT`);
  const port = Number(url.port);
  const target = { host, port, address: resolved(host, port, flags), from: null };
  const service = serviceOf(url);
  if (kind === 'tcp' && service !== '') throw new UsageError(`${text}: TCP has no path`);
  return async (signal) => {
    if (kind === 'tcp') await (await import('../probes/tcp.ts')).askTcp(target, signal);
    else {
      const { askGrpc } = await import('../probes/grpc.ts');
      await askGrpc({ ...target, service, userAgent: 'oarlock', timeoutMs: flags.timeout }, signal);
    }
    return { ok: true, answer: null, error: null };
  };
}

function serviceOf({ pathname }: URL): string {
  try {
    return decodeURIComponent(pathname.slice(1));
  } catch {
    throw new UsageError(`${pathname} is not well encoded: % needs two digits after it`);
  }
}

function overHttp(url: URL, host: string, flags: Flags): Ask {
  if (url.username !== '' || url.password !== '') {
    throw new UsageError("no user in the URL: give --header 'Authorization: …'");
  }
  if (flags.insecure === true && flags.cacert !== undefined)
    throw new UsageError('--insecure or --cacert, not both');
  const tls = url.protocol === 'https:';
  const port = url.port === '' ? (tls ? 443 : 80) : Number(url.port);
  const { method = 'GET', header: pairs = [], expect = null } = flags;
  const { authority, headers } = sorted(pairs);
  const ask = {
    host,
    port,
    address: resolved(host, port, flags),
    from: null,
    tls,
    path: url.pathname + url.search,
    method,
    authority,
    headers,
    verify: flags.insecure !== true,
    ca: flags.cacert === undefined ? null : readRoots(flags.cacert),
    follow: expect === null && (method === 'GET' || method === 'HEAD'),
  };
  return async (signal) => {
    const { askHttp } = await import('../probes/http.ts');
    const answer = await askHttp(ask, signal);
    const { status } = answer;
    const ok = expect === null ? status < 400 : expect.some((wish) => matches(wish, status));
    return {
      ok,
      answer,
      error: ok ? null : `answered ${status}${expect === null ? '' : `, not ${expect.join(' or ')}`}`,
    };
  };
}

/** `Host` aside, the last where there are several; the rest with a name for ourselves unless one is given. */
function sorted(pairs: readonly string[]): { authority: string | null; headers: readonly string[] } {
  let authority: string | null = null;
  let agent: readonly string[] = ['User-Agent', 'oarlock'];
  const headers: string[] = [];
  for (let at = 0; at + 1 < pairs.length; at += 2) {
    const [name, value] = [pairs[at] as string, pairs[at + 1] as string];
    if (name.toLowerCase() === 'host') authority = value;
    else headers.push(name, value);
    if (name.toLowerCase() === 'user-agent') agent = [];
  }
  return { authority, headers: [...agent, ...headers] };
}

function matches(wish: string, status: number): boolean {
  return wish.endsWith('xx') ? wish[0] === String(status)[0] : Number(wish) === status;
}

function resolved(host: string, port: number, { resolve }: Flags): string | null {
  if (resolve === undefined) return null;
  const [, name, number, address = ''] = /^([^:[\]]+|\[[^\]]+\]):(\d+):(.+)$/.exec(resolve) ?? [];
  const plain = address.replace(/^\[|\]$/g, '');
  if (isIP(plain) === 0)
    throw new UsageError('--resolve must be HOST:PORT:ADDRESS, the address an IP address');
  if (name?.replace(/^\[|\]$/g, '').toLowerCase() !== host.toLowerCase() || Number(number) !== port) {
    throw new UsageError(`--resolve is for ${name}:${number}, and the URL asks ${host}:${port}`);
  }
  return plain;
}

function readRoots(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`--cacert ${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
  if (!text.includes('-----BEGIN CERTIFICATE-----'))
    throw new UsageError(`--cacert ${file} has no certificate in PEM`);
  return text;
}

/** RFC 9110 §5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

function method(value: string): string {
  if (TOKEN.test(value) && value.length <= 32 && value.toUpperCase() !== 'CONNECT') return value;
  throw new InvalidArgumentError('must be a method such as GET or POST.');
}

function header(value: string, before: readonly string[] | undefined): readonly string[] {
  const at = value.indexOf(':');
  const name = value.slice(0, at);
  const text = value.slice(at + 1).trim();
  if (at < 1 || !TOKEN.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(text)) {
    throw new InvalidArgumentError("must be 'Name: value'.");
  }
  if (/^(?:connection|content-length|transfer-encoding|te|upgrade|keep-alive|expect|trailer)$/i.test(name)) {
    throw new InvalidArgumentError('is about the connection, which is not yours to say.');
  }
  return [...(before ?? []), name, text];
}

function statuses(value: string, before: readonly string[] | undefined): readonly string[] {
  const wishes = value.split(',').map((wish) => wish.trim());
  if (!wishes.every((wish) => /^[2-5](?:[0-9]{2}|xx)$/.test(wish))) {
    throw new InvalidArgumentError('must be statuses such as 204 or 3xx.');
  }
  return [...(before ?? []), ...wishes];
}
