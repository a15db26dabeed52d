/** HTTP/2 by its numbers: frame types, flags, settings and error codes (RFC 9113 §6, §7, §11). */

/** Octets before each frame's payload: length, type, flags, stream (§4.1). */
export const FRAME_HEADER = 9;
/** What SETTINGS_MAX_FRAME_SIZE is where nobody says otherwise, and the least that it may be (§6.5.2). */
export const MAX_FRAME = 16_384;
/** Flow-control windows begin at this (§6.9.2), and never exceed that (§6.9.1). */
export const INITIAL_WINDOW = 65_535;
export const MAX_WINDOW = 0x7fff_ffff;

export const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';

export const frameType = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

export const flag = { ack: 0x1, endStream: 0x1, endHeaders: 0x4, padded: 0x8, priority: 0x20 } as const;

export const setting = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
} as const;

export const errorCode = {
  NO_ERROR: 0,
  PROTOCOL_ERROR: 1,
  INTERNAL_ERROR: 2,
  FLOW_CONTROL_ERROR: 3,
  SETTINGS_TIMEOUT: 4,
  STREAM_CLOSED: 5,
  FRAME_SIZE_ERROR: 6,
  REFUSED_STREAM: 7,
  CANCEL: 8,
  COMPRESSION_ERROR: 9,
  CONNECT_ERROR: 10,
  ENHANCE_YOUR_CALM: 11,
  INADEQUATE_SECURITY: 12,
  HTTP_1_1_REQUIRED: 13,
} as const;

export type ErrorName = keyof typeof errorCode;

const names = Object.keys(errorCode) as readonly ErrorName[];

/** The name of a code as it came; a number where nobody knows it. */
export function errorName(code: number): string {
  return names[code] ?? `code ${code}`;
}

/** What ends a whole connection: a GOAWAY with this code (§5.4.1). */
export class ConnectionFault extends Error {
  readonly code: ErrorName;

  constructor(code: ErrorName, detail: string) {
    super(`${code}: ${detail}`);
    this.code = code;
  }
}

/** A frame's header and room for its payload of `length` octets. */
export function frame(type: number, flags: number, stream: number, length: number): Buffer {
  const bytes = Buffer.alloc(FRAME_HEADER + length);
  bytes.writeUIntBE(length, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(stream, 5);
  return bytes;
}

/** @param values pairs of setting and value */
export function settingsFrame(values: readonly (readonly [setting: number, value: number])[]): Buffer {
  const bytes = frame(frameType.settings, 0, 0, 6 * values.length);
  values.forEach(([name, value], i) => {
    bytes.writeUInt16BE(name, FRAME_HEADER + 6 * i);
    bytes.writeUInt32BE(value, FRAME_HEADER + 6 * i + 2);
  });
  return bytes;
}

export function windowUpdateFrame(stream: number, octets: number): Buffer {
  const bytes = frame(frameType.windowUpdate, 0, stream, 4);
  bytes.writeUInt32BE(octets, FRAME_HEADER);
  return bytes;
}

export function rstStreamFrame(stream: number, code: ErrorName): Buffer {
  const bytes = frame(frameType.rstStream, 0, stream, 4);
  bytes.writeUInt32BE(errorCode[code], FRAME_HEADER);
  return bytes;
}

export function goawayFrame(lastStream: number, code: ErrorName, detail: string): Buffer {
  const text = Buffer.from(detail, 'latin1');
  const bytes = frame(frameType.goaway, 0, 0, 8 + text.length);
  bytes.writeUInt32BE(lastStream, FRAME_HEADER);
  bytes.writeUInt32BE(errorCode[code], FRAME_HEADER + 4);
  text.copy(bytes, FRAME_HEADER + 8);
  return bytes;
}

export function pingFrame(opaque: Buffer, ack: boolean): Buffer {
  const bytes = frame(frameType.ping, ack ? flag.ack : 0, 0, 8);
  opaque.copy(bytes, FRAME_HEADER, 0, 8);
  return bytes;
}

/** One HEADERS frame, and CONTINUATION where the block is longer than a frame (§6.2, §6.10). */
export function headersFrames(stream: number, block: Buffer, end: boolean): Buffer {
  const frames: Buffer[] = [];
  for (let at = 0; at === 0 || at < block.length; at += MAX_FRAME) {
    const piece = block.subarray(at, at + MAX_FRAME);
    const last = at + MAX_FRAME >= block.length ? flag.endHeaders : 0;
    const type = at === 0 ? frameType.headers : frameType.continuation;
    const ends = at === 0 && end ? flag.endStream : 0;
    const bytes = frame(type, ends | last, stream, piece.length);
    piece.copy(bytes, FRAME_HEADER);
    frames.push(bytes);
  }
  return Buffer.concat(frames);
}
