/** A gRPC probe: grpc.health.v1.Health/Check, whose frames are written here, for grpc-js cannot choose the address it dials from. */

import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from 'node:http2';
import type { Socket } from 'node:net';
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { hostPort } from '../mesh/text.ts';
import { dial, reasonOf, type Target } from './dial.ts';

export interface GrpcAsk extends Target {
  /** '' asks for the server as a whole. */
  readonly service: string;
  /** As the kubelet named itself. */
  readonly userAgent: string;
  readonly timeoutMs: number;
}

/** A HealthCheckResponse is two bytes. */
const MAX_ANSWER = 1_024;
/** A message's head: a byte of flags, and its length in four (gRPC over HTTP/2, Length-Prefixed-Message). */
const PREFIX = 5;
/** health.proto: `ServingStatus`. */
const SERVING = 1;
const STATES = ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'];

/**
 * Asks for the health of a service, without TLS as the kubelet does.
 * @throws Error that says what it answered in place of SERVING, why it did not answer, or the signal's reason
 */
export async function askGrpc(ask: GrpcAsk, signal: AbortSignal): Promise<void> {
  const socket = await dial(ask, signal);
  try {
    const state = servingStatus(messageOf(await call(socket, ask)));
    if (state !== SERVING)
      throw new Error(`the service is ${STATES[state] ?? `in state ${state}`}, not SERVING`);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw error;
  } finally {
    socket.destroy();
  }
}

async function call(socket: Socket, ask: GrpcAsk): Promise<Answer> {
  const { connect } = await import('node:http2');
  const authority = hostPort(ask.host, ask.port);
  const session: ClientHttp2Session = connect(`http://${authority}`, { createConnection: () => socket });
  const answer = new Promise<Answer>((resolve, reject) => {
    session.on('error', reject);
    const stream = session.request({
      ':method': 'POST',
      ':path': '/grpc.health.v1.Health/Check',
      ':authority': authority,
      'content-type': 'application/grpc',
      'user-agent': ask.userAgent,
      'grpc-timeout': `${Math.min(ask.timeoutMs, 99_999_999)}m`,
      te: 'trailers',
    });
    readAnswer(stream).then(resolve, reject);
    stream.end(requestOf(ask.service));
  });
  try {
    return await answer;
  } catch (error) {
    throw new Error(`no gRPC answer: ${reasonOf(error as Error)}`, { cause: error });
  } finally {
    session.destroy();
  }
}

function requestOf(service: string): Buffer {
  const writer = new BinaryWriter();
  if (service !== '') writer.tag(1, WireType.LengthDelimited).string(service);
  const message = writer.finish();
  const frame = Buffer.alloc(PREFIX + message.length);
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, PREFIX);
  return frame;
}

interface Answer {
  readonly head: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** All a stream says until it is closed. */
function readAnswer(stream: ClientHttp2Stream): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let head: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders = {};
    const chunks: Buffer[] = [];
    let size = 0;
    stream.once('response', (fields) => {
      head = fields;
    });
    stream.once('trailers', (fields) => {
      trailers = fields;
    });
    stream.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MAX_ANSWER) stream.destroy(new Error(`the answer is longer than ${MAX_ANSWER} bytes`));
    });
    stream.on('error', reject);
    stream.once('close', () => resolve({ head, trailers, body: Buffer.concat(chunks) }));
  });
}

/** @returns the response message. @throws Error with the call's status where it failed */
function messageOf({ head, trailers, body }: Answer): Buffer {
  // A call that fails at once has its status in the head (Trailers-Only).
  const status = trailers['grpc-status'] ?? head['grpc-status'];
  if (status === undefined) {
    const http = head[':status'];
    throw new Error(
      http === undefined
        ? 'no gRPC answer: the stream was closed'
        : `no gRPC status, HTTP status ${String(http)}`,
    );
  }
  if (status !== '0')
    throw new Error(failure(String(status), trailers['grpc-message'] ?? head['grpc-message']));
  if (body.length < PREFIX || body[0] !== 0 || body.readUInt32BE(1) !== body.length - PREFIX) {
    throw new Error('the answer is no single message without compression');
  }
  return body.subarray(PREFIX);
}

/** gRPC's code 12. */
const UNIMPLEMENTED = '12';

function failure(code: string, message: unknown): string {
  if (code === UNIMPLEMENTED) return 'the server does not implement grpc.health.v1.Health';
  return `gRPC status ${code}${typeof message === 'string' ? `: ${decoded(message)}` : ''}`;
}

/** gRPC's Percent-Encoded; a message that is not well encoded is shown as it is. */
function decoded(message: string): string {
  try {
    return decodeURIComponent(message);
  } catch {
    return message;
  }
}

function servingStatus(message: Buffer): number {
  const reader = new BinaryReader(message);
  let state = 0;
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1 && type === WireType.Varint) state = reader.int32();
    else reader.skip(type, field);
  }
  return state;
}
