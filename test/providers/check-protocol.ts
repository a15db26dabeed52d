/** Envoy's check messages as plain objects, read and written by tables of field numbers: the other end of our own code. */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';

/** A protobuf message as JSON: absent fields are absent. */
export type Message = { [name: string]: unknown };

type Kind = 'string' | 'bytes' | 'int64' | 'uint32' | 'bool' | 'map' | Shape;
interface Field {
  readonly name: string;
  readonly kind: Kind;
  readonly many?: boolean;
}
type Shape = { readonly [number: number]: Field };

// envoy/service/auth/v3/attribute_context.proto
const peer: Shape = {
  1: {
    name: 'address',
    kind: {
      1: {
        name: 'socket_address',
        kind: { 2: { name: 'address', kind: 'string' }, 3: { name: 'port_value', kind: 'uint32' } },
      },
    },
  },
  2: { name: 'service', kind: 'string' },
  3: { name: 'labels', kind: 'map' },
  4: { name: 'principal', kind: 'string' },
  5: { name: 'certificate', kind: 'string' },
};
const timestamp: Shape = { 1: { name: 'seconds', kind: 'int64' }, 2: { name: 'nanos', kind: 'int64' } };
const http: Shape = {
  1: { name: 'id', kind: 'string' },
  2: { name: 'method', kind: 'string' },
  3: { name: 'headers', kind: 'map' },
  4: { name: 'path', kind: 'string' },
  5: { name: 'host', kind: 'string' },
  6: { name: 'scheme', kind: 'string' },
  7: { name: 'query', kind: 'string' },
  8: { name: 'fragment', kind: 'string' },
  9: { name: 'size', kind: 'int64' },
  10: { name: 'protocol', kind: 'string' },
  11: { name: 'body', kind: 'string' },
  12: { name: 'raw_body', kind: 'bytes' },
};
const checkRequest: Shape = {
  1: {
    name: 'attributes',
    kind: {
      1: { name: 'source', kind: peer },
      2: { name: 'destination', kind: peer },
      4: {
        name: 'request',
        kind: { 1: { name: 'time', kind: timestamp }, 2: { name: 'http', kind: http } },
      },
      10: { name: 'context_extensions', kind: 'map' },
      11: { name: 'metadata_context', kind: {} },
      12: { name: 'tls_session', kind: { 1: { name: 'sni', kind: 'string' } } },
      13: { name: 'route_metadata_context', kind: {} },
    },
  },
};

// envoy/service/auth/v3/external_auth.proto, envoy/config/core/v3/base.proto
const headerOption: Shape = {
  1: {
    name: 'header',
    kind: {
      1: { name: 'key', kind: 'string' },
      2: { name: 'value', kind: 'string' },
      3: { name: 'raw_value', kind: 'bytes' },
    },
  },
  2: { name: 'append', kind: { 1: { name: 'value', kind: 'bool' } } },
  3: { name: 'append_action', kind: 'uint32' },
  4: { name: 'keep_empty_value', kind: 'bool' },
};
const denied: Shape = {
  1: { name: 'status', kind: { 1: { name: 'code', kind: 'uint32' } } },
  2: { name: 'headers', kind: headerOption, many: true },
  3: { name: 'body', kind: 'string' },
};
const checkResponse: Shape = {
  1: {
    name: 'status',
    kind: { 1: { name: 'code', kind: 'uint32' }, 2: { name: 'message', kind: 'string' } },
  },
  2: { name: 'denied_response', kind: denied },
  3: {
    name: 'ok_response',
    kind: {
      2: { name: 'headers', kind: headerOption, many: true },
      5: { name: 'headers_to_remove', kind: 'string', many: true },
      6: { name: 'response_headers_to_add', kind: headerOption, many: true },
      7: {
        name: 'query_parameters_to_set',
        kind: { 1: { name: 'key', kind: 'string' }, 2: { name: 'value', kind: 'string' } },
        many: true,
      },
      8: { name: 'query_parameters_to_remove', kind: 'string', many: true },
    },
  },
  5: { name: 'error_response', kind: denied },
};

function decode(shape: Shape, reader: BinaryReader, end: number): Message {
  const message: Message = {};
  while (reader.pos < end) {
    const [number, wireType] = reader.tag();
    const field = shape[number];
    if (field === undefined) {
      reader.skip(wireType, number);
      message[`field${number}`] = 'unknown';
    } else if (field.kind === 'map') {
      const entryEnd = reader.uint32() + reader.pos;
      const { 1: key, 2: value } = decodePair(reader, entryEnd);
      message[field.name] = { ...(message[field.name] as object), [key]: value };
    } else {
      message[field.name] = decodeValue(field.kind, reader);
    }
  }
  return message;
}

function decodePair(reader: BinaryReader, end: number): { 1: string; 2: string } {
  const pair = { 1: '', 2: '' };
  while (reader.pos < end) {
    const [number] = reader.tag();
    pair[number as 1 | 2] = reader.string();
  }
  return pair;
}

function decodeValue(kind: Exclude<Kind, 'map'>, reader: BinaryReader): unknown {
  if (kind === 'string') return reader.string();
  if (kind === 'bytes') return Buffer.from(reader.bytes()).toString('latin1');
  if (kind === 'int64') return Number(reader.int64());
  if (kind === 'uint32') return reader.uint32();
  if (kind === 'bool') return reader.bool();
  const end = reader.uint32() + reader.pos;
  return decode(kind, reader, end);
}

function encode(shape: Shape, message: Message, writer: BinaryWriter): BinaryWriter {
  for (const [number, { name, kind }] of Object.entries(shape)) {
    const value = message[name];
    if (value === undefined) continue;
    for (const item of Array.isArray(value) ? value : [value])
      encodeValue(Number(number), kind, item, writer);
  }
  return writer;
}

function encodeValue(number: number, kind: Kind, value: unknown, writer: BinaryWriter): void {
  if (kind === 'string') writer.tag(number, WireType.LengthDelimited).string(value as string);
  else if (kind === 'bytes')
    writer.tag(number, WireType.LengthDelimited).bytes(Buffer.from(value as string, 'latin1'));
  else if (kind === 'uint32') writer.tag(number, WireType.Varint).uint32(value as number);
  else if (kind === 'bool') writer.tag(number, WireType.Varint).bool(value as boolean);
  else if (typeof kind === 'object')
    encode(kind, value as Message, writer.tag(number, WireType.LengthDelimited).fork()).join();
  else throw new Error(`no test writes a ${kind}`);
}

export function decodeCheckRequest(bytes: Uint8Array): Message {
  const reader = new BinaryReader(bytes);
  return decode(checkRequest, reader, reader.len);
}

export function encodeCheckResponse(message: Message): Buffer {
  return Buffer.from(encode(checkResponse, message, new BinaryWriter()).finish());
}
