/** Holds what another proxy made of a case against what is safe, not against how Oarlock would have done it. */
import type { Case, Expected, SeenAnswer, SeenRequest } from './case.ts';
import { mendable, type Place } from './mendable.ts';
import type { Outcome } from './play.ts';
import { type Message, statusOf, values } from './wire.ts';

/** What became of a case. */
export interface Verdict {
  /** What is unsafe or lost, a sentence each; empty: it held. */
  readonly misses: readonly string[];
  /** It held by refusing or leaving out what is valid. */
  readonly stricter: boolean;
}

/**
 * It holds when all that went on can be read without doubt, the app got no request and the downstream no answer that
 * was not meant, and nothing broken ended as if it were whole. A refusal always holds, with whatever status.
 */
export function judge(place: Place, outcome: Outcome): Verdict {
  const unreadable = [
    ...outcome.faults.filter((fault) => !fault.startsWith('waited for')),
    ...unsafe(outcome),
  ];
  if (unreadable.length > 0) return { misses: unreadable, stricter: false };
  const { row } = place;
  const verdicts = [row.expect, ...(row.or === undefined ? [] : [row.or])].map((expect) =>
    against(place, expect, outcome),
  );
  const best = verdicts.find(({ misses }) => misses.length === 0) ?? verdicts[0];
  if (best === undefined || best.misses.length === 0) return best ?? { misses: [], stricter: false };
  if (mendable(place) === null) return best;
  return { misses: hidden(place, outcome), stricter: false };
}

/** RFC 9110 §7.8, §9.3.6: what opens a tunnel that nobody here decided on. */
function unsafe({ requests }: Outcome): readonly string[] {
  return requests.flatMap(({ message }) => {
    const upgrade = values(message, 'upgrade').join().toLowerCase();
    const named = /(?:^|[\s,])upgrade(?:[\s,]|$)/i.test(values(message, 'connection').join());
    return [
      ...(message.start.startsWith('CONNECT ') ? ['the app got CONNECT'] : []),
      ...(named && upgrade !== '' && upgrade !== 'websocket' ? [`the app got Upgrade: ${upgrade}`] : []),
    ];
  });
}

/** A mended message must keep its body, and let no request out of one that a framing field announced. */
function hidden({ row }: Place, { requests, answers }: Outcome): readonly string[] {
  const wrong = answers.find((answer) => !isRefusal(statusOf(answer)) && !BODIES.has(answer.body));
  if (wrong !== undefined) return [`${wrong.start} with another body`];
  const at = requests.findIndex(({ message }) => message.start.includes('/smuggled'));
  if (at < 1) return [];
  const sent = textOf(row.send).replaceAll('Content-Length: 0\r\n', '');
  const [length, coding] = [/content.?length/i.test(sent), /transfer.?encoding/i.test(sent)];
  const lost = (length || coding) && requests[at - 1]?.message.framing === 'none';
  // RFC 9112 §6.1, §6.3: behind these the connection closes.
  const closes = (length && coding) || (coding && sent.includes('HTTP/1.0'));
  return lost || closes ? ['the app got a request out of a body'] : [];
}

/** Of all answers that may be mended; HEAD, 204 and 304 have none. */
const BODIES = new Set(['ok', 'hello', '']);

function textOf(send: Case['send']): string {
  return typeof send === 'string' ? send : send.filter((step) => typeof step === 'string').join('');
}

function against(place: Place, expect: Expected, outcome: Outcome): Verdict {
  const misses: string[] = [];
  let stricter = false;
  const wants = expect.answers.map(
    (answer): SeenAnswer => (typeof answer === 'number' ? { status: answer } : answer),
  );
  const seen = [...outcome.answers];
  let served = 0;
  for (const want of wants) {
    const answer = seen[0];
    const statuses = typeof want.status === 'number' ? [want.status] : want.status;
    if (answer === undefined) {
      // Nothing of it is no harm; where a good answer was due, a closed connection is a refusal.
      if (statuses.some((status) => status >= 400)) continue;
      if (outcome.over === 'open') misses.push('no answer');
      stricter = true;
      break;
    }
    seen.shift();
    if (statuses.includes(statusOf(answer)) || (statuses.some(isRefusal) && isRefusal(statusOf(answer)))) {
      misses.push(...answerFaults(want, answer));
      stricter ||= lost(want, answer);
      served++;
    } else if (isRefusal(statusOf(answer))) {
      stricter = true;
      break;
    } else {
      misses.push(`answered ${answer.start}, not ${statuses.join(' or ')}`);
      break;
    }
  }
  const next = goesOn(place, outcome);
  for (const more of seen) {
    if (!isRefusal(statusOf(more)) && !(stricter && served > 0) && !next)
      misses.push(`one more answer: ${more.start}`);
  }
  misses.push(...interimFaults(place, expect, outcome), ...endFaults(place, expect, outcome));
  const app = appFaults(place, expect, outcome);
  return { misses: [...misses, ...app.misses], stricter: stricter || app.stricter };
}

/** Refused was a request without a body, so that the next one on the connection is one (RFC 9112 §9.3). */
function goesOn({ table }: Place, { answers: [first] }: Outcome): boolean {
  return /^(targets\..*|tunnels\.granted)$/.test(table) && first !== undefined && isRefusal(statusOf(first));
}

const isRefusal = (status: number): boolean => status >= 400;

/** RFC 9110 §15.2: a gateway may swallow them, and answer an expectation itself; to 1.0 there are none. */
function interimFaults({ row }: Place, expect: Expected, { interims }: Outcome): readonly string[] {
  const sent = JSON.stringify(row.send);
  const mayContinue = /expect:/i.test(sent) && !/HTTP\/1\.0/.test(sent);
  const allowed = [...(expect.interims ?? []), ...(mayContinue ? [100] : [])];
  const more = interims.filter((status) => !allowed.includes(status));
  return more.length === 0 ? [] : [`interim answers ${more.join()}`];
}

function endFaults(
  { row }: Place,
  { end }: Expected,
  { over, partial, answers, probe }: Outcome,
): readonly string[] {
  if (end === 'cut') {
    const refused = answers.length > 0 && answers.every((answer) => isRefusal(statusOf(answer)));
    if (over === 'open' && !refused) return ['the cut did not reach the downstream'];
    if (partial === null && over === 'fin' && answers.length > 0 && !refused)
      return ['a cut answer ended as whole'];
    return [];
  }
  if (row.expect.end === 'open' && end === 'open' && over === 'open' && probe === null && answers.length > 0)
    return ['what follows on the connection is not answered'];
  return [];
}

function answerFaults(want: SeenAnswer, seen: Message): string[] {
  if (isRefusal(statusOf(seen)) && isRefusal(typeof want.status === 'number' ? want.status : 400)) return [];
  return contentFaults(want, seen, 'the downstream');
}

type Content = Pick<SeenRequest, 'has' | 'lacks' | 'body' | 'trailers'>;

/** Fields that are to go whether nominated or not are only a SHOULD (RFC 9110 §7.6.1); Upgrade says nothing without Connection (§7.8). */
const SHOULD_GO = new Set(['keep-alive', 'proxy-connection', 'te', 'upgrade', 'connection']);

function contentFaults(want: Content, seen: Message, who: string): string[] {
  const misses: string[] = [];
  for (const field of want.has ?? []) {
    const [name, value] = nameAndValue(field);
    const got = values(seen, name);
    if (got.length > 0 && !listed(name, got).includes(canonical(name, value)))
      misses.push(`${who} got ${name}: ${got.join(' | ').slice(0, 80)}`);
  }
  for (const name of want.lacks ?? []) {
    if (!SHOULD_GO.has(name) && values(seen, name).length > 0)
      misses.push(`${who} got ${name}: ${values(seen, name).join(' | ').slice(0, 80)}`);
  }
  if (want.body !== undefined && seen.body !== want.body) misses.push(`${who} got another body`);
  // RFC 9110 §6.5.1: they may be dropped.
  const known = (want.trailers ?? seen.trailers).map((line) => line.toLowerCase());
  const more = seen.trailers.filter((line) => !known.includes(line.toLowerCase()));
  if (more.length > 0) misses.push(`${who} got the trailer ${more.join(' | ')}`);
  return misses;
}

/** A field that is valid was left out. */
function lost({ has = [], trailers = [] }: Content, seen: Message): boolean {
  const fields = has.filter((field) => !/^(connection|content-length|transfer-encoding):/.test(field));
  return (
    fields.some((field) => values(seen, nameAndValue(field)[0]).length === 0) ||
    (trailers.length > 0 && seen.trailers.length === 0)
  );
}

function nameAndValue(field: string): [name: string, value: string] {
  const [, name = '', value = ''] = /^([^:]+): ?(.*)$/s.exec(field) ?? [];
  return [name, value];
}

/** RFC 9110 §5.3: lines of one name may be joined, but not those of Set-Cookie. */
function listed(name: string, got: readonly string[]): readonly string[] {
  const members = name === 'set-cookie' ? [] : got.flatMap((value) => value.split(/[,;] /));
  return [...got, ...members].map((value) => canonical(name, value));
}

function canonical(name: string, value: string): string {
  return name === 'content-length' ? String(Number(value)) : value.toLowerCase();
}

function appFaults(
  place: Place,
  expect: Expected,
  outcome: Outcome,
): { misses: string[]; stricter: boolean } {
  const misses: string[] = [];
  let stricter = false;
  const whole = outcome.requests
    .map(({ message }) => message)
    .filter(({ start, complete }) => complete && !start.startsWith('GET /probe '));
  // Who reads the whole body before it asks the app cannot be answered early.
  const whenever = place.table === 'early.earlyAnswers' || place.table === 'early.expectations';
  // Requests that came at once may go on side by side: their order at the app is left open.
  const left = expect.app.map((want): SeenRequest => (typeof want === 'string' ? { line: want } : want));
  for (const message of whole) {
    const fits = ({ line }: SeenRequest): boolean =>
      line === undefined || sameLine(message.start, line, place);
    const just = (want: SeenRequest): boolean => fits(want) && contentFaults(want, message, '').length === 0;
    const exactly = ({ line }: SeenRequest): boolean => line?.startsWith(message.start.slice(0, -8)) === true;
    const unnamed = (want: SeenRequest): boolean => want.line === undefined && just(want);
    const at = [exactly, unnamed, just, fits].map((like) => left.findIndex(like)).find((found) => found >= 0);
    const [want] = at === undefined ? [] : left.splice(at, 1);
    if (want !== undefined) {
      misses.push(...contentFaults(want, message, 'the app'));
      stricter ||= lost(want, message);
    } else if (message.start.includes('/smuggled') ? !goesOn(place, outcome) : !whenever)
      misses.push(`the app got ${message.start.slice(0, 80)}`);
  }
  const none = left.length > 0 && left.length === expect.app.length;
  return { misses, stricter: stricter || none };
}

/** The version is the sender's own; a path may go on as it came; an absolute form stays one (RFC 9112 §3.2.2). */
function sameLine(seen: string, wanted: string, { table, row }: Place): boolean {
  const [method, target = ''] = seen.split(' ');
  const [wantedMethod, wantedTarget = ''] = wanted.split(' ');
  if (method !== wantedMethod) return false;
  const origin = target.replace(/^https?:\/\/[^/?]*/i, '') || '/';
  if (origin === wantedTarget || origin === `/${wantedTarget}` || `/${origin}` === wantedTarget) return true;
  // How a path is normalized is for each to say.
  if (/^targets\.(paths|bytes)$/.test(table) && !target.includes('/smuggled')) return true;
  return textOf(row.send).includes(`${target} HTTP/`) && !target.includes('/smuggled');
}
