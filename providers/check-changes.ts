/** What an authorizer's answer changes, checked: only what can stand in a head leaves this file. */
import type { AnswerChange, CheckAnswer, CheckRequest } from '../mesh/ext-authz.ts';
import type { FieldChange } from '../mesh/tokens.ts';
import type { HeaderOption, OkResponse, Pair } from './check-messages.ts';

type Denied = CheckAnswer & { readonly kind: 'denied' };

const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const TARGET = /^\/[\x21\x22\x24-\x7e]*$/;
/** Envoy's map of an answer's fields has one place for each of these. */
const ONE_VALUE = new Set(['content-type', 'date', 'location', 'server']);
const EDGE_SPACE = /^[\t ]+|[\t ]+$/g;
/** Fields that frame a message or address it: the data path writes its own. */
const NOT_CHANGED = new Set([
  'host',
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'content-length',
  'upgrade',
  'te',
  'trailer',
  'expect',
]);
/** Values of HeaderAppendAction. */
const ADD_IF_ABSENT = 1;
const OVERWRITE_IF_EXISTS_OR_ADD = 2;
const OVERWRITE_IF_EXISTS = 3;

/** Envoy's answer where it cannot send on what the authorizer made of the request, failOpen or not. */
const SPOILT: Denied = { kind: 'denied', status: 503, fields: [], body: Buffer.alloc(0) };

/** A field, its name in lower case. */
export interface Named {
  readonly name: string;
  readonly value: string;
}

/** What is asked for of the request and of its answer, before it is checked. */
export interface Wanted {
  readonly remove: readonly string[];
  readonly set: readonly FieldChange[];
  readonly path: string | null;
  readonly answerFields: readonly AnswerChange[];
}

/** Lets a request pass, changed; refuses it where a change cannot be made, for the app must not get it unchanged. */
export function allowed({ remove, set, path, answerFields }: Wanted): CheckAnswer {
  const changes = set.filter(isOurs);
  const answers = answerFields.filter(isOurs);
  const sound = changes.every(isSound) && answers.every(isSound) && (path === null || TARGET.test(path));
  if (!sound) return SPOILT;
  return {
    kind: 'allowed',
    remove: remove.filter((name) => isOurs({ name })),
    set: changes,
    path,
    answerFields: answers,
  };
}

/**
 * A denial; what cannot be sent is left out of it, an impossible status is 403. Fields of one name stand beside
 * each other, or are joined where there can be but one, in the place of what the answer would have had.
 */
export function denied(status: number, given: readonly Named[], body: Uint8Array): Denied {
  const values = new Map<string, readonly string[]>();
  for (const { name, value } of given.filter((one) => isOurs(one) && isSound(one))) {
    const before = values.get(name) ?? [];
    const [first] = before;
    const single = ONE_VALUE.has(name) && first !== undefined;
    values.set(name, single ? [joined(name, first, value)] : [...before, value]);
  }
  // Envoy gives no type to a body that is not there.
  if (body.length === 0) values.delete('content-type');
  const fields = [...values].flatMap(inPlace);
  return {
    kind: 'denied',
    status: status >= 200 && status <= 999 ? status : 403,
    fields,
    body: Buffer.from(body),
  };
}

/** Fields of one name in the place of whatever there is. */
function inPlace([name, values]: readonly [string, readonly string[]]): FieldChange[] {
  return values.map((value, i) => ({ name, value, append: i > 0 }));
}

function isOurs({ name }: Pick<Named, 'name'>): boolean {
  return name !== '' && !name.startsWith(':') && !NOT_CHANGED.has(name);
}

function isSound({ name, value }: Named): boolean {
  return NAME.test(name) && VALUE.test(value);
}

function named({ key, value }: Pair): Named {
  return { name: key.toLowerCase(), value: value.replace(EDGE_SPACE, '') };
}

/**
 * The changes of an OkHttpResponse, in the order Envoy makes them: the request's fields set, then those appended
 * to, then those removed, then the query.
 */
export function changesOf(ok: OkResponse, request: NonNullable<CheckRequest['request']>): Wanted {
  // Envoy heeds only the deprecated `append` here: whatever the action, a field without it is set.
  const set = new Map<string, readonly string[]>();
  for (const option of ok.headers.filter(({ append }) => append !== true)) {
    const { name, value } = named(option);
    set.set(name, [value]);
  }
  for (const option of ok.headers.filter(({ append }) => append === true)) {
    const { name, value } = named(option);
    const [first, ...others] = set.get(name) ?? valuesOf(request, name);
    // Where nothing is, nothing is appended to; of several fields the first one grows.
    if (first !== undefined) set.set(name, [joined(name, first, value), ...others]);
  }
  const remove = ok.headersToRemove.map((name) => name.toLowerCase());
  for (const name of remove) if (isOurs({ name })) set.delete(name);
  const path = changedQuery(set.get(':path')?.[0] ?? request.path, ok);
  return {
    remove,
    set: [...set].flatMap(inPlace),
    path: path === request.path ? null : path,
    answerFields: answerChanges(ok.responseHeadersToAdd),
  };
}

function valuesOf({ fields, path }: NonNullable<CheckRequest['request']>, name: string): readonly string[] {
  if (name === ':path') return [path];
  return fields.filter((field) => field.name === name).map(({ value }) => value);
}

/** What is empty joins without a mark between. */
function joined(name: string, before: string, value: string): string {
  if (before === '' || value === '') return before + value;
  return `${before}${name === 'cookie' ? '; ' : ','}${value}`;
}

/** Envoy adds first, then sets, then what depends on what the answer has. Unknown actions are passed over. */
function answerChanges(options: readonly HeaderOption[]): AnswerChange[] {
  const groups: Record<'add' | 'set' | 'absent' | 'present', AnswerChange[]> = {
    add: [],
    set: [],
    absent: [],
    present: [],
  };
  for (const option of options) {
    const { append, action } = option;
    if (append === false || (append === null && action === OVERWRITE_IF_EXISTS_OR_ADD)) {
      groups.set.push({ ...named(option), append: false, only: null });
    } else if (append === true || action === 0) {
      groups.add.push({ ...named(option), append: true, only: null });
    } else if (action === ADD_IF_ABSENT) {
      groups.absent.push({ ...named(option), append: true, only: 'absent' });
    } else if (action === OVERWRITE_IF_EXISTS) {
      groups.present.push({ ...named(option), append: false, only: 'present' });
    }
  }
  return [...groups.add, ...groups.set, ...groups.absent, ...groups.present];
}

/** The fields of a denial: Envoy leaves out those to be appended. */
export function denialFields(options: readonly HeaderOption[]): Named[] {
  return options.filter(({ append }) => append !== true).map(named);
}

/** The fields of an error: here those to be appended come last. */
export function errorFields(options: readonly HeaderOption[]): Named[] {
  return [...denialFields(options), ...options.filter(({ append }) => append === true).map(named)];
}

/**
 * A target with query parameters set and removed. Envoy takes the query apart without decoding anything and
 * writes it anew sorted by name, each with its `=`; a target without changes stays as it is.
 */
function changedQuery(target: string, { queryToSet, queryToRemove }: OkResponse): string {
  if (queryToSet.length === 0 && queryToRemove.length === 0) return target;
  const mark = target.indexOf('?');
  const parameters = new Map<string, string[]>();
  const query = mark < 0 ? '' : target.slice(mark + 1);
  // What ends in `&` has no empty parameter behind it.
  const parts = query.replace(/&$/, '').split('&');
  for (const part of query === '' ? [] : parts) {
    const equals = part.indexOf('=');
    const key = equals < 0 ? part : part.slice(0, equals);
    const values = parameters.get(key) ?? [];
    values.push(equals < 0 ? '' : part.slice(equals + 1));
    parameters.set(key, values);
  }
  for (const { key, value } of queryToSet) parameters.set(key, [value]);
  for (const key of queryToRemove) parameters.delete(key);
  const written = [...parameters]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([key, values]) => values.map((value) => `${key}=${value}`))
    .join('&');
  const path = mark < 0 ? target : target.slice(0, mark);
  return written === '' ? path : `${path}?${written}`;
}
