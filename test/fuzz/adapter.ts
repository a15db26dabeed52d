/** The parsers under test, as the fuzzers call them: one place to mend where their names change. */
import { limitsWith } from '../../mesh/limits.ts';
import { normalizeTarget } from '../../policy/path.ts';
import { type Field, type Framing, HeadError } from '../../proxy/http/head.ts';
import { BodyError, bodyReader } from '../../proxy/http1/body.ts';
import { Http1Request, LastRequest } from '../../proxy/http1/request-head.ts';
import { Http1Response } from '../../proxy/http1/response-head.ts';
import { HeadScan } from '../../proxy/http1/scan.ts';

const limits = limitsWith({});

/** What was read of a head; `end`: where the body begins. */
export interface ReadRequest {
  readonly end: number;
  readonly method: string;
  readonly path: string;
  readonly host: string;
  readonly minor: number;
  readonly fields: readonly Field[];
  readonly framing: Framing;
  readonly upgrade: boolean;
  /** The head as it goes on. */
  readonly written: Buffer;
}

export interface ReadAnswer {
  readonly end: number;
  readonly status: number;
  readonly phrase: string;
  readonly fields: readonly Field[];
  readonly framing: Framing;
}

/** Why a head is none; `incomplete`: more bytes could make it one. */
export interface Refused {
  readonly refused: string;
}

/** Reads the first request head, its target as it came. */
export function readRequest(bytes: Buffer): ReadRequest | Refused {
  return orRefused(() => {
    const scan = new HeadScan('request', limits);
    const end = scan.scan(bytes);
    if (end === 0) return { refused: 'incomplete' };
    const head = bytes.subarray(0, end);
    const request = new Http1Request(
      head,
      scan,
      (target) => normalizeTarget(target, 'NONE'),
      new LastRequest(),
    );
    const { method, path, host, minor, fields, framing, upgrade } = request;
    return { end, method, path, host, minor, fields, framing, upgrade, written: request.write(null) };
  });
}

/** Reads the first answer head; of what answers that method. */
export function readAnswer(bytes: Buffer, method: string): ReadAnswer | Refused {
  return orRefused(() => {
    const scan = new HeadScan('response', limits);
    const end = scan.scan(bytes);
    if (end === 0) return { refused: 'incomplete' };
    const { status, phrase, fields, framing } = new Http1Response(bytes.subarray(0, end), scan, method);
    return { end, status, phrase, fields, framing };
  });
}

/** A body's data, and whether its end came (`ended`: the connection is over behind these bytes). */
export function readBody(framing: Framing, bytes: Buffer): { data: Buffer; whole: boolean } | Refused {
  const reader = bodyReader(framing, true, limits);
  const pieces: Buffer[] = [];
  try {
    if (!reader.done) reader.feed(bytes, (piece) => void pieces.push(Buffer.from(piece)));
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    return { refused: error.message };
  }
  return { data: Buffer.concat(pieces), whole: reader.done || reader.ended() };
}

function orRefused<T>(read: () => T | Refused): T | Refused {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof HeadError)) throw error;
    return { refused: error.message };
  }
}
