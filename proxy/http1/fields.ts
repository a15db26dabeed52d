/** The fields of a scanned HTTP/1 head: read from its bytes on demand, written back as they came wherever they may. */
import { type Field, FORWARDED_CERT, HeadError, NEVER_NOMINATED } from '../http/head.ts';
import { DROP, FIELD, type HeadScan, isNamed, KEEP, REWRITE } from './scan.ts';

const NONE: readonly string[] = [];

/** What Connection says (RFC 9110 §7.6.1). */
export interface ConnectionOptions {
  close: boolean;
  keepAlive: boolean;
  upgrade: boolean;
  /** In lower case; null where it nominates no field. */
  nominated: string[] | null;
}

const NO_OPTIONS: Readonly<ConnectionOptions> = {
  close: false,
  keepAlive: false,
  upgrade: false,
  nominated: null,
};

/** Knows the canonical value of a field whose own does not go on as it came; null: its own, white space around it gone. */
export interface Rewriter {
  rewritten(index: number): string | null;
}

/** Longer texts differ more often, and comparing them costs as much as reading them. */
const LONGEST_REMEMBERED = 96;

/** A text that one message of a connection nearly always has as the one before: read once, then compared by its bytes. */
export class LastText {
  text = '';

  /** @returns the text of these bytes, one character a byte */
  read(bytes: Buffer, from: number, to: number): string {
    const { text } = this;
    if (to - from === text.length) {
      let i = from;
      while (i < to && bytes[i] === text.charCodeAt(i - from)) i++;
      if (i === to) return text;
    }
    const fresh = bytes.toString('latin1', from, to);
    if (fresh.length <= LONGEST_REMEMBERED) this.text = fresh;
    return fresh;
  }
}

/** Fields by position in the bytes they came in. Valid until the scan begins its next head. */
export class ScannedFields {
  readonly bytes: Buffer;
  readonly scan: HeadScan;
  /** What `readHop` found so far: Content-Length, whether there is a Transfer-Encoding, and what Connection says. */
  length: number | null = null;
  coded = false;
  options: ConnectionOptions | null = null;

  constructor(bytes: Buffer, scan: HeadScan) {
    this.bytes = bytes;
    this.scan = scan;
  }

  name(index: number): string {
    const { at } = this.scan;
    return this.bytes.toString('latin1', at[4 * index], at[4 * index + 1]);
  }

  value(index: number): string {
    const { at } = this.scan;
    return this.bytes.toString('latin1', at[4 * index + 2], at[4 * index + 3]);
  }

  /** As `value`, where the last message's is remembered. */
  lastValue(index: number, last: LastText): string {
    const { at } = this.scan;
    return last.read(this.bytes, at[4 * index + 2] as number, at[4 * index + 3] as number);
  }

  /**
   * Reads a field that tells of framing or of this hop alone, in requests and answers alike, and takes it out where it
   * does not go on.
   * @throws HeadError naming what is wrong
   */
  readHop(index: number): void {
    const { fates, ids } = this.scan;
    switch (ids[index]) {
      case FIELD.contentLength:
        this.length = this.#readLength(index, this.length);
        break;
      case FIELD.transferEncoding:
        if (this.coded) throw new HeadError(400, 'more than one Transfer-Encoding field');
        this.coded = true;
        this.#readCoding(index);
        break;
      case FIELD.connection:
        fates[index] = DROP;
        if (this.options === null) this.options = { ...NO_OPTIONS };
        this.#readOptions(index, this.options);
        break;
      case FIELD.upgrade:
      case FIELD.keepAlive:
      case FIELD.proxyConnection:
      case FIELD.te:
        fates[index] = DROP;
        break;
    }
  }

  /** @param key in lower case @returns the fields' values that go on, each alone, in order */
  values(key: string, rewriter: Rewriter): readonly string[] {
    const { at, fates, count } = this.scan;
    let found: string[] | null = null;
    for (let i = 0; i < count; i++) {
      if (fates[i] === DROP) continue;
      if (!isNamed(this.bytes, at[4 * i] as number, at[4 * i + 1] as number, key)) continue;
      if (found === null) found = [];
      found.push(this.valueOf(i, rewriter));
    }
    return found ?? NONE;
  }

  /** What came as X-Forwarded-Client-Cert, joined as Envoy joins it; a spelling of its own (`_`) says nothing. */
  joinedCerts(): string | null {
    const { at, ids, count } = this.scan;
    let joined: string | null = null;
    for (let i = 0; i < count; i++) {
      if (ids[i] !== FIELD.forwardedCert) continue;
      if (!isNamed(this.bytes, at[4 * i] as number, at[4 * i + 1] as number, FORWARDED_CERT)) continue;
      joined = joined === null ? this.value(i) : `${joined},${this.value(i)}`;
    }
    return joined;
  }

  /** A field's value as it goes on. */
  valueOf(index: number, rewriter: Rewriter): string {
    const canonical = this.scan.fates[index] === REWRITE ? rewriter.rewritten(index) : null;
    return canonical ?? this.value(index);
  }

  /** The fields that go on. */
  materialize(rewriter: Rewriter): Field[] {
    const { fates, count } = this.scan;
    const fields: Field[] = [];
    for (let i = 0; i < count; i++) {
      if (fates[i] === DROP) continue;
      const name = this.name(i);
      fields.push({ name, key: name.toLowerCase(), value: this.valueOf(i, rewriter) });
    }
    return fields;
  }

  /** Adds what one Connection field says to `options`. */
  #readOptions(index: number, options: ConnectionOptions): void {
    const value = this.value(index);
    for (const part of value.includes(',') ? value.split(',') : [value]) {
      const option = part.trim().toLowerCase();
      if (option === 'close') options.close = true;
      else if (option === 'keep-alive') options.keepAlive = true;
      else if (option === 'upgrade') options.upgrade = true;
      else if (option !== '') {
        if (options.nominated === null) options.nominated = [];
        options.nominated.push(option);
      }
    }
  }

  /** Takes out what Connection nominates, but for what makes framing, addressee and author. */
  dropNominated(nominated: readonly string[]): void {
    const { at, fates, count } = this.scan;
    for (let i = 0; i < count; i++) {
      for (const key of nominated) {
        if (NEVER_NOMINATED.has(key)) continue;
        if (isNamed(this.bytes, at[4 * i] as number, at[4 * i + 1] as number, key)) fates[i] = DROP;
      }
    }
  }

  /** The body's length (RFC 9110 §8.6); null where none is told. Repeats of one value become one field. @throws HeadError */
  #readLength(index: number, before: number | null): number {
    const { at, fates } = this.scan;
    const from = at[4 * index + 2] as number;
    const to = at[4 * index + 3] as number;
    if (from === to || to - from > 16) throw new HeadError(400, 'bad Content-Length');
    let length = 0;
    for (let i = from; i < to; i++) {
      const digit = (this.bytes[i] as number) - 0x30;
      if (digit < 0 || digit > 9) throw new HeadError(400, 'bad Content-Length');
      length = length * 10 + digit;
    }
    if (length > Number.MAX_SAFE_INTEGER) throw new HeadError(400, 'bad Content-Length');
    if (before !== null) {
      if (before !== length) throw new HeadError(400, 'differing Content-Length');
      fates[index] = DROP;
    } else if (this.bytes[from] === 0x30 && to - from > 1) fates[index] = REWRITE;
    return length;
  }

  /** RFC 9112 §6.1: `chunked`, once, alone. @throws HeadError */
  #readCoding(index: number): void {
    const value = this.value(index);
    if (value === 'chunked') return;
    if (value.toLowerCase() !== 'chunked') throw new HeadError(400, 'Transfer-Encoding other than chunked');
    this.scan.fates[index] = REWRITE;
  }

  /**
   * Writes the fields that go on: untouched neighbours as one copy, the others one by one.
   * @param from where the run that may be copied begins: the start line's beginning where that goes on as it came
   * @returns the position behind what was written
   */
  write(out: Buffer, from: number, offset: number, rewriter: Rewriter): number {
    const { bytes } = this;
    const { at, fates, count, fieldsEnd } = this.scan;
    let to = offset;
    let run = from;
    for (let i = 0; i < count; i++) {
      if (fates[i] === KEEP) continue;
      const start = at[4 * i] as number;
      if (start > run) to += bytes.copy(out, to, run, start);
      run = i + 1 < count ? (at[4 * (i + 1)] as number) : fieldsEnd;
      if (fates[i] === DROP) continue;
      to += out.write(`${this.name(i)}: ${this.valueOf(i, rewriter)}\r\n`, to, 'latin1');
    }
    if (fieldsEnd > run) to += bytes.copy(out, to, run, fieldsEnd);
    return to;
  }

  /** True where every field goes on as it came. */
  get untouched(): boolean {
    const { fates, count } = this.scan;
    for (let i = 0; i < count; i++) if (fates[i] !== KEEP) return false;
    return true;
  }
}

/** Writes a field as a line of its own. @returns the position behind it */
export function writeField(out: Buffer, offset: number, { name, value, line }: Field): number {
  if (line === undefined) return offset + out.write(`${name}: ${value}\r\n`, offset, 'latin1');
  out.set(line, offset);
  return offset + line.length;
}

/** The canonical value of a field that is rewritten because of what it is. */
export function canonicalValue(id: number, length: number | null): string | null {
  if (id === FIELD.contentLength && length !== null) return String(length);
  return id === FIELD.transferEncoding ? 'chunked' : null;
}
