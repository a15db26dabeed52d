/** A SPIFFE Workload API of the tests' own, by the real protocol over a Unix socket, that misbehaves when told to. */
import { EventEmitter, once } from 'node:events';
import { join } from 'node:path';
import type { Server, ServerWritableStream } from '@grpc/grpc-js';
import { loadGrpc } from '../../ca-client/grpc.ts';
import {
  encodeBundlesResponse,
  encodeSvidResponse,
  FETCH_X509_BUNDLES,
  FETCH_X509_SVID,
  type X509BundlesResponse,
  type X509Svid,
  type X509SvidResponse,
} from '../../ca-client/workload-api-proto.ts';
import { type Authority, makeCertificate, temporaryFolder } from './helper.ts';

interface Teardown {
  teardown(fn: () => unknown): void;
}

type Call = ServerWritableStream<Buffer, Buffer>;
type Stream = 'svids' | 'bundles';

/** gRPC's status codes (grpc/doc/statuscodes.md). */
export const OK = 0;
export const INVALID_ARGUMENT = 3;
export const PERMISSION_DENIED = 7;
export const RESOURCE_EXHAUSTED = 8;
export const UNIMPLEMENTED = 12;
export const INTERNAL = 13;
export const UNAVAILABLE = 14;

/** What a new stream gets: a message, a status it ends with, or nothing. */
export type Behaviour = Buffer | number | 'hang';

const asIs = (bytes: Buffer): Buffer => bytes;

/** Answers each new stream as it is told to, and pushes on those that are open. */
export class WorkloadApiServer extends EventEmitter {
  readonly path: string;
  /** Where it listens on TCP. */
  port = 0;
  /** What new streams get. */
  svids: Behaviour = 'hang';
  bundles: Behaviour = 'hang';
  /** Streams opened so far, those refused for their metadata included. */
  readonly opened = { svids: 0, bundles: 0 };
  readonly #open: Readonly<Record<Stream, Set<Call>>> = { svids: new Set(), bundles: new Set() };
  #server: Server | null = null;

  constructor(path: string) {
    super();
    this.path = path;
  }

  /** Listens on a path of the test's own. */
  static async start(t: Teardown, path = join(temporaryFolder(t), 'agent.sock')): Promise<WorkloadApiServer> {
    const server = new WorkloadApiServer(path);
    t.teardown(() => server.stop());
    await server.listen();
    return server;
  }

  async listen(): Promise<void> {
    const grpc = await loadGrpc();
    const server = new grpc.Server();
    const method = (path: string) => ({
      path,
      requestStream: false as const,
      responseStream: true as const,
      requestSerialize: asIs,
      requestDeserialize: asIs,
      responseSerialize: asIs,
      responseDeserialize: asIs,
    });
    server.addService(
      { FetchX509SVID: method(FETCH_X509_SVID), FetchX509Bundles: method(FETCH_X509_BUNDLES) },
      {
        FetchX509SVID: (call: Call) => this.#answer('svids', call),
        FetchX509Bundles: (call: Call) => this.#answer('bundles', call),
      },
    );
    await new Promise<void>((resolve, reject) => {
      const address = this.path.startsWith('127.') ? this.path : `unix:${this.path}`;
      server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
        this.port = port;
        if (error === null) resolve();
        else reject(error);
      });
    });
    this.#server = server;
  }

  /** Gone at once, as if killed; connections are reset. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = null;
    for (const calls of Object.values(this.#open)) calls.clear();
  }

  /** To every open stream of this kind. */
  push(stream: Stream, message: Buffer): void {
    this[stream] = message;
    for (const call of this.#open[stream]) call.write(message);
  }

  /** Ends every open stream of this kind, and the next ones, with this status. */
  end(stream: Stream, code: number, details = 'as told'): void {
    this[stream] = code;
    for (const call of this.#open[stream]) finish(call, code, details);
    this.#open[stream].clear();
  }

  /** Waits until no stream of either kind is open. */
  async noStreams(): Promise<void> {
    while (this.#open.svids.size + this.#open.bundles.size > 0) await once(this, 'closed');
  }

  /** Waits for the next stream of this kind. */
  async nextStream(stream: Stream): Promise<void> {
    await once(this, stream);
  }

  #answer(stream: Stream, call: Call): void {
    this.opened[stream]++;
    const behaviour = this[stream];
    // SPIFFE Workload Endpoint §3: "Requests not including this metadata key/value MUST be rejected"
    const [header] = call.metadata.get('workload.spiffe.io');
    if (header !== 'true') finish(call, INVALID_ARGUMENT, 'security header missing from request');
    else if (typeof behaviour === 'number') finish(call, behaviour, 'as told');
    else {
      this.#open[stream].add(call);
      call.on('cancelled', () => {
        this.#open[stream].delete(call);
        this.emit('closed');
      });
      if (behaviour !== 'hang') call.write(behaviour);
    }
    this.emit(stream);
  }
}

function finish(call: Call, code: number, details: string): void {
  if (code === OK) call.end();
  else call.emit('error', Object.assign(new Error(details), { code, details }));
}

/** A trust domain of the tests: a root, and the SVIDs it issues. */
export class TrustDomain {
  readonly name: string;
  readonly root: Authority & { readonly der: Uint8Array };

  constructor(name: string, root: Authority & { readonly der: Uint8Array }) {
    this.name = name;
    this.root = root;
  }

  static async create(name: string): Promise<TrustDomain> {
    return new TrustDomain(name, await makeCertificate({ ca: true, uris: [`spiffe://${name}`] }));
  }

  /** An SVID as an agent would push it, with a bundle of this root alone. */
  async svid(path: string, more: SvidWish = {}): Promise<X509Svid> {
    const { hint = '', middle, ...wish } = more;
    const spiffeId = `spiffe://${this.name}${path}`;
    const leaf = await makeCertificate({ uris: [spiffeId], issuer: middle ?? this.root, ...wish });
    const { createPrivateKey } = await import('node:crypto');
    const key = createPrivateKey(leaf.keyPem).export({ format: 'der', type: 'pkcs8' });
    const chain = middle === undefined ? leaf.der : Buffer.concat([leaf.der, middle.der]);
    return { spiffeId, chain, key, bundle: this.root.der, hint };
  }
}

export interface SvidWish {
  readonly hint?: string;
  /** Issues it, and follows it in the chain. */
  readonly middle?: Authority & { readonly der: Uint8Array };
  readonly from?: number;
  readonly until?: number;
}

/** A message of FetchX509SVID. */
export function svidMessage(svids: readonly X509Svid[], more: Partial<X509SvidResponse> = {}): Buffer {
  return encodeSvidResponse({ svids, crls: [], federatedBundles: new Map(), ...more });
}

/** A message of FetchX509Bundles, roots by trust domain. */
export function bundlesMessage(
  bundles: Readonly<Record<string, Uint8Array>>,
  more: Partial<X509BundlesResponse> = {},
): Buffer {
  const byId = Object.entries(bundles).map(([name, der]) => [`spiffe://${name}`, der] as const);
  return encodeBundlesResponse({ crls: [], bundles: new Map(byId), ...more });
}
