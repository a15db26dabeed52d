/** A strict reader of HTTP/1 messages of the tests' own (RFC 9112): what it cannot read without doubt is a fault. */

/** One message as it stood on the wire; one character a byte. */
export interface Message {
  /** Request line or status line. */
  readonly start: string;
  readonly fields: readonly (readonly [name: string, value: string])[];
  readonly framing: 'none' | 'length' | 'chunked' | 'close' | 'tunnel';
  body: string;
  /** Trailer lines as they came. */
  trailers: readonly string[];
  /** Its end came, by its framing. */
  complete: boolean;
}

/**
 * `strict`: as our sidecars write. `lenient`: also what RFC 9110 §5.5 and RFC 9112 §3 let another pass on as it came:
 * control bytes in a value, bytes beyond ASCII in a target, leading zeros in a length, its own version.
 */
export type Reading = 'strict' | 'lenient';

const FIELD =
  /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*$/;
const REQUEST_LINE =
  /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+ (?:\/|https?:\/\/)[\x21\x22\x24-\x7e]* HTTP\/1\.[01]$|^OPTIONS \* HTTP\/1\.1$/;
const LENIENT_FIELD = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*$/;
const LENIENT_REQUEST_LINE =
  /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+ (?:\/|[hH][tT][tT][pP][sS]?:\/\/)[\x21\x22\x24-\x7e\x80-\xff]* HTTP\/1\.[01]$|^OPTIONS \* HTTP\/1\.[01]$/;
const BARE = /(?:^|[^\r])\n|\r(?=[^\n])|\0/;
/** RFC 9112 §4: a phrase may be missing, and with it the space that a server must send. */
const LENIENT_STATUS_LINE = /^HTTP\/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?$/;
const STATUS_LINE = /^HTTP\/1\.[01] [1-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*$/;

/** All values of a field. */
export function values(message: Message, name: string): readonly string[] {
  const wanted = name.toLowerCase();
  return message.fields.filter(([key]) => key.toLowerCase() === wanted).map(([, value]) => value);
}

export function statusOf(message: Message): number {
  return Number(message.start.slice(9, 12));
}

/** Reads what one side of a connection says, piece by piece. */
export class WireReader {
  /** Complete ones, and the one that is being read as the last. */
  readonly messages: Message[] = [];
  /** Why it could not be read on; nothing behind it is read. */
  fault: string | null = null;
  /** What came behind a 101. */
  tunnel: string | null = null;
  raw = '';
  readonly #kind: 'request' | 'answer';
  readonly #lenient: boolean;
  /** Says of the nth final answer that it belongs to a HEAD. */
  readonly #toHead: (final: number) => boolean;
  #text = '';
  #finals = 0;
  #left = 0;
  #chunk: 'size' | 'data' | 'trailers' = 'size';
  readonly onHead: (message: Message) => void;
  readonly onComplete: (message: Message) => void;

  constructor(
    kind: 'request' | 'answer',
    {
      toHead = () => false,
      onHead = () => {},
      onComplete = () => {},
      reading = 'strict',
    }: Partial<ReaderOptions> = {},
  ) {
    this.#kind = kind;
    this.#lenient = reading === 'lenient';
    this.#toHead = toHead;
    this.onHead = onHead;
    this.onComplete = onComplete;
  }

  /** The message whose head came and whose end did not; null where there is none. */
  get partial(): Message | null {
    const last = this.messages.at(-1);
    return last === undefined || last.complete ? null : last;
  }

  /** Bytes that make no head yet. */
  get rest(): string {
    return this.partial === null ? this.#text : '';
  }

  feed(bytes: Buffer): void {
    const text = bytes.toString('latin1');
    this.raw += text;
    if (this.tunnel !== null) {
      this.tunnel += text;
      return;
    }
    this.#text += text;
    try {
      while (this.fault === null && this.#step());
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      this.fault = error.message;
    }
  }

  /** The side ended: what lasts until then is whole. */
  ended(): void {
    const { partial } = this;
    if (partial?.framing === 'close') this.#complete(partial);
  }

  #step(): boolean {
    const { partial } = this;
    if (partial === null) return this.#head();
    switch (partial.framing) {
      case 'length':
        return this.#length(partial);
      case 'chunked':
        return this.#chunked(partial);
      default:
        partial.body += this.#text;
        this.#text = '';
        return false;
    }
  }

  #head(): boolean {
    const end = this.#text.indexOf('\r\n\r\n');
    const head = end < 0 ? this.#text : this.#text.slice(0, end + 4);
    if (BARE.test(head)) throw new Fault(`bare CR, LF or NUL: ${JSON.stringify(head.slice(0, 200))}`);
    if (end < 0) return false;
    const [start = '', ...lines] = this.#text.slice(0, end).split('\r\n');
    this.#text = this.#text.slice(end + 4);
    const [request, status] = this.#lenient
      ? [LENIENT_REQUEST_LINE, LENIENT_STATUS_LINE]
      : [REQUEST_LINE, STATUS_LINE];
    const pattern = this.#kind === 'request' ? request : status;
    if (!pattern.test(start)) throw new Fault(`start line: ${JSON.stringify(start)}`);
    const fields = lines.map((line) => readField(line, this.#lenient));
    const message: Message = { start, fields, framing: 'none', body: '', trailers: [], complete: false };
    const framing = this.#framing(message);
    this.messages.push({ ...message, framing });
    this.#chunk = 'size';
    const pushed = this.messages.at(-1) as Message;
    this.onHead(pushed);
    if (framing === 'none' || (framing === 'length' && this.#left === 0)) this.#complete(pushed);
    if (framing === 'tunnel') {
      this.#complete(pushed);
      this.tunnel = this.#text;
      return false;
    }
    return true;
  }

  #framing(message: Message): Message['framing'] {
    const lengths = values(message, 'content-length');
    const codings = values(message, 'transfer-encoding');
    if (lengths.length + codings.length > 1) throw new Fault(`framed twice: ${message.start}`);
    const [length = null] = lengths;
    const [coding = null] = codings;
    const canonical = this.#lenient ? /^[0-9]{1,19}$/ : /^(?:0|[1-9][0-9]{0,15})$/;
    if (length !== null && !canonical.test(length)) throw new Fault(`Content-Length: ${length}`);
    if (coding !== null && coding.toLowerCase() !== 'chunked')
      throw new Fault(`Transfer-Encoding: ${coding}`);
    this.#left = Number(length ?? 0);
    if (this.#kind === 'request') {
      const hosts = values(message, 'host').length;
      // RFC 9112 §3.2: 1.0 asks for none.
      const none = this.#lenient && hosts === 0 && message.start.endsWith('HTTP/1.0');
      if (hosts !== 1 && !none) throw new Fault(`no or two Hosts: ${message.start}`);
      return coding !== null ? 'chunked' : length !== null ? 'length' : 'none';
    }
    const status = statusOf(message);
    if (status === 101) return 'tunnel';
    if (status < 200 || status === 204) {
      if (length !== null || coding !== null) throw new Fault(`framing in a ${status}`);
      return 'none';
    }
    const toHead = this.#toHead(this.#finals++);
    if (toHead || status === 304) return 'none';
    return coding !== null ? 'chunked' : length !== null ? 'length' : 'close';
  }

  #length(message: Message): boolean {
    const piece = this.#text.slice(0, this.#left);
    this.#text = this.#text.slice(piece.length);
    this.#left -= piece.length;
    message.body += piece;
    if (this.#left > 0) return false;
    this.#complete(message);
    return true;
  }

  #chunked(message: Message): boolean {
    if (this.#chunk === 'data') return this.#chunkData(message);
    const end = this.#text.indexOf('\r\n');
    const line = end < 0 ? this.#text : this.#text.slice(0, end);
    if (/[\r\n\0]/.test(end < 0 ? line.replace(/\r$/, '') : line))
      throw new Fault('a control byte in a chunk line');
    if (end < 0) return false;
    this.#text = this.#text.slice(end + 2);
    if (this.#chunk === 'size') {
      if (!/^[0-9a-fA-F]{1,13}$/.test(line)) throw new Fault(`chunk line: ${JSON.stringify(line)}`);
      this.#left = Number.parseInt(line, 16);
      this.#chunk = this.#left === 0 ? 'trailers' : 'data';
      return true;
    }
    if (line === '') {
      this.#complete(message);
      return true;
    }
    readField(line, this.#lenient);
    message.trailers = [...message.trailers, line];
    return true;
  }

  #chunkData(message: Message): boolean {
    const piece = this.#text.slice(0, this.#left);
    this.#text = this.#text.slice(piece.length);
    this.#left -= piece.length;
    message.body += piece;
    if (this.#left > 0 || this.#text.length < 2) return false;
    if (!this.#text.startsWith('\r\n')) throw new Fault('no CRLF behind the data of a chunk');
    this.#text = this.#text.slice(2);
    this.#chunk = 'size';
    return true;
  }

  #complete(message: Message): void {
    message.complete = true;
    this.onComplete(message);
  }
}

interface ReaderOptions {
  readonly toHead: (final: number) => boolean;
  readonly onHead: (message: Message) => void;
  readonly onComplete: (message: Message) => void;
  readonly reading: Reading;
}

class Fault extends Error {}

function readField(line: string, lenient: boolean): readonly [string, string] {
  const match = (lenient ? LENIENT_FIELD : FIELD).exec(line);
  if (match === null) throw new Fault(`field line: ${JSON.stringify(line)}`);
  return [match[1] ?? '', match[2] ?? ''];
}
