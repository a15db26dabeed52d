/** HTTP/2 spoken frame by frame, so that tests can say what no library would. */
import type { Test } from 'tap';
import { open, type Peer } from '../e2e/harness/clients.ts';
import { PATIENCE } from '../e2e/harness/wait.ts';

export const TYPE = {
  DATA: 0,
  HEADERS: 1,
  PRIORITY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PUSH_PROMISE: 5,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;
export const END_STREAM = 1;
export const ACK = 1;
export const END_HEADERS = 4;

export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

/** RFC 9113 §4.1. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Buffer | string = Buffer.alloc(0),
): Buffer {
  const body = Buffer.from(payload);
  const head = Buffer.alloc(9);
  head.writeUIntBE(body.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, body]);
}

/** The whole frames that these bytes begin with. */
export function framesOf(bytes: Buffer): readonly Frame[] {
  const frames: Frame[] = [];
  for (let at = 0; at + 9 <= bytes.length; ) {
    const end = at + 9 + bytes.readUIntBE(at, 3);
    if (end > bytes.length) break;
    frames.push({
      type: bytes[at + 3] ?? 0,
      flags: bytes[at + 4] ?? 0,
      stream: bytes.readUInt32BE(at + 5) & 0x7fff_ffff,
      payload: bytes.subarray(at + 9, end),
    });
    at = end;
  }
  return frames;
}

/** RFC 7541 §6.2.2: literals without indexing or Huffman, names as they are given. */
export function block(fields: readonly (readonly [name: string, value: string])[]): Buffer {
  const parts = fields.map(([name, value]) => [Buffer.of(0), ...text(name), ...text(value)]);
  return Buffer.concat(parts.flat());
}

/** RFC 7541 §5.1 and §5.2. */
function text(value: string): Buffer[] {
  const bytes = Buffer.from(value, 'latin1');
  const length: number[] = [];
  if (bytes.length < 127) length.push(bytes.length);
  else {
    length.push(127);
    let rest = bytes.length - 127;
    for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128);
    length.push(rest);
  }
  return [Buffer.from(length), bytes];
}

export const GET: readonly (readonly [string, string])[] = [
  [':method', 'GET'],
  [':scheme', 'http'],
  [':authority', 'orders'],
  [':path', '/'],
];

/** One end of a connection: what it says, and what it has heard. */
export class FrameEnd {
  readonly peer: Peer;
  #read: number;
  readonly frames: Frame[] = [];

  /** @param skip octets that come before the first frame: the preface of a client */
  constructor(peer: Peer, skip: number) {
    this.peer = peer;
    this.#read = skip;
  }

  say(...frames: readonly Buffer[]): void {
    this.peer.write(Buffer.concat(frames));
  }

  /** The first frame of that type, on that stream where one is named, waiting for it. */
  next(type: number, stream?: number): Promise<Frame> {
    const wanted = (one: Frame): boolean =>
      one.type === type && (stream === undefined || one.stream === stream);
    return this.first(`a frame of type ${type}`, wanted);
  }

  /** The first frame that is as `wanted`, waiting for it. */
  async first(what: string, wanted: (frame: Frame) => boolean): Promise<Frame> {
    const find = (): Frame | undefined => this.#parse().find(wanted);
    await this.peer.until(what, () => find() !== undefined, PATIENCE);
    return find() as Frame;
  }

  /** The code of the RST_STREAM that a stream gets. */
  async reset(stream: number): Promise<number> {
    return (await this.next(TYPE.RST_STREAM, stream)).payload.readUInt32BE(0);
  }

  /** The code that the connection ends with. */
  async goaway(): Promise<number> {
    return (await this.next(TYPE.GOAWAY)).payload.readUInt32BE(4);
  }

  #parse(): readonly Frame[] {
    for (const one of framesOf(this.peer.received.subarray(this.#read))) {
      this.frames.push(one);
      this.#read += 9 + one.payload.length;
    }
    return this.frames;
  }
}

/** A client whose preface and SETTINGS have been said. */
export class FrameClient extends FrameEnd {
  constructor(peer: Peer) {
    super(peer, 0);
    this.say(PREFACE, frame(TYPE.SETTINGS, 0, 0));
  }

  /** A whole request in one HEADERS frame. */
  request(
    stream: number,
    fields: readonly (readonly [string, string])[] = GET,
    flags = END_STREAM | END_HEADERS,
  ): void {
    this.say(frame(TYPE.HEADERS, flags, stream, block(fields)));
  }

  /** The status that a stream is answered with. */
  async status(stream: number): Promise<number> {
    return statusOf((await this.next(TYPE.HEADERS, stream)).payload);
  }
}

export async function frameClient(t: Test, port: number): Promise<FrameClient> {
  return new FrameClient(await open(t, port));
}

const STATIC = new Map([200, 204, 206, 304, 400, 404, 500].map((status, i) => [0x88 + i, status]));

/** A dynamic table size update to 0 (RFC 7541 §6.3): before the fields of those who use no table. */
const NO_TABLE = 0x20;

/** `:status`, which comes first: of the static table, or a literal of digits (RFC 7541 §5.2, appendix B). */
function statusOf(block: Buffer): number {
  const payload = block[0] === NO_TABLE ? block.subarray(1) : block;
  const [first = 0, length = 0] = payload;
  const known = STATIC.get(first);
  if (known !== undefined) return known;
  const value = payload.subarray(2, 2 + (length & 127));
  if ((length & 128) === 0) return Number(value.toString('latin1'));
  const bits = [...value].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  let digits = '';
  for (let at = 0; digits.length < 3; ) {
    const short = Number.parseInt(bits.slice(at, at + 5), 2);
    if (short < 3) {
      digits += short;
      at += 5;
    } else {
      digits += Number.parseInt(bits.slice(at, at + 6), 2) - 22;
      at += 6;
    }
  }
  return Number(digits);
}
