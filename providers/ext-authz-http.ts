/** External authorization over HTTP/1.1 (`envoyExtAuthzHttp`): the request's head as a request, 200 lets it pass. */
import type { Duplex } from 'node:stream';
import { Pool } from 'undici';
import type { CheckAnswer, ExtAuthzProvider } from '../mesh/ext-authz.ts';
import { allowed, denied } from './check-changes.ts';
import { checkedFields, matcherOf, type NameMatcher } from './check-fields.ts';
import { cleanLatin1, toLatin1 } from './check-text.ts';
import { type Asker, MAX_ANSWER_BYTES, type Question } from './ext-authz-asker.ts';

/** Connections to one service. One carries one check at a time; at a millisecond each that is 64,000 a second. */
const MAX_CONNECTIONS = 64;
/** Retired before a server with the usual 5 s of keep-alive closes it under a check. */
const IDLE_MS = 4_000;
/** As the data path's `maxHeadBytes`. */
const MAX_HEAD_BYTES = 61_440;
/** Envoy's matcher of what is always told besides what is listed. */
const ALWAYS_TOLD = ['authorization', 'x-envoy-auth-partial-body'];
/** Fields that always come with a denial where a list says which do (Envoy's `toClientMatchers`). */
const WITH_EACH_DENIAL = ['www-authenticate', 'location'];
const REMOVE = 'x-envoy-auth-headers-to-remove';

/** A provider's lists, made ready once. */
interface Lists {
  readonly told: NameMatcher;
  readonly additional: ReadonlyMap<string, string>;
  readonly upstream: NameMatcher;
  readonly onAllow: NameMatcher;
  readonly onDeny: NameMatcher;
}

type FieldList = readonly (readonly [name: string, value: string])[];

/** @param open a new connection to the service */
export function httpAsker(open: () => Promise<Duplex>): Asker {
  const pool = new Pool('http://provider', {
    connections: MAX_CONNECTIONS,
    pipelining: 1,
    keepAliveTimeout: IDLE_MS,
    keepAliveMaxTimeout: IDLE_MS,
    maxHeaderSize: MAX_HEAD_BYTES,
    // The check's own time bounds both.
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: (_options, done) => {
      // undici asks for a stream's methods only; its types know none but sockets
      open().then(
        (stream) => done(null, stream as Parameters<typeof done>[1] & object),
        (error: Error) => done(error, null),
      );
    },
  });
  const known = new WeakMap<ExtAuthzProvider, Lists>();

  function listsFor(provider: ExtAuthzProvider): Lists {
    const lists = known.get(provider) ?? listsOf(provider);
    known.set(provider, lists);
    return lists;
  }

  return {
    async ask(question, signal) {
      const { provider, check } = question;
      const { request } = check;
      if (request === null) throw new Error('a TCP connection cannot be checked over HTTP');
      const lists = listsFor(provider);
      const response = await pool.request({
        method: request.method as 'GET',
        path: `${provider.pathPrefix}${request.path}`,
        headers: headersOf(question, lists),
        body: request.body !== null && request.body.length > 0 ? request.body : null,
        responseHeaders: 'raw',
        signal,
      });
      // Envoy, too, waits for the whole answer before it heeds any of it.
      const body = await readBody(response.body);
      return answerOf(response.statusCode, pairs(response.headers as unknown as string[]), body, lists);
    },
    close: () => void pool.destroy(),
  };
}

function listsOf(provider: ExtAuthzProvider): Lists {
  const { headersToDownstreamOnDeny } = provider;
  return {
    told: matcherOf([...ALWAYS_TOLD, ...provider.includeRequestHeadersInCheck]),
    additional: new Map(
      [...provider.includeAdditionalHeadersInCheck]
        // Envoy drops what has no value.
        .filter(([, value]) => value !== '')
        .map(([name, value]) => [name.toLowerCase(), toLatin1(value)]),
    ),
    upstream: matcherOf(provider.headersToUpstreamOnAllow),
    onAllow: matcherOf(provider.headersToDownstreamOnAllow),
    onDeny:
      headersToDownstreamOnDeny.length === 0
        ? () => true
        : matcherOf([...WITH_EACH_DENIAL, ...headersToDownstreamOnDeny]),
  };
}

/** Names and values in turn. */
function headersOf({ provider, check }: Question, { told, additional }: Lists): string[] {
  const { request } = check;
  if (request === null) return [];
  const headers = new Map<string, string>();
  for (const [name, value] of checkedFields(request)) {
    // Its body's length is the check's own.
    if (name.startsWith(':') || name === 'content-length' || !told(name)) continue;
    headers.set(name, cleanLatin1(value));
  }
  for (const [name, value] of additional) headers.set(name, value);
  headers.set('x-envoy-internal', 'true');
  headers.set('x-envoy-expected-rq-timeout-ms', String(provider.timeout));
  return ['host', cleanLatin1(request.host), ...[...headers].flat()];
}

async function readBody(body: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of body) {
    length += chunk.length;
    if (length > MAX_ANSWER_BYTES) throw new Error(`its answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

function pairs(raw: readonly string[]): FieldList {
  const fields: [string, string][] = [];
  for (let i = 0; i < raw.length; i += 2) fields.push([raw[i]?.toLowerCase() ?? '', raw[i + 1] ?? '']);
  return fields;
}

/** "200 OK" lets it pass, a 5xx is no answer, anything else is the downstream's answer. */
function answerOf(status: number, fields: FieldList, body: Buffer, lists: Lists): CheckAnswer {
  if (status >= 500 && status <= 599) throw new Error(`it answered ${status}`);
  const others = fields.filter(([name]) => name !== REMOVE);
  if (status !== 200) {
    const given = others.filter(([name]) => lists.onDeny(name)).map(([name, value]) => ({ name, value }));
    return denied(status, given, body);
  }
  // Each is set in turn: of several of one name the last one stays.
  const set = new Map(others.filter(([name]) => lists.upstream(name)));
  const remove = fields
    .filter(([name]) => name === REMOVE)
    .flatMap(([, value]) => value.split(','))
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== '');
  for (const name of remove) set.delete(name);
  const onAllow = others.filter(([name]) => lists.onAllow(name));
  return allowed({
    remove,
    set: [...set].map(([name, value]) => ({ name, value, append: false })),
    path: null,
    answerFields: onAllow.map(([name, value]) => ({ name, value, append: true, only: null })),
  });
}
