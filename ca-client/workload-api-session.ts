/** One connection to a SPIFFE Workload API: its two streams, what they push, and how they ended. */
import { existsSync } from 'node:fs';
import type { Client, ClientReadableStream, StatusObject } from '@grpc/grpc-js';
import type { Clock } from './clock.ts';
import type { Grpc } from './grpc.ts';
import { retryDelay } from './schedule.ts';
import { CredentialsError } from './source.ts';
import type { WorkloadEndpoint } from './workload-api-endpoint.ts';
import {
  decodeBundlesResponse,
  decodeSvidResponse,
  EMPTY_REQUEST,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  MAX_MESSAGE_BYTES,
  type X509BundlesResponse,
  type X509SvidResponse,
} from './workload-api-proto.ts';

/** Told of what happens, in order, until `close`. */
export interface SessionEvents {
  onSvids(response: X509SvidResponse): void;
  onBundles(response: X509BundlesResponse): void;
  /** A message of SVIDs that is none; the session goes on. */
  onUnreadable(error: CredentialsError): void;
  /** Something is wrong with bundles that come on their own; the session goes on without them. */
  onProblem(words: string): void;
  /** The SVIDs' stream is over, and with it the session. */
  onEnd(error: CredentialsError): void;
}

/**
 * A Go server that was not told otherwise, as SPIRE's agent, ends connections that ping more often than every five
 * minutes. It is for an agent that hangs; one that dies closes the socket.
 */
const KEEPALIVE_MS = 330_000;
const KEEPALIVE_TIMEOUT_MS = 20_000;
/** The standard says not to retry: what answers so will, until it is another. */
const REFUSED_RETRY_MS = 300_000;

/** What a stream ended with; code 0, OK, where the server just ended it. */
type End = Pick<StatusObject, 'code' | 'details'>;

/**
 * Opens both streams. SVIDs come with their bundles; FetchX509Bundles is for servers that tell changed bundles there
 * only. Where that stream ends alone it is opened again after a while, or done without.
 */
export class WorkloadApiSession {
  readonly #grpc: Grpc;
  readonly #endpoint: WorkloadEndpoint;
  readonly #events: SessionEvents;
  readonly #clock: Clock;
  readonly #client: Client;
  readonly #streams = new Set<ClientReadableStream<Buffer>>();
  #bundleFailures = 0;
  #cancelReopening: (() => void) | null = null;
  #closed = false;

  constructor(grpc: Grpc, endpoint: WorkloadEndpoint, clock: Clock, events: SessionEvents) {
    this.#grpc = grpc;
    this.#endpoint = endpoint;
    this.#events = events;
    this.#clock = clock;
    this.#client = new grpc.Client(endpoint.target, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_retries': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.keepalive_time_ms': KEEPALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
    });
    this.#openSvids();
    this.#openBundles();
  }

  /** Ends both streams; no event comes after. */
  close(): void {
    this.#closed = true;
    this.#cancelReopening?.();
    for (const stream of this.#streams) stream.cancel();
    this.#client.close();
  }

  #openSvids(): void {
    this.#open(
      FETCH_X509_SVID,
      (bytes) => {
        const response = this.#decoded(bytes, decodeSvidResponse, (words) => {
          this.#events.onUnreadable(new CredentialsError(`${describe(this.#endpoint)}: ${words}`));
        });
        if (response !== null) this.#events.onSvids(response);
      },
      (end) => {
        this.close();
        this.#events.onEnd(this.#explain(end));
      },
    );
  }

  #openBundles(): void {
    this.#open(
      FETCH_X509_BUNDLES,
      (bytes) => {
        this.#bundleFailures = 0;
        const onProblem = (words: string): void => this.#events.onProblem(`FetchX509Bundles: ${words}`);
        const response = this.#decoded(bytes, decodeBundlesResponse, onProblem);
        if (response !== null) this.#events.onBundles(response);
      },
      (end) => this.#bundlesEnded(end),
    );
  }

  #decoded<Message>(
    bytes: Buffer,
    decode: (bytes: Buffer) => Message,
    onProblem: (words: string) => void,
  ): Message | null {
    try {
      return decode(bytes);
    } catch (error) {
      onProblem(`its message is no protobuf: ${(error as Error).message}`);
      return null;
    }
  }

  /** An end of the whole connection is told by the other stream: what lasts longer is this stream's own. */
  #bundlesEnded(end: End): void {
    const { OK, UNAVAILABLE, UNIMPLEMENTED, INVALID_ARGUMENT } = this.#grpc.status;
    this.#bundleFailures++;
    const delay = retryDelay(this.#bundleFailures, 0, this.#clock.random());
    this.#cancelReopening = this.#clock.setTimeout(() => {
      if (end.code !== OK && end.code !== UNAVAILABLE) {
        const words = wordsOf(this.#grpc.status, end);
        this.#events.onProblem(`FetchX509Bundles: ${words}; the bundles that come with the SVIDs count`);
      }
      if (end.code !== UNIMPLEMENTED && end.code !== INVALID_ARGUMENT) this.#openBundles();
    }, delay);
  }

  #open(method: string, onMessage: (bytes: Buffer) => void, onEnd: (end: End) => void): void {
    const metadata = new this.#grpc.Metadata();
    // SPIFFE Workload Endpoint §3: in every request, or it is refused
    metadata.set('workload.spiffe.io', 'true');
    const asIs = (bytes: Buffer): Buffer => bytes;
    const stream = this.#client.makeServerStreamRequest(method, asIs, asIs, EMPTY_REQUEST, metadata);
    this.#streams.add(stream);
    let end: End | null = null;
    let drained = false;
    const finish = (): void => {
      if (end === null || !drained) return;
      this.#streams.delete(stream);
      if (!this.#closed) onEnd(end);
    };
    stream.on('data', (bytes: Buffer) => {
      if (!this.#closed) onMessage(bytes);
    });
    // the status says the same, and comes for a good end too
    stream.on('error', () => {});
    stream.on('status', (status) => {
      end = status;
      finish();
    });
    stream.on('end', () => {
      drained = true;
      finish();
    });
  }

  /** Names the agent, the status and what to do. */
  #explain({ code, details }: End): CredentialsError {
    const { status } = this.#grpc;
    const { path } = this.#endpoint;
    const name = describe(this.#endpoint);
    if (code === status.OK) return new CredentialsError(`${name} ended the stream`);
    if (code === status.UNAVAILABLE && path !== null && !existsSync(path)) {
      const words = `${name}: the socket is not there (yet); start the agent, or check the path`;
      return new CredentialsError(words);
    }
    const refused = code === status.INVALID_ARGUMENT || code === status.UNIMPLEMENTED;
    const hint = hintOf(status, code);
    return new CredentialsError(
      `${name}: ${wordsOf(status, { code, details })}${hint === null ? '' : `; ${hint}`}`,
      { retryAfterMs: refused ? REFUSED_RETRY_MS : null },
    );
  }
}

/** Begins every error of a Workload API. */
export function describe({ shown }: WorkloadEndpoint): string {
  return `workload API ${shown}`;
}

/** The agent's own words are kept, shortened: they may be anyone's. */
function wordsOf(status: Grpc['status'], { code, details }: End): string {
  return `${status[code] ?? code}: ${details.replace(/\s+/g, ' ').slice(0, 500)}`;
}

function hintOf(status: Grpc['status'], code: number): string | null {
  switch (code) {
    case status.UNAVAILABLE:
      return 'check that the agent runs, that it has reached its server, and that this user may open the socket';
    case status.PERMISSION_DENIED:
      return (
        'no registration entry fits this process: create one whose parent is this agent and whose selectors fit, ' +
        `such as unix:uid:${process.getuid?.() ?? '…'}; the agent learns of it some seconds later`
      );
    case status.INVALID_ARGUMENT:
      return 'is there something between the agent and us that drops the metadata workload.spiffe.io?';
    case status.UNIMPLEMENTED:
      return "is that a Workload API? SPIRE's agent has it at its socket_path, its server's socket is another";
    case status.RESOURCE_EXHAUSTED:
      return 'it limits our calls, or its answer is too long';
    default:
      return null;
  }
}
