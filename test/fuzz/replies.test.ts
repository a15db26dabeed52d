/** Answers by chance: what our parser and body reader make of each, and what undici does. */
import { type AddressInfo, createServer } from 'node:net';
import t, { type Test } from 'tap';
import { Client } from 'undici';
import { LOOPBACK } from '../corpus/play.ts';
import { type ReadAnswer, readAnswer, readBody } from './adapter.ts';
import { answers, chance, mutated, OVER } from './mutate.ts';

/** So many failures are told; more say no more. */
const MOST = 10;

interface Theirs {
  readonly status: number;
  readonly phrase: string;
  readonly fields: readonly (readonly [name: string, value: string])[];
  readonly body: Buffer;
  /** The body broke or was cut. */
  readonly cut: string | null;
}

/** Answers each connection with the bytes at hand and ends it. */
class App {
  bytes: Buffer = Buffer.alloc(0);
  readonly #server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.end(this.bytes));
  });

  async listen(t: Test): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, LOOPBACK, resolve));
    t.teardown(() => this.#server.close());
    return `http://${LOOPBACK}:${(this.#server.address() as AddressInfo).port}`;
  }
}

/** What undici makes of the answer to a request of that method: the answer, or why it is none. */
async function undiciSays(origin: string, method: 'GET' | 'HEAD'): Promise<Theirs | string> {
  const client = new Client(origin, { pipelining: 1, maxHeaderSize: 61_440 });
  try {
    const answer = await client.request({ path: '/', method, responseHeaders: 'raw' });
    const parts: Buffer[] = [];
    let cut: string | null = null;
    try {
      for await (const part of answer.body) parts.push(part as Buffer);
    } catch (error) {
      cut = (error as Error).message;
    }
    // Typed as a record, and with `raw` a list of name, value, name, value.
    const raw = answer.headers as unknown as readonly (Buffer | string)[];
    const text = (part: Buffer | string | undefined): string =>
      typeof part === 'string' ? part : (part?.toString('latin1') ?? '');
    const fields = Array.from(
      { length: raw.length / 2 },
      (_, i) => [text(raw[2 * i]), text(raw[2 * i + 1])] as const,
    );
    return {
      status: answer.statusCode,
      phrase: answer.statusText ?? '',
      fields,
      body: Buffer.concat(parts),
      cut,
    };
  } catch (error) {
    return (error as Error).message;
  } finally {
    await client.destroy();
  }
}

interface Ours {
  readonly head: ReadAnswer;
  readonly body: { data: Buffer; whole: boolean } | { refused: string };
}

/** What we make of it: interim answers are passed over, as undici does. */
function weSay(text: string, method: string): Ours | { readonly refused: string } {
  let bytes = Buffer.from(text, 'latin1');
  for (;;) {
    const head = readAnswer(bytes, method);
    if ('refused' in head) return head;
    bytes = bytes.subarray(head.end);
    if (head.status === 101) return { refused: '101' };
    if (head.status >= 200) return { head, body: readBody(head.framing, bytes) };
  }
}

/** What was asked, and all that was answered. */
interface Text {
  readonly method: string;
  readonly all: string;
}

/** Rules by which we take what undici refuses. */
const LOOSER: readonly (readonly [
  rule: string,
  holds: (ours: Ours, error: string, text: Text) => boolean,
])[] = [
  [
    'RFC 9112 §6.3: Content-Lengths that are the same may be taken as one',
    (_, error, { all }) => lengthsOf(all).length > 1 && /content-length/i.test(error),
  ],
  [
    'RFC 9112 §5.1: white space behind a value is no part of it; undici keeps it',
    (_, error, { all }) => /content-length:.*[ \t]\r\n/i.test(all) && /content-length/i.test(error),
  ],
  [
    'RFC 9112 §6.3: 204 and 304 end with their heads, whatever these say',
    ({ head }, error) => [204, 304].includes(head.status) && /body length/.test(error),
  ],
  [
    'RFC 9110 §6.5.1: a trailer is filtered out, not believed',
    (_, error) => /Content-Length can't be present with Transfer-Encoding/.test(error),
  ],
  ['RFC 9112 §7.1.1: extensions are dropped unread', (_, error) => /chunk extensions/.test(error)],
  [
    'RFC 9110 §15.2: an interim answer says nothing of the connection',
    (_, error, { all }) => /Data after `Connection: close`/.test(error) && /^HTTP\/1\.[01] 1/.test(all),
  ],
  [
    'undici takes no 100 that it did not ask for, and no interim answer to HEAD',
    (_, error, { method, all }) =>
      error === 'bad response' && (method === 'HEAD' ? / 1[0-9]{2}/ : / 100/).test(all),
  ],
];

const STATUS_LINE = /^1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?\r\n/;

/** Rules by which we refuse what undici takes. */
const STRICTER: readonly (readonly [rule: string, holds: (text: Text) => boolean])[] = [
  [
    'RFC 9112 §4: it begins with its version, three digits, a phrase of visible bytes',
    ({ all }) =>
      !all.startsWith('HTTP/') || all.split('HTTP/').some((part, i) => i > 0 && !STATUS_LINE.test(part)),
  ],
  [
    'RFC 9112 §6.1: chunked alone, not in 1.0',
    ({ all }) => {
      const codings = [...all.matchAll(/^transfer-encoding:[ \t]*(.*?)[ \t]*$/gim)].map(
        ([, value]) => value ?? '',
      );
      return (
        codings.length > 0 &&
        (all.includes('HTTP/1.0') || codings.length > 1 || codings.some((value) => !/^chunked$/i.test(value)))
      );
    },
  ],
  [
    'RFC 9110 §8.6: a length within 2^53',
    ({ all }) => lengthsOf(all).some((value) => !/^[0-9]{1,16}$/.test(value) || Number(value) >= 2 ** 53),
  ],
  ['RFC 9112 §2.1: no empty line before a status line', ({ all }) => /(?:^|\n)[\r\n]+HTTP/.test(all)],
  [
    'RFC 9112 §5.1: undici keeps white space behind a value, and misses the coding',
    ({ all }) => /transfer-encoding:.*[ \t]\r\n/i.test(all),
  ],
  ['100 fields', ({ all }) => all.split('\r\n').length > 100],
];

function lengthsOf(text: string): string[] {
  return [...text.matchAll(/^content-length:[ \t]*(.*?)[ \t]*$/gim)].map(([, value]) => value ?? '');
}

/** RFC 9110 §7.6.1. */
const GONE = new Set(['connection', 'keep-alive', 'proxy-connection', 'te', 'upgrade']);
const STAYS = new Set(['host', 'content-length', 'transfer-encoding', 'authorization']);

/** The fields that go on, as undici read them, without the white space it leaves behind values; framing is compared by the body. */
function expectedFields({ fields }: Theirs): string {
  const nominated = new Set(
    fields
      .filter(([name]) => name.toLowerCase() === 'connection')
      .flatMap(([, value]) => value.split(',').map((name) => name.trim().toLowerCase())),
  );
  return fields
    .filter(([name]) => !GONE.has(name.toLowerCase()) && !FRAMING.test(name))
    .filter(([name]) => STAYS.has(name.toLowerCase()) || !nominated.has(name.toLowerCase()))
    .map(([name, value]) => `${name}: ${value.replace(/[ \t]+$/, '')}`)
    .join('\n');
}

const FRAMING = /^(?:content-length|transfer-encoding)$/i;

/** What of an answer is not read alike; empty: nothing. */
function differences({ head, body }: Ours, theirs: Theirs): string[] {
  const fields = head.fields
    .filter(({ name }) => !FRAMING.test(name))
    .map(({ name, value }) => `${name}: ${value}`);
  const wrong: string[] = [];
  if (head.status !== theirs.status) wrong.push(`status ${head.status}, not ${theirs.status}`);
  if (/^[\t\x20-\x7e]*$/.test(head.phrase) && head.phrase !== theirs.phrase)
    wrong.push(`phrase ${head.phrase}, not ${theirs.phrase}`);
  if (fields.join('\n') !== expectedFields(theirs))
    wrong.push(`fields ${fields}, not ${expectedFields(theirs)}`);
  if (theirs.cut === null && 'data' in body && body.whole && !body.data.equals(theirs.body))
    wrong.push('the body differs');
  return wrong;
}

async function faults(app: App, origin: string, method: 'GET' | 'HEAD', all: string): Promise<string[]> {
  app.bytes = Buffer.from(all, 'latin1');
  const theirs = await undiciSays(origin, method);
  const ours = weSay(all, method);
  const text = { method, all };
  const stricter = (why: string): string[] =>
    STRICTER.some(([, holds]) => holds(text)) ? [] : [`refused (${why}), and no rule says why`];
  if ('refused' in ours) return typeof theirs === 'string' ? [] : stricter(ours.refused);
  const error = typeof theirs === 'string' ? theirs : theirs.cut;
  const whole = 'data' in ours.body && ours.body.whole;
  if (whole && error !== null) {
    return LOOSER.some(([, holds]) => holds(ours, error, text)) ? [] : [`taken, and undici says: ${error}`];
  }
  if (typeof theirs === 'string') return [];
  if (!whole && theirs.cut === null) return stricter('refused' in ours.body ? ours.body.refused : 'cut');
  return differences(ours, theirs);
}

t.setTimeout(OVER);

t.test('we read every answer as undici does, or refuse it by a rule', { timeout: OVER }, async (t) => {
  const { seed, next, until } = chance();
  const app = new App();
  const origin = await app.listen(t);
  let count = 0;
  let failed = 0;
  for (; count < answers.length || performance.now() < until; count++) {
    const text = answers[count] ?? mutated(answers, next);
    const method = next() < 0.2 ? 'HEAD' : 'GET';
    const found = await faults(app, origin, method, text);
    if (found.length > 0 && ++failed <= MOST)
      t.same(found, [], `OARLOCK_FUZZ_SEED=${seed}: ${method} ${JSON.stringify(text)}`);
  }
  t.comment(`${count} answers, OARLOCK_FUZZ_SEED=${seed}`);
  t.equal(failed, 0, `failures, OARLOCK_FUZZ_SEED=${seed}`);
  t.ok(count > 1_000, 'enough of them');
});
