/** An answer of our own instead of the upstream's, and how it is written. */
import { STATUS_CODES } from 'node:http';
import type { AnswerChange } from '../../mesh/ext-authz.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { FieldChange } from '../../mesh/tokens.ts';
import { changeAnswer, changeFields } from './change-fields.ts';
import type { Field } from './head.ts';

export interface LocalAnswer {
  readonly status: number;
  /** A string is one character a byte. */
  readonly body: string | Buffer;
  readonly reason: ReasonCode;
  readonly detail: string;
  /** Fields besides framing and connection; a Content-Type among them takes the place of `text/plain`. */
  readonly fields?: readonly FieldChange[];
  /** The rest of the connection is not wanted: its body is too long to be read past. */
  readonly close?: boolean;
}

export interface WrittenAnswer {
  readonly head: string;
  /** Empty for HEAD, whose head still tells the length (RFC 9110 §9.3.2). */
  readonly body: string | Buffer;
}

const TEXT: Field = { name: 'content-type', key: 'content-type', value: 'text/plain' };

/**
 * Writes an answer as Envoy writes its local replies: no Content-Type without a body, none for statuses that
 * can have no body (RFC 9110 §6.4.1).
 * @param request what is answered, and the changes of whatever answer the downstream gets
 */
export function writeLocalAnswer(
  answer: LocalAnswer,
  request: { readonly method: string; readonly changes: readonly AnswerChange[]; readonly close: boolean },
): WrittenAnswer {
  const { status, fields = [] } = answer;
  const bodiless = status === 204 || status === 304;
  const body = bodiless ? '' : answer.body;
  const all = changeAnswer(changeFields(body.length === 0 ? [] : [TEXT], fields), request.changes);
  let head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Unknown'}\r\n`;
  if (!bodiless) head += `content-length: ${body.length}\r\n`;
  for (const { name, value } of all) head += `${name}: ${value}\r\n`;
  if (request.close) head += 'connection: close\r\n';
  return { head: `${head}\r\n`, body: request.method === 'HEAD' ? '' : body };
}
