/** External authorization over HTTP/1.1 (`envoyExtAuthzHttp`): the request's head as a request, 200 lets it pass. */
import type { Duplex } from 'node:stream';
import type { Client, Dispatcher } from 'undici';
import type { CheckAnswer, ExtAuthzProvider } from '../mesh/ext-authz.ts';
import { allowed, denied } from './check-changes.ts';
import { checkedFields, matcherOf, type NameMatcher } from './check-fields.ts';
import { cleanLatin1, toLatin1 } from './check-text.ts';
import { type Asker, MAX_ANSWER_BYTES, NotAsked, orAbort, type Question } from './ext-authz-asker.ts';
import { connectionsBy, Gone } from './ext-authz-connections.ts';

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
  const connections = connectionsBy(open);
  const known = new WeakMap<ExtAuthzProvider, Lists>();

  function listsFor(provider: ExtAuthzProvider): Lists {
    const lists = known.get(provider) ?? listsOf(provider);
    known.set(provider, lists);
    return lists;
  }

  async function put(options: Dispatcher.DispatchOptions, signal: AbortSignal): Promise<Answer> {
    for (;;) {
      const { client, used } = await connections.take(signal);
      try {
        const answer = await orAbort(exchange(client, options), signal);
        connections.giveBack(client);
        return answer;
      } catch (error) {
        connections.drop(client);
        if (!used || !(error instanceof Gone)) throw error;
      }
    }
  }

  return {
    async ask(question, signal) {
      const { provider, check } = question;
      const { request } = check;
      if (request === null) throw new NotAsked('a TCP connection cannot be checked over HTTP');
      if (request.method === 'CONNECT') throw new NotAsked('a CONNECT cannot be checked over HTTP');
      const lists = listsFor(provider);
      const options: Dispatcher.DispatchOptions = {
        method: request.method as 'GET',
        path: `${provider.pathPrefix}${request.path}`,
        headers: headersOf(question, lists),
        body: request.body !== null && request.body.length > 0 ? request.body : null,
      };
      const { status, fields, body } = await put(options, signal);
      return answerOf(status, fields, body, lists);
    },
    close: () => connections.close(),
  };
}

interface Answer {
  readonly status: number;
  readonly fields: FieldList;
  readonly body: Buffer;
}

/**
 * One question and its whole answer: Envoy, too, waits for all of it before it heeds any.
 * @throws NotAsked where the question cannot be written, Gone where its connection had ended
 */
function exchange(client: Client, options: Dispatcher.DispatchOptions): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let written = false;
    let status = 0;
    let fields: FieldList = [];
    const chunks: Buffer[] = [];
    let length = 0;
    client.dispatch(options, {
      onRequestStart: () => {
        written = true;
      },
      onResponseStart: (controller, code) => {
        status = code;
        fields = pairs(controller.rawHeaders as readonly Buffer[]);
      },
      onResponseData: (controller, chunk) => {
        length += chunk.length;
        chunks.push(chunk);
        if (length > MAX_ANSWER_BYTES)
          controller.abort(new Error(`its answer is longer than ${MAX_ANSWER_BYTES} bytes`));
      },
      onResponseEnd: () => resolve({ status, fields, body: Buffer.concat(chunks, length) }),
      onResponseError: (_controller, error) =>
        reject(written || error instanceof Gone ? error : new NotAsked(error.message)),
    });
  });
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

/** @param raw names and values in turn */
function pairs(raw: readonly Buffer[]): FieldList {
  const text = raw.map((bytes) => bytes.toString('latin1'));
  const fields: [string, string][] = [];
  for (let i = 0; i < text.length; i += 2) fields.push([text[i]?.toLowerCase() ?? '', text[i + 1] ?? '']);
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
