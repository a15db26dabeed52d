/** Heads of requests by chance: what our parser says of each, and what node:http's strict one says. */
import { createServer, type IncomingMessage, METHODS } from 'node:http';
import { isIPv6 } from 'node:net';
import { Duplex } from 'node:stream';
import t from 'tap';
import { WireReader } from '../corpus/wire.ts';
import { type ReadRequest, readRequest } from './adapter.ts';
import { chance, mutated, OVER, requests } from './mutate.ts';

interface Theirs {
  readonly method: string;
  readonly url: string;
  readonly version: string;
  /** Name, value, name, value. */
  readonly raw: readonly string[];
}

/** So many failures are told; more say no more. */
const MOST = 10;

/** A connection in memory. */
class Wire extends Duplex {
  override _read(): void {}
  override _write(_chunk: Buffer, _encoding: string, done: () => void): void {
    done();
  }
}

const server = createServer({ insecureHTTPParser: false, requireHostHeader: false, maxHeaderSize: 65_536 });
server.maxHeadersCount = 0;
let told: ((theirs: Theirs | string) => void) | null = null;
const accepted = ({ method = '', url = '', httpVersion, rawHeaders }: IncomingMessage): void =>
  told?.({ method, url, version: httpVersion, raw: rawHeaders });
for (const event of ['request', 'checkContinue', 'checkExpectation', 'upgrade', 'connect'] as const) {
  server.on(event, accepted);
}
server.on('clientError', (error: NodeJS.ErrnoException) => told?.(`${error.code}: ${error.message}`));

/** What node:http makes of the first head: the request, or why it is none. */
async function nodeSays(bytes: Buffer): Promise<Theirs | string> {
  const wire = new Wire();
  wire.on('error', () => {});
  try {
    return await new Promise<Theirs | string>((resolve) => {
      told = resolve;
      server.emit('connection', wire);
      wire.on('close', () => resolve('closed'));
      wire.push(bytes);
      wire.push(null);
    });
  } finally {
    told = null;
    wire.destroy();
  }
}

/** Rules by which we take what node refuses. */
const LOOSER: readonly (readonly [rule: string, holds: (ours: ReadRequest, error: string) => boolean])[] = [
  [
    'RFC 9110 §9.1: any token is a method; node knows a list of them',
    ({ method }) => !METHODS.includes(method),
  ],
  [
    'RFC 9112 §6.3: Content-Lengths that are the same may be taken as one',
    ({ framing, fields }, error) =>
      error.includes('Duplicate Content-Length') &&
      framing.kind !== 'chunked' &&
      fields.filter(({ key }) => key === 'content-length').length === 1,
  ],
];

/** RFC 3986 §3.2.2 without user info; a port is a number of 16 bits, and a zone means nothing to others (RFC 6874 §1). */
function isAuthority(text: string): boolean {
  const match =
    /^(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+(?::([0-9]{1,5}))?$|^\[(.*)\](?::([0-9]{1,5}))?$/.exec(
      text,
    );
  if (match === null || Number(match[1] ?? match[3] ?? 0) > 65_535) return false;
  return match[2] === undefined || (isIPv6(match[2]) && !match[2].includes('%'));
}

/** Scheme and authority of an absolute form; null for another. */
function absolute(url: string): { authority: string; rest: string } | null {
  const match = /^http:\/\/([^/?]*)(.*)$/i.exec(url);
  return match === null ? null : { authority: match[1] ?? '', rest: match[2] ?? '' };
}

/** Rules by which we refuse what node takes. */
const STRICTER: readonly (readonly [rule: string, holds: (theirs: Theirs, head: string) => boolean])[] = [
  ['RFC 9112 §2.2: one empty line before it, no more', (_, head) => /^[\r\n]/.test(head)],
  ['RFC 9112 §3: one space between its words', (_, head) => !/^[^ \r\n]+ [^ \r\n]+ [^ \r\n]+\r\n/.test(head)],
  ['CONNECT is refused', ({ method }) => method === 'CONNECT'],
  ['an asterisk has no path', ({ url }) => url === '*'],
  [
    'RFC 9112 §2.3: versions 1.0 and 1.1',
    ({ version }, head) => !/^1\.[01]$/.test(version) || !/^\S+ \S+ HTTP\//.test(head),
  ],
  ['RFC 9112 §3.2: one Host', (theirs) => values(theirs, 'host').length !== 1],
  ['RFC 9110 §7.2: Host is an authority', (theirs) => !isAuthority(values(theirs, 'host')[0] ?? '')],
  [
    'RFC 9112 §3.2: a path, or an absolute form of http',
    ({ url }) => !url.startsWith('/') && !isAuthority(absolute(url)?.authority ?? ''),
  ],
  ['RFC 9112 §3.2: no fragment, nothing beyond ASCII', ({ url }) => /[#\x7f-\xff]/.test(url)],
  [
    'RFC 9112 §6.1: chunked alone, not in 1.0',
    (theirs) => {
      const codings = values(theirs, 'transfer-encoding');
      return codings.length > 0 && (theirs.version === '1.0' || !/^chunked$/i.test(codings.join()));
    },
  ],
  [
    'RFC 9110 §8.6: a length within 2^53',
    (theirs) =>
      values(theirs, 'content-length').some(
        (text) => !(/^[0-9]{1,16}$/.test(text) && Number(text) < 2 ** 53),
      ),
  ],
  ['one Expect', (theirs) => values(theirs, 'expect').length > 1],
  ['100 fields', ({ raw }) => raw.length > 200],
];

function values(theirs: Theirs, name: string): string[] {
  return fieldsOf(theirs)
    .filter(([key]) => key.toLowerCase() === name)
    .map(([, value]) => value);
}

function fieldsOf({ raw }: Theirs): [name: string, value: string][] {
  return Array.from({ length: raw.length / 2 }, (_, i) => [raw[2 * i] ?? '', raw[2 * i + 1] ?? '']);
}

/** RFC 9110 §7.6.1, and what is ours. */
const GONE = new Set(['connection', 'keep-alive', 'proxy-connection', 'te', 'upgrade']);
const STAYS = new Set(['host', 'content-length', 'transfer-encoding', 'authorization']);
const FORWARDED_CERT = /^x[-_]forwarded[-_]client[-_]cert$/i;

/** The fields that go on, as node read them. */
function expectedFields(theirs: Theirs): string[] {
  const nominated = new Set(
    values(theirs, 'connection').flatMap((value) =>
      value.split(',').map((name) => name.trim().toLowerCase()),
    ),
  );
  const lines: string[] = [];
  for (const [name, value] of fieldsOf(theirs)) {
    const key = name.toLowerCase();
    if (GONE.has(key) || FORWARDED_CERT.test(key) || (nominated.has(key) && !STAYS.has(key))) continue;
    lines.push(`${name}: ${canonical(key, value, theirs)}`);
  }
  return lines;
}

function canonical(key: string, value: string, { url }: Theirs): string {
  if (key === 'content-length') return String(Number(value));
  if (key === 'transfer-encoding') return value.toLowerCase();
  return key === 'host' ? (absolute(url)?.authority ?? value) : value;
}

function expectedFraming(theirs: Theirs): string {
  if (values(theirs, 'transfer-encoding').length > 0) return 'chunked';
  const length = Number(values(theirs, 'content-length')[0] ?? 0);
  return length === 0 ? 'none' : `length ${length}`;
}

/** Ours, but what policy sees of a WebSocket handshake's Connection and Upgrade: they go on in a form of their own. */
function linesOf({ fields, upgrade }: ReadRequest): string[] {
  return fields
    .filter(({ key }) => !(upgrade && (key === 'upgrade' || key === 'connection')))
    .map(({ name, value }) => `${name}: ${value}`);
}

/** What of a head is not read alike; empty: nothing. */
function differences(ours: ReadRequest, theirs: Theirs): string[] {
  const rest = absolute(theirs.url)?.rest ?? theirs.url;
  const path = rest.startsWith('/') ? rest : `/${rest}`;
  const { framing } = ours;
  const rows: [what: string, ours: string, theirs: string][] = [
    ['method', ours.method, theirs.method],
    ['path', ours.path, path],
    ['version', `1.${ours.minor}`, theirs.version],
    [
      'framing',
      framing.kind === 'length' ? `length ${framing.length}` : framing.kind,
      expectedFraming(theirs),
    ],
    ['fields', linesOf(ours).join('\n'), expectedFields(theirs).join('\n')],
  ];
  return rows.filter(([, a, b]) => a !== b).map((row) => row.join(' | '));
}

/** What of the head that goes on is not what was read, or cannot be read without doubt. */
function writtenFaults(ours: ReadRequest): string[] {
  const reader = new WireReader('request');
  reader.feed(ours.written);
  const [message] = reader.messages;
  if (reader.fault !== null || message === undefined) return [`what goes on: ${reader.fault}`];
  const lines = message.fields.map(([name, value]) => `${name}: ${value}`);
  const wanted = linesOf(ours);
  if (ours.upgrade) wanted.push('connection: Upgrade', 'upgrade: websocket');
  const line = `${ours.method} ${ours.path} HTTP/1.1`;
  return [
    ...(message.start === line ? [] : [`goes on as ${message.start}, not ${line}`]),
    ...(lines.join('\n') === wanted.join('\n') ? [] : [`goes on with ${lines.join(' | ')}`]),
  ];
}

/** Everything that is wrong with how a message was read. */
async function faults(text: string): Promise<string[]> {
  const theirs = await nodeSays(Buffer.from(text, 'latin1'));
  // RFC 9112 §2.2: the one empty line before it is passed over by who calls the parser.
  const head = text.startsWith('\r\n') ? text.slice(2) : text;
  const ours = readRequest(Buffer.from(head, 'latin1'));
  if ('refused' in ours) {
    const explained = typeof theirs === 'string' || STRICTER.some(([, holds]) => holds(theirs, head));
    return explained ? [] : [`refused (${ours.refused}), and no rule says why`];
  }
  if (typeof theirs === 'string') {
    return LOOSER.some(([, holds]) => holds(ours, theirs)) ? [] : [`taken, and node says ${theirs}`];
  }
  return [...differences(ours, theirs), ...writtenFaults(ours)];
}

t.setTimeout(OVER);

t.test(
  'we read every head of a request as node:http does, or refuse it by a rule',
  { timeout: OVER },
  async (t) => {
    const { seed, next, until } = chance();
    let count = 0;
    let failed = 0;
    for (; count < requests.length || performance.now() < until; count++) {
      const text = requests[count] ?? mutated(requests, next);
      const found = await faults(text);
      if (found.length > 0 && ++failed <= MOST)
        t.same(found, [], `OARLOCK_FUZZ_SEED=${seed}: ${JSON.stringify(text)}`);
    }
    t.comment(`${count} heads, OARLOCK_FUZZ_SEED=${seed}`);
    t.equal(failed, 0, `failures, OARLOCK_FUZZ_SEED=${seed}`);
    t.ok(count > 1_000, 'enough of them');
  },
);
