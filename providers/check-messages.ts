/** The messages of Envoy's check API on the wire (envoy/service/auth/v3 external_auth.proto, attribute_context.proto). */
import { isUtf8 } from 'node:buffer';
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import type { CheckRequest } from '../mesh/ext-authz.ts';
import { checkedFields, SERVICE_CLUSTER } from './check-fields.ts';
import { cleanBytes, cleanLatin1 } from './check-text.ts';
import type { Question } from './ext-authz-asker.ts';

type Request = NonNullable<CheckRequest['request']>;

/** Full method name. */
export const CHECK = '/envoy.service.auth.v3.Authorization/Check';

/** HeaderValue and QueryParameter. `raw_value` is not heeded, as by Envoy here. Strings with one character a byte. */
export interface Pair {
  readonly key: string;
  readonly value: string;
}

/** HeaderValueOption (envoy/config/core/v3/base.proto). */
export interface HeaderOption extends Pair {
  /** Field 2, deprecated but alive; null: not given. */
  readonly append: boolean | null;
  /** Field 3, HeaderAppendAction; 0: APPEND_IF_EXISTS_OR_ADD. */
  readonly action: number;
}

/** DeniedHttpResponse; status 0: not given. */
export interface DeniedResponse {
  readonly status: number;
  readonly headers: readonly HeaderOption[];
  readonly body: Uint8Array;
}

/** OkHttpResponse. */
export interface OkResponse {
  readonly headers: readonly HeaderOption[];
  readonly headersToRemove: readonly string[];
  readonly responseHeadersToAdd: readonly HeaderOption[];
  readonly queryToSet: readonly Pair[];
  readonly queryToRemove: readonly string[];
}

/** CheckResponse. */
export interface CheckResponse {
  /** google.rpc.Code; 0: OK, also where no status is given. */
  readonly code: number;
  readonly denied: DeniedResponse | null;
  readonly ok: OkResponse | null;
  readonly error: DeniedResponse | null;
}

/** CheckRequest as Envoy fills it with the filter that istiod generates: no certificate, no TLS session, no metadata. */
export function encodeCheckRequest(question: Question): Uint8Array {
  const { connection, request, ownIdentity, sourcePort } = question.check;
  const service = request?.fields.find(({ name }) => name === SERVICE_CLUSTER)?.value ?? '';
  const source = {
    address: connection.remoteIp,
    port: sourcePort,
    service,
    principal: connection.peer?.uri ?? '',
  };
  const destination = {
    address: connection.destinationIp,
    port: connection.destinationPort,
    // For a TCP connection the destination's name is the server name it asked for.
    service: request === null ? (connection.sni?.toLowerCase() ?? '') : '',
    principal: ownIdentity ?? '',
  };
  const writer = new BinaryWriter();
  writer.tag(1, WireType.LengthDelimited).fork();
  writePeer(writer, 1, source);
  writePeer(writer, 2, destination);
  if (request !== null) writeRequest(writer, question, request);
  // Envoy always has both there, empty where its filter names no metadata; a connection has no route.
  writer.tag(11, WireType.LengthDelimited).fork().join();
  if (request !== null) writer.tag(13, WireType.LengthDelimited).fork().join();
  return writer.join().finish();
}

interface Peer {
  readonly address: string;
  readonly port: number;
  readonly service: string;
  readonly principal: string;
}

function writePeer(writer: BinaryWriter, field: number, { address, port, service, principal }: Peer): void {
  writer.tag(field, WireType.LengthDelimited).fork();
  // Address.socket_address
  writer.tag(1, WireType.LengthDelimited).fork().tag(1, WireType.LengthDelimited).fork();
  writeText(writer, 2, address);
  if (port !== 0) writer.tag(3, WireType.Varint).uint32(port);
  writer.join().join();
  writeText(writer, 2, service);
  writeText(writer, 4, principal);
  writer.join();
}

function writeRequest(writer: BinaryWriter, { provider, now, id }: Question, request: Request): void {
  writer.tag(4, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.Varint).int64(Math.floor(now / 1000));
  writer
    .tag(2, WireType.Varint)
    .int32((now % 1000) * 1_000_000)
    .join();
  writer.tag(2, WireType.LengthDelimited).fork();
  writeText(writer, 1, id);
  writeText(writer, 2, request.method);
  for (const [name, value] of checkedFields(request)) {
    writer.tag(3, WireType.LengthDelimited).fork();
    writeText(writer, 1, name);
    writeText(writer, 2, value);
    writer.join();
  }
  writeText(writer, 4, request.path);
  writeText(writer, 5, request.host);
  writeText(writer, 6, request.scheme);
  const size = seenBytes(request);
  if (size > 0) writer.tag(9, WireType.Varint).int64(size);
  writeText(writer, 10, request.protocol);
  const { body } = request;
  if (body !== null && body.length > 0) {
    const packed = provider.requestBody?.packAsBytes === true;
    writer.tag(packed ? 12 : 11, WireType.LengthDelimited).bytes(packed ? body : cleanBytes(body));
  }
  writer.join().join();
}

/** Bytes of the body that had come when the question was put: none where it is not waited for. */
function seenBytes({ body, bodySize }: Request): number {
  return body === null ? 0 : Math.max(body.length, bodySize);
}

/** A string with one character a byte, absent where it is empty. */
function writeText(writer: BinaryWriter, field: number, text: string): void {
  if (text !== '')
    writer.tag(field, WireType.LengthDelimited).bytes(Buffer.from(cleanLatin1(text), 'latin1'));
}

/** @throws Error on bytes that are no protobuf message. */
export function decodeCheckResponse(bytes: Uint8Array): CheckResponse {
  let code = 0;
  let denied: DeniedResponse | null = null;
  let ok: OkResponse | null = null;
  let error: DeniedResponse | null = null;
  readFields(bytes, (field, value) => {
    if (field === 1) code = readNumber(value);
    // One of three: the last one given counts.
    else if (field === 2) [denied, ok, error] = [readDenied(value), null, null];
    else if (field === 3) [denied, ok, error] = [null, readOk(value), null];
    else if (field === 5) [denied, ok, error] = [null, null, readDenied(value)];
  });
  return { code, denied, ok, error };
}

function readDenied(bytes: Uint8Array): DeniedResponse {
  let status = 0;
  let body: Uint8Array = new Uint8Array();
  const headers: HeaderOption[] = [];
  readFields(bytes, (field, value) => {
    if (field === 1) status = readNumber(value);
    else if (field === 2) headers.push(readHeaderOption(value));
    else if (field === 3) body = utf8(value);
  });
  return { status, headers, body };
}

function readOk(bytes: Uint8Array): OkResponse {
  const headers: HeaderOption[] = [];
  const headersToRemove: string[] = [];
  const responseHeadersToAdd: HeaderOption[] = [];
  const queryToSet: Pair[] = [];
  const queryToRemove: string[] = [];
  readFields(bytes, (field, value) => {
    if (field === 2) headers.push(readHeaderOption(value));
    else if (field === 5) headersToRemove.push(readText(value));
    else if (field === 6) responseHeadersToAdd.push(readHeaderOption(value));
    else if (field === 7) queryToSet.push(readPair(value));
    else if (field === 8) queryToRemove.push(readText(value));
  });
  return { headers, headersToRemove, responseHeadersToAdd, queryToSet, queryToRemove };
}

function readHeaderOption(bytes: Uint8Array): HeaderOption {
  let pair: Pair = { key: '', value: '' };
  let append: boolean | null = null;
  let action = 0;
  readFields(
    bytes,
    (field, value) => {
      if (field === 1) pair = readPair(value);
      else if (field === 2) append = readNumber(value) !== 0;
    },
    (field, value) => {
      if (field === 3) action = value;
    },
  );
  return { ...pair, append, action };
}

function readPair(bytes: Uint8Array): Pair {
  let key = '';
  let value = '';
  readFields(bytes, (field, text) => {
    if (field === 1) key = readText(text);
    else if (field === 2) value = readText(text);
  });
  return { key, value };
}

/** The number in field 1: google.rpc.Status, HttpStatus and BoolValue alike. */
function readNumber(bytes: Uint8Array): number {
  let number = 0;
  readFields(bytes, ignore, (field, value) => {
    if (field === 1) number = value;
  });
  return number;
}

/** A proto3 string is UTF-8, or its message none. */
function utf8(bytes: Uint8Array): Uint8Array {
  if (!isUtf8(bytes)) throw new Error('a string in its answer is not UTF-8');
  return bytes;
}

/** With one character a byte, as heads carry it. */
function readText(bytes: Uint8Array): string {
  return Buffer.from(utf8(bytes)).toString('latin1');
}

function ignore(): void {}

/** Goes through a message's fields; those of other types, and those that nobody takes, are passed over. */
function readFields(
  bytes: Uint8Array,
  onBytes: (field: number, value: Uint8Array) => void,
  onNumber: (field: number, value: number) => void = ignore,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (wireType === WireType.LengthDelimited) onBytes(field, reader.bytes());
    else if (wireType === WireType.Varint) onNumber(field, reader.int32());
    else reader.skip(wireType, field);
  }
  // the reader itself does not mind a last field that runs past the end
  if (reader.pos !== reader.len) throw new Error('its answer is cut off');
}
