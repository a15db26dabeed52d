/** Holds an outcome against what its case says, and against what holds for every case. */
import type { Case, SeenAnswer, SeenRequest } from './case.ts';
import type { Outcome } from './play.ts';
import { type Message, statusOf, values } from './wire.ts';

/** @returns what does not hold, a sentence each; empty where all does */
export function check(row: Case, outcome: Outcome): readonly string[] {
  const wrong = [...outcome.faults, ...invariants(outcome)];
  const { expect } = row;
  expect.answers.forEach((answer, i) => {
    wrong.push(...answerFaults(answer, outcome.answers[i], `answer ${i + 1}`));
  });
  const more = outcome.answers.slice(expect.answers.length);
  if (more.length > 0) wrong.push(`more answers: ${more.map(({ start }) => start).join(', ')}`);
  const interims = (expect.interims ?? []).join();
  if (outcome.interims.join() !== interims)
    wrong.push(`interim answers ${outcome.interims}, not ${interims}`);
  wrong.push(...endFaults(expect.end, outcome));
  wrong.push(...appFaults(row, outcome));
  return wrong;
}

function answerFaults(wanted: number | SeenAnswer, seen: Message | undefined, what: string): string[] {
  const { status, line, framing, ...rest }: SeenAnswer =
    typeof wanted === 'number' ? { status: wanted } : wanted;
  if (seen === undefined) return [`no ${what}`];
  const wrong: string[] = [];
  const statuses: readonly number[] = typeof status === 'number' ? [status] : status;
  if (!statuses.includes(statusOf(seen)))
    wrong.push(`${what} is ${seen.start}, not ${statuses.join(' or ')}`);
  if (line !== undefined && seen.start !== line) wrong.push(`${what} begins ${seen.start}, not ${line}`);
  if (framing !== undefined && seen.framing !== framing)
    wrong.push(`${what} is framed by ${seen.framing}, not ${framing}`);
  return [...wrong, ...contentFaults(rest, seen, what)];
}

type Content = Pick<SeenRequest, 'has' | 'lacks' | 'body' | 'trailers'>;

function contentFaults(wanted: Content, seen: Message, what: string): string[] {
  const wrong: string[] = [];
  for (const field of wanted.has ?? []) {
    const [, name = '', value = ''] = /^([^:]+): ?(.*)$/s.exec(field) ?? [];
    if (!values(seen, name).includes(value))
      wrong.push(`${what} has no ${field}, but ${JSON.stringify(values(seen, name))}`);
  }
  for (const name of wanted.lacks ?? []) {
    if (values(seen, name).length > 0) wrong.push(`${what} has ${name}: ${values(seen, name).join(' | ')}`);
  }
  if (wanted.body !== undefined && seen.body !== wanted.body)
    wrong.push(`${what}'s body is ${brief(seen.body)}, not ${brief(wanted.body)}`);
  if (
    wanted.trailers !== undefined &&
    seen.trailers.join('|').toLowerCase() !== wanted.trailers.join('|').toLowerCase()
  )
    wrong.push(
      `${what}'s trailers are ${JSON.stringify(seen.trailers)}, not ${JSON.stringify(wanted.trailers)}`,
    );
  return wrong;
}

function endFaults(end: Case['expect']['end'], { over, probe, partial, answers }: Outcome): string[] {
  const cut = partial !== null || over === 'reset';
  switch (end) {
    case 'open':
      return probe === 200
        ? []
        : [`the request that follows was answered ${probe}, the connection is ${over}`];
    case 'closed':
      if (partial !== null) return ['an answer was cut'];
      return over === 'fin' ? [] : [`the connection is ${over}, not closed`];
    case 'cut':
      return cut && over !== 'open'
        ? []
        : [`no cut: the connection is ${over} behind ${answers.length} whole answers`];
    case 'gone':
      return over === 'open' ? ['the connection is open'] : [];
    case 'any':
      return [];
    default:
      return over === 'open' ? [] : [`the tunnel is ${over}`];
  }
}

function appFaults({ expect }: Case, outcome: Outcome): string[] {
  const wrong: string[] = [];
  const seen = outcome.requests.filter(({ message }) => !message.start.startsWith('GET /probe '));
  const whole = seen.filter(({ message }) => message.complete);
  const wanted = expect.app;
  wanted.forEach((request, i) => {
    const what = `request ${i + 1} at the app`;
    const { line, framing, ...rest }: SeenRequest = typeof request === 'string' ? { line: request } : request;
    const message = whole[i]?.message;
    if (message === undefined) {
      wrong.push(`no ${what}`);
      return;
    }
    if (line !== undefined && message.start !== line)
      wrong.push(`${what} begins ${brief(message.start)}, not ${brief(line)}`);
    if (framing !== undefined && message.framing !== framing)
      wrong.push(`${what} is framed by ${message.framing}, not ${framing}`);
    wrong.push(...contentFaults(rest, message, what));
  });
  for (const { message } of whole.slice(wanted.length)) wrong.push(`the app got ${brief(message.start)}`);
  const parts = seen.filter(({ message }) => !message.complete);
  if (expect.appCut === true) {
    if (parts.length > 1 || parts[0]?.cut === false) wrong.push('the app did not see its request cut');
  } else if (parts.length > 0) wrong.push(`the app got a part of ${brief(parts[0]?.message.start ?? '')}`);
  if (expect.upstream !== undefined) {
    const [last, probe] = [seen.at(-1), outcome.requests.at(-1)];
    const kept = last?.connection === probe?.connection ? 'kept' : 'retired';
    if (kept !== expect.upstream) wrong.push(`the upstream connection is ${kept}, not ${expect.upstream}`);
  }
  const { tunnel } = expect;
  if (tunnel !== undefined) {
    if (outcome.tunnel?.downstream !== tunnel.downstream)
      wrong.push(`the tunnel brought ${brief(outcome.tunnel?.downstream ?? 'nothing')} to the downstream`);
    if (outcome.tunnel?.app.endsWith(`\r\n\r\n${tunnel.app}`) !== true)
      wrong.push(`the tunnel did not bring just ${brief(tunnel.app)} to the app`);
  }
  return wrong;
}

/** RFC 9110 §7.6.1: fields of one hop. */
const HOP = ['keep-alive', 'proxy-connection', 'te'];

/** What nothing that reached the app or the downstream may be, whatever was sent. */
function invariants({ requests, answers }: Outcome): string[] {
  const wrong: string[] = [];
  for (const { message } of requests) {
    const [method = '', target = ''] = message.start.split(' ');
    const path = target.split('?')[0] ?? '';
    const upgrade = values(message, 'upgrade').join();
    if (!target.startsWith('/')) wrong.push(`the app got the target ${brief(target)}`);
    if (/\\|#|%2e|\/\.{1,2}(?:\/|$)/i.test(path)) wrong.push(`the app got the path ${brief(path)}`);
    if (/^\/admin/.test(path)) wrong.push('the app got what is denied');
    if (method === 'CONNECT' || method === 'PURGE') wrong.push(`the app got ${method}`);
    if (upgrade !== '' && upgrade.toLowerCase() !== 'websocket')
      wrong.push(`the app got Upgrade: ${upgrade}`);
    for (const name of HOP) if (values(message, name).length > 0) wrong.push(`the app got ${name}`);
    const lines = [...message.fields.map(([name, value]) => `${name}: ${value}`), ...message.trailers];
    for (const line of lines) if (/spoof/i.test(line)) wrong.push(`the app got ${line}`);
  }
  for (const message of answers) {
    for (const name of HOP) if (values(message, name).length > 0) wrong.push(`the downstream got ${name}`);
    if (values(message, 'upgrade').length > 0 && ![101, 426].includes(statusOf(message)))
      wrong.push('the downstream got upgrade');
  }
  return wrong;
}

function brief(text: string): string {
  return JSON.stringify(
    text.length > 120 ? `${text.slice(0, 60)}…${text.slice(-40)} (${text.length})` : text,
  );
}
