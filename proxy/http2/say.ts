/** What `node:http2` says beside an answer's head, trailers and interim answers, without its throwing out of an event. */
import { constants, type Http2Stream, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { Field } from '../http/head.ts';
import { OF_A_CONNECTION } from './head.ts';

const { NGHTTP2_INTERNAL_ERROR } = constants;

/**
 * Says the trailers of a stream that wants them. What `node:http2` will not say it throws out of
 * its own event, which would end the process: the stream is cut then, since its end must not look clean.
 */
export function sayTrailers(stream: Http2Stream, fields: readonly Field[]): void {
  if (stream.destroyed || stream.closed) return;
  try {
    stream.sendTrailers(toHeaders(fields));
  } catch {
    stream.close(NGHTTP2_INTERNAL_ERROR);
  }
}

/** Says an interim answer, or leaves it out where `node:http2` will not say it: the final one is what counts. */
export function sayInterim(stream: ServerHttp2Stream, status: number, fields: readonly Field[]): void {
  if (stream.destroyed || stream.closed || stream.headersSent) return;
  try {
    stream.additionalHeaders({ ':status': status, ...toHeaders(fields) });
  } catch {
    // As if it had been lost on its way.
  }
}

/** These calls take an object alone. */
function toHeaders(fields: readonly Field[]): OutgoingHttpHeaders {
  const headers: Record<string, string | string[]> = Object.create(null);
  for (const { key, value } of fields) {
    if (OF_A_CONNECTION.has(key)) continue;
    const before = headers[key];
    if (before === undefined) headers[key] = value;
    else if (Array.isArray(before)) before.push(value);
    else headers[key] = [before, value];
  }
  return headers;
}
