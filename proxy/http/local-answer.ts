/** An answer of our own instead of the upstream's, and how it is written. */
import { STATUS_CODES } from 'node:http';
import type { AnswerChange } from '../../mesh/ext-authz.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { FieldChange } from '../../mesh/tokens.ts';
import { changeAnswer, changeFields } from './change-fields.ts';
import { grpcMessage, grpcStatusFor } from './grpc.ts';
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

/** What is answered, and what of it decides how. */
export interface AnsweredRequest {
  readonly method: string;
  /** Changes of whatever answer the downstream gets. */
  readonly changes: readonly AnswerChange[];
  /** A gRPC call: it is told by `grpc-status`, since its callers take any status but 200 for a broken server. */
  readonly grpc?: boolean;
}

/** An answer of ours as any HTTP version carries it. */
export interface OwnAnswer {
  readonly status: number;
  readonly grpcStatus: number | null;
  /** Content-Length among them. */
  readonly fields: readonly Field[];
  /** Empty for HEAD, whose head still tells the length (RFC 9110 §9.3.2). */
  readonly body: string | Buffer;
}

export interface WrittenAnswer extends OwnAnswer {
  readonly head: string;
}

const TEXT: Field = { name: 'content-type', key: 'content-type', value: 'text/plain' };
const GRPC: Field = { name: 'content-type', key: 'content-type', value: 'application/grpc' };

/**
 * Makes an answer as Envoy makes its local replies: no Content-Type without a body, none for statuses that can have
 * no body (RFC 9110 §6.4.1); for gRPC a trailers-only answer (gRPC over HTTP/2, `Trailers-Only`).
 */
export function ownAnswer(answer: LocalAnswer, request: AnsweredRequest): OwnAnswer {
  if (request.grpc === true) return grpcAnswer(answer, request.changes);
  const { status, fields = [] } = answer;
  const bodiless = status === 204 || status === 304;
  const body = bodiless ? '' : answer.body;
  const all = changeAnswer(changeFields(body.length === 0 ? [] : [TEXT], fields), request.changes);
  return {
    status,
    grpcStatus: null,
    fields: bodiless ? all : [field('content-length', String(body.length)), ...all],
    body: request.method === 'HEAD' ? '' : body,
  };
}

function grpcAnswer({ status, body, fields = [] }: LocalAnswer, changes: readonly AnswerChange[]): OwnAnswer {
  const grpcStatus = grpcStatusFor(status);
  const message = grpcMessage(typeof body === 'string' ? body : body.toString('latin1'));
  const told = [GRPC, field('grpc-status', String(grpcStatus))];
  if (message !== '') told.push(field('grpc-message', message));
  const added = changeFields([], fields).filter(
    ({ key }) => key !== 'content-type' && !told.some((own) => own.key === key),
  );
  return { status: 200, grpcStatus, fields: changeAnswer([...told, ...added], changes), body: '' };
}

function field(name: string, value: string): Field {
  return { name, key: name, value };
}

/** Writes an answer of ours as HTTP/1.1. */
export function writeLocalAnswer(
  answer: LocalAnswer,
  request: AnsweredRequest & { readonly close: boolean },
): WrittenAnswer {
  const own = ownAnswer(answer, request);
  let head = `HTTP/1.1 ${own.status} ${STATUS_CODES[own.status] ?? 'Unknown'}\r\n`;
  for (const { name, value } of own.fields) head += `${name}: ${value}\r\n`;
  if (own.grpcStatus !== null) head += 'content-length: 0\r\n';
  if (request.close) head += 'connection: close\r\n';
  return { ...own, head: `${head}\r\n` };
}
