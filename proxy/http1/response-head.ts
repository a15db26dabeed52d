/** An HTTP/1 answer's head: strictly read (RFC 9112), passed on in the bytes it came in. */
import { Buffer } from 'node:buffer';
import type { AnswerChange } from '../../mesh/ext-authz.ts';
import { changeAnswer } from '../http/change-fields.ts';
import { type Field, type Framing, HeadError } from '../http/head.ts';
import { canonicalValue, type Rewriter, ScannedFields } from './fields.ts';
import { finish } from './request-head.ts';
import { DROP, FIELD, HeadScan } from './scan.ts';

const NO_BODY: Framing = { kind: 'none' };
const CHUNKED: Framing = { kind: 'chunked' };
const UNTIL_CLOSE: Framing = { kind: 'close' };

/** How an answer's head goes on. */
export interface AnswerOptions {
  /** Tell the downstream that this connection ends with the answer. */
  readonly close: boolean;
  /** The body goes on without its chunk framing (HTTP/1.0 downstream). */
  readonly plain: boolean;
  /** It opens a tunnel: say so in Connection and Upgrade. */
  readonly tunnel: boolean;
  readonly changes: readonly AnswerChange[] | null;
}

export class Http1Response implements Rewriter {
  readonly minor: 0 | 1;
  /** 100 to 999 */
  readonly status: number;
  readonly framing: Framing;
  /** The upstream keeps the connection after it. */
  readonly keepAlive: boolean;
  /** `Keep-Alive: timeout=N`, in milliseconds; 0: it does not say. */
  readonly keepAliveMs: number;
  /** It switches to WebSocket (RFC 9110 §7.8): in HTTP/1.1, named in Connection, with no body of its own. */
  readonly websocket: boolean;
  readonly #fields: ScannedFields;
  readonly #length: number | null;
  /** `HTTP/1.1 NNN phrase`, the space before an empty phrase included. */
  readonly #canonicalLine: boolean;

  /**
   * @param bytes the whole head, its final empty line included
   * @param method of the request: HEAD has no body
   * @throws HeadError naming what is wrong
   */
  constructor(bytes: Buffer, scan: HeadScan, method: string) {
    const fields = new ScannedFields(bytes, scan);
    this.#fields = fields;
    this.minor = minorVersion(bytes);
    this.#canonicalLine = this.minor === 1 && scan.lineEnd > 12;
    const status = statusOf(bytes, scan.lineEnd);
    this.status = status;
    const { ids, count } = scan;
    let keepAliveMs = 0;
    let upgrade = -1;
    for (let i = 0; i < count; i++) {
      fields.readHop(i);
      if (ids[i] === FIELD.keepAlive) keepAliveMs = timeoutOf(fields.value(i));
      else if (ids[i] === FIELD.upgrade) upgrade = i;
    }
    const { length, coded, options } = fields;
    if (coded && (length !== null || this.minor === 0)) throw new HeadError(400, 'ambiguous body length');
    if (options !== null && options.nominated !== null) fields.dropNominated(options.nominated);
    this.#length = length;
    this.framing = framingOf(status, method, coded, length);
    // RFC 9112 §6.1, RFC 9110 §8.6: what cannot have a body carries no framing that a lenient reader would wait by.
    if (status < 200 || status === 204 || status === 304) this.#dropFraming(status === 304);
    const kept = this.minor === 1 ? options?.close !== true : options?.keepAlive === true;
    this.keepAlive = kept && options?.close !== true && this.framing.kind !== 'close';
    this.keepAliveMs = keepAliveMs;
    this.websocket =
      upgrade >= 0 &&
      options?.upgrade === true &&
      this.minor === 1 &&
      !coded &&
      length === null &&
      fields.value(upgrade).toLowerCase() === 'websocket';
  }

  get phrase(): string {
    const { bytes, scan } = this.#fields;
    return bytes.toString('latin1', Math.min(13, scan.lineEnd), scan.lineEnd);
  }

  /** The fields that go on. */
  get fields(): Field[] {
    return this.#fields.materialize(this);
  }

  /** @param key in lower case */
  values(key: string): readonly string[] {
    return this.#fields.values(key, this);
  }

  rewritten(index: number): string | null {
    return canonicalValue(this.#fields.scan.ids[index] as number, this.#length);
  }

  /**
   * @param piece of the body, or null: none
   * @returns head and piece as one in the bytes they came in; null where something of them must change, or lies elsewhere
   */
  asCame({ close, plain, tunnel, changes }: AnswerOptions, piece: Buffer | null): Buffer | null {
    if (close || plain || tunnel || changes !== null || !this.#canonicalLine || !this.#fields.untouched)
      return null;
    const { bytes } = this.#fields;
    if (piece === null) return bytes;
    const end = bytes.byteOffset + bytes.length;
    if (piece.buffer !== bytes.buffer || piece.byteOffset !== end) return null;
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length + piece.length);
  }

  /**
   * @param body what goes right behind the head, within the same buffer
   * @returns the head as it goes on, in canonical form, and `body` behind it
   */
  write(options: AnswerOptions, body: Buffer | null): Buffer {
    const { bytes, scan } = this.#fields;
    const more = body === null ? 0 : body.length;
    let text = options.close ? 'connection: close\r\n' : '';
    if (options.tunnel) text += 'connection: Upgrade\r\nupgrade: websocket\r\n';
    if (options.plain) this.#drop(FIELD.transferEncoding);
    const line = this.#canonicalLine ? '' : `HTTP/1.1 ${this.status} ${this.phrase}\r\n`;
    if (options.changes !== null) {
      let head = line || `HTTP/1.1 ${this.status} ${this.phrase}\r\n`;
      for (const { name, value } of changeAnswer(this.fields, options.changes))
        head += `${name}: ${value}\r\n`;
      head += text;
      const out = Buffer.allocUnsafe(head.length + 2 + more);
      return finish(out, out.write(head, 0, 'latin1'), body);
    }
    // A rewritten field may grow by the space behind its colon.
    const out = Buffer.allocUnsafe(bytes.length + line.length + scan.count + text.length + 2 + more);
    const begin = line === '' ? 0 : out.write(line, 0, 'latin1');
    const at = this.#fields.write(out, line === '' ? 0 : scan.fieldsAt, begin, this);
    return finish(out, text === '' ? at : at + out.write(text, at, 'latin1'), body);
  }

  #dropFraming(keepLength: boolean): void {
    this.#drop(FIELD.transferEncoding);
    if (!keepLength) this.#drop(FIELD.contentLength);
  }

  #drop(id: number): void {
    const { ids, fates, count } = this.#fields.scan;
    for (let i = 0; i < count; i++) if (ids[i] === id) fates[i] = DROP;
  }
}

/**
 * Reads a whole answer's head, without its final empty line.
 * @param text one character a byte, CRLF between lines
 * @throws HeadError naming what was wrong
 */
export function parseResponse(
  text: string,
  bounds: { readonly maxFields: number },
  method: string,
): Http1Response {
  const bytes = Buffer.from(`${text}\r\n\r\n`, 'latin1');
  const scan = new HeadScan('response', {
    maxHeadBytes: Number.POSITIVE_INFINITY,
    maxHeadFields: bounds.maxFields,
    maxTargetBytes: 0,
  });
  if (scan.scan(bytes) !== bytes.length) throw new HeadError(400, 'an empty line within the head');
  return new Http1Response(bytes, scan, method);
}

function minorVersion(bytes: Buffer): 0 | 1 {
  if (bytes[7] === 0x31) return 1;
  if (bytes[7] === 0x30) return 0;
  throw new HeadError(400, 'malformed status line');
}

/** RFC 9112 §4: exactly three digits between single spaces. */
function statusOf(bytes: Buffer, lineEnd: number): number {
  const spaced = bytes[8] === 0x20 && (lineEnd === 12 || bytes[12] === 0x20);
  let status = 0;
  for (let i = 9; i < 12; i++) {
    const digit = (bytes[i] as number) - 0x30;
    if (digit < 0 || digit > 9) throw new HeadError(400, 'malformed status line');
    status = status * 10 + digit;
  }
  if (!spaced || lineEnd < 12 || status < 100) throw new HeadError(400, 'malformed status line');
  return status;
}

/** RFC 9112 §6.3. */
function framingOf(status: number, method: string, coded: boolean, length: number | null): Framing {
  if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return NO_BODY;
  if (coded) return CHUNKED;
  if (length === null) return UNTIL_CLOSE;
  return length === 0 ? NO_BODY : { kind: 'length', length };
}

function timeoutOf(value: string): number {
  const match = /(?:^|[\s,])timeout\s*=\s*([0-9]{1,6})(?:$|[\s,])/i.exec(value);
  return match === null ? 0 : Number(match[1]) * 1000;
}
