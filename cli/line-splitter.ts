/** Cuts a stream of bytes into lines of text, holding no more than one line that has not ended yet. */
import { isUtf8 } from 'node:buffer';

const LF = 0x0a;
const BYTE_ORDER_MARK = '\ufeff';
const FIRST_ROOM = 4_096;

/** A line that is no text: what was wrong with it. */
export interface BadLine {
  readonly fault: string;
}

export class LineSplitter {
  readonly #maxBytes: number;
  /** The line that has not ended, in a buffer that grows as it does. */
  #room = Buffer.alloc(FIRST_ROOM);
  #length = 0;
  /** The line that has not ended is longer than it may be: its bytes are dropped. */
  #tooLong = false;
  #first = true;

  /** @param maxBytes of one line, its end not counted */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Takes the next bytes. @returns the lines they end, without `\n`; a `\r` before it is left for JSON to skip */
  push(chunk: Buffer): readonly (string | BadLine)[] {
    const lines: (string | BadLine)[] = [];
    let start = 0;
    if (this.#length > 0 || this.#tooLong) {
      const end = chunk.indexOf(LF);
      this.#keep(chunk, 0, end < 0 ? chunk.length : end);
      if (end < 0) return lines;
      lines.push(this.#take());
      start = end + 1;
    }
    const last = chunk.lastIndexOf(LF);
    if (last >= start) {
      this.#cut(chunk.subarray(start, last), lines);
      start = last + 1;
    }
    this.#keep(chunk, start, chunk.length);
    return lines;
  }

  /** The last line, where the stream did not end with a line's end. */
  end(): readonly (string | BadLine)[] {
    return this.#length > 0 || this.#tooLong ? [this.#take()] : [];
  }

  /** Whole lines at once: decoding and splitting are cheap in bulk. */
  #cut(block: Buffer, lines: (string | BadLine)[]): void {
    if (block.length <= this.#maxBytes && isUtf8(block)) {
      for (const line of block.toString('utf8').split('\n')) lines.push(this.#withoutMark(line));
      return;
    }
    let start = 0;
    while (start <= block.length) {
      const end = block.indexOf(LF, start);
      const stop = end < 0 ? block.length : end;
      lines.push(this.#text(block.subarray(start, stop)));
      start = stop + 1;
    }
  }

  #text(bytes: Buffer): string | BadLine {
    if (bytes.length > this.#maxBytes) {
      return { fault: `the line is longer than ${this.#maxBytes} bytes` };
    }
    if (!isUtf8(bytes)) return { fault: 'the line is not UTF-8' };
    return this.#withoutMark(bytes.toString('utf8'));
  }

  #withoutMark(line: string): string {
    const first = this.#first;
    this.#first = false;
    return first && line.startsWith(BYTE_ORDER_MARK) ? line.slice(1) : line;
  }

  #keep(chunk: Buffer, start: number, end: number): void {
    const length = this.#length + end - start;
    // One byte more than a line may have is kept, so that `#text` sees that it is too long.
    if (this.#tooLong || length > this.#maxBytes + 1) {
      this.#tooLong = true;
      this.#length = 0;
      return;
    }
    if (length > this.#room.length) {
      const room = Buffer.alloc(Math.max(length, this.#room.length * 2));
      this.#room.copy(room, 0, 0, this.#length);
      this.#room = room;
    }
    chunk.copy(this.#room, this.#length, start, end);
    this.#length = length;
  }

  #take(): string | BadLine {
    const bytes = this.#tooLong ? null : this.#room.subarray(0, this.#length);
    this.#length = 0;
    this.#tooLong = false;
    return bytes === null ? { fault: `the line is longer than ${this.#maxBytes} bytes` } : this.#text(bytes);
  }
}
