/** A gRPC app and its client over plain bytes, real `@grpc/grpc-js` on both ends. */
import {
  type ChannelCredentials,
  Client,
  type ClientOptions,
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from '@grpc/grpc-js';
import type { Test } from 'tap';
import { within } from './wait.ts';

const bytes = (value: Buffer): Buffer => value;

function method(name: string, requestStream: boolean, responseStream: boolean) {
  return {
    path: `/test.Echo/${name}`,
    requestStream,
    responseStream,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  };
}

export const service = {
  /** The message back; metadata `x-fail: CODE` makes it fail so, `x-wait` never answers. */
  Unary: method('Unary', false, false),
  /** Answers with how many bytes came in how many messages. */
  Collect: method('Collect', true, false),
  /** `N SIZE`: N messages of that size. */
  Spread: method('Spread', false, true),
  /** Reads nothing. */
  Sleep: method('Sleep', true, false),
  /** Each message back. */
  Chat: method('Chat', true, true),
};

export interface GrpcApp {
  readonly port: number;
  /** What it saw of calls, in order: `cancelled`, metadata of the last call. */
  readonly seen: { calls: number; cancelled: number; sent: number; metadata: Metadata | null };
  readonly server: Server;
}

type Ping = Buffer;

export async function grpcApp(t: Test): Promise<GrpcApp> {
  const server = new Server({
    'grpc.max_receive_message_length': 64 << 20,
    'grpc.max_send_message_length': 64 << 20,
  });
  const seen: GrpcApp['seen'] = { calls: 0, cancelled: 0, sent: 0, metadata: null };
  const note = (call: { metadata: Metadata; on(event: 'cancelled', then: () => void): unknown }): void => {
    seen.calls++;
    seen.metadata = call.metadata;
    call.on('cancelled', () => {
      seen.cancelled++;
    });
  };
  server.addService(service, {
    Unary(call: ServerUnaryCall<Ping, Ping>, done: sendUnaryData<Ping>) {
      note(call);
      const [fail] = call.metadata.get('x-fail');
      const head = new Metadata();
      head.set('x-head', 'h');
      call.sendMetadata(head);
      const trailers = new Metadata();
      trailers.set('x-tail', 't');
      trailers.set('x-tail-bin', Buffer.from([0, 255]));
      if (call.metadata.get('x-wait').length > 0) return;
      if (fail !== undefined) done({ code: Number(fail), details: 'as you wish: ü %', metadata: trailers });
      else done(null, call.request, trailers);
    },
    Collect(call: ServerReadableStream<Ping, Ping>, done: sendUnaryData<Ping>) {
      note(call);
      let messages = 0;
      let length = 0;
      call.on('data', (message: Buffer) => {
        messages++;
        length += message.length;
      });
      call.on('end', () => done(null, Buffer.from(`${messages} ${length}`)));
    },
    Sleep(call: ServerReadableStream<Ping, Ping>) {
      note(call);
    },
    Spread(call: ServerWritableStream<Ping, Ping>) {
      note(call);
      const [count = 0, size = 0] = call.request.toString().split(' ').map(Number);
      let left = count;
      const more = (): void => {
        while (left-- > 0) {
          seen.sent++;
          if (!call.write(Buffer.alloc(size, left % 256))) {
            call.once('drain', more);
            return;
          }
        }
        call.end();
      };
      more();
    },
    Chat(call: ServerDuplexStream<Ping, Ping>) {
      note(call);
      call.on('data', (message: Buffer) => call.write(message));
      call.on('end', () => call.end());
    },
  });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  t.teardown(() => server.forceShutdown());
  return { port, seen, server };
}

/** A client of its own connection, in plaintext unless told; calls are made with `Client`'s own methods or by `unary`. */
export function grpcClient(
  t: Test,
  port: number,
  authority: string,
  options: ClientOptions = {},
  security: ChannelCredentials = credentials.createInsecure(),
): Client {
  const client = new Client(`127.0.0.1:${port}`, security, {
    'grpc.default_authority': authority,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.max_receive_message_length': 64 << 20,
    'grpc.max_send_message_length': 64 << 20,
    ...options,
  });
  t.teardown(() => client.close());
  return client;
}

export interface Called {
  readonly answer: Buffer | null;
  readonly code: number;
  readonly details: string;
  readonly head: Metadata | null;
  readonly trailers: Metadata | null;
}

/** One unary call to its end, failed or not. */
export function unary(
  client: Client,
  message: Buffer | string,
  options: { readonly metadata?: Metadata; readonly path?: string; readonly deadline?: Date } = {},
): Promise<Called> {
  const called = new Promise<Called>((resolve) => {
    let answer: Buffer | null = null;
    let head: Metadata | null = null;
    const call = client.makeUnaryRequest(
      options.path ?? service.Unary.path,
      bytes,
      bytes,
      Buffer.from(message),
      options.metadata ?? new Metadata(),
      options.deadline === undefined ? {} : { deadline: options.deadline },
      (_error, value) => {
        answer = value ?? null;
      },
    );
    call.on('metadata', (metadata: Metadata) => {
      head = metadata;
    });
    call.on('status', ({ code, details, metadata }) =>
      setImmediate(() => resolve({ answer, code, details, head, trailers: metadata })),
    );
  });
  return within('the call', called);
}

export function serverStream(client: Client, message: string) {
  return client.makeServerStreamRequest(service.Spread.path, bytes, bytes, Buffer.from(message));
}

export function chat(client: Client) {
  return client.makeBidiStreamRequest(service.Chat.path, bytes, bytes);
}
