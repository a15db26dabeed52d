/** Serves Istio's CreateCertificate over gRPC and TLS for the embedded CA. */

import type { webcrypto } from 'node:crypto';
import type { Server, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import { identityOf } from '../mesh/identity.ts';
import { hostPort } from '../mesh/text.ts';
import type { HostPort } from './address.ts';
import type { RootPlace } from './ca-intermediate.ts';
import { type Rate, RateError, RateLimit } from './ca-rates.ts';
import { serverCertificate } from './ca-server-certificate.ts';
import { claimsOurs, type ServiceAccount, TokenError, verifyToken } from './ca-token.ts';
import { type CaLog, caUpkeep } from './ca-upkeep.ts';
import { RequestError } from './csr.ts';
import type { EmbeddedCa } from './embedded-ca.ts';
import { type Grpc, loadGrpc } from './grpc.ts';
import {
  CREATE_CERTIFICATE,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  type IstioCertificateRequest,
  type IstioCertificateResponse,
} from './istio-ca-proto.ts';
import { CredentialsError } from './source.ts';
import { ReviewUnavailableError, type TokenReview } from './token-review.ts';

export interface CaServerOptions {
  readonly ca: EmbeddedCa;
  readonly tokenKeys: webcrypto.CryptoKeyPair;
  /** Who checks tokens that this CA has not signed; default: nobody, they are refused. */
  readonly reviewToken?: TokenReview | null;
  /** More names for the server's own certificate. */
  readonly serverNames?: readonly string[];
  /** Port 0 lets the kernel choose. */
  readonly listen: HostPort;
  /** Milliseconds: what a certificate gets where the request names no validity, and the most any gets. */
  readonly ttlMs: number;
  readonly log: CaLog;
  /** How often one identity gets a certificate, default 10 a second. */
  readonly maxRate?: Rate;
  /** How often all together do, default 100 a second. */
  readonly maxTotalRate?: Rate;
  /** Where the root is that renews the CA's intermediate; default: out of reach. */
  readonly root?: RootPlace | null;
  /** Validity of the server's own certificate in milliseconds, default 24 h; renewed at half of it. */
  readonly serverTtlMs?: number;
  readonly now?: () => number;
}

export interface CaServer {
  /** Where it listens. */
  readonly address: HostPort;
  /** Lets running calls finish, for a second at most. */
  close(): Promise<void>;
}

/** A CSR is at most 16 KiB. */
const MAX_REQUEST_BYTES = 65_536;
const CLOSE_GRACE_MS = 1_000;
/** How soon a change of the folder is noticed by what is not asked for: our own certificate, CRL, intermediate. */
const LOOK_MS = 500;
/** A replica each of many that share an account starts at once, and none waits long; a loop gone wild does. */
const MAX_RATE: Rate = { count: 10, periodMs: 1_000 };
/** Somewhat less than one core signs. */
const MAX_TOTAL_RATE: Rate = { count: 100, periodMs: 1_000 };
/** gRPC's trailer for when to ask again (gRFC A6). */
const PUSHBACK = 'grpc-retry-pushback-ms';

/**
 * Starts the server; resolves once it listens.
 * @throws CredentialsError where the address cannot be bound.
 */
export async function startCaServer(options: CaServerOptions): Promise<CaServer> {
  const grpc = await loadGrpc();
  const { ca, listen, log, root = null, serverTtlMs: ttlMs = 86_400_000 } = options;
  const upkeep = caUpkeep({ access: ca.access, root, log });
  await upkeep.look();
  const more = options.serverNames ?? [];
  const certificate = await serverCertificate({ ca, log, listenHost: listen.host, ttlMs, more }, grpc);
  const server = new grpc.Server({
    'grpc.max_receive_message_length': MAX_REQUEST_BYTES,
    'grpc.max_concurrent_streams': 100,
    'grpc.max_connection_idle_ms': 300_000,
  });
  server.addService(
    {
      CreateCertificate: {
        path: CREATE_CERTIFICATE,
        requestStream: false,
        responseStream: false,
        requestSerialize: encodeRequest,
        requestDeserialize: decodeRequest,
        responseSerialize: encodeResponse,
        responseDeserialize: decodeResponse,
      },
    },
    { CreateCertificate: createCertificateHandler(options, grpc) },
  );
  const port = await bind(server, hostPort(listen.host, listen.port), certificate.credentials);
  const stopLooking = repeat(async () => {
    await upkeep.look();
    await certificate.look();
  });
  return {
    address: { host: listen.host, port },
    close: async () => {
      await Promise.all([shutDown(server), stopLooking()]);
    },
  };
}

/** Does the work every LOOK_MS, one time after another. @returns what ends it, once the last time is through. */
function repeat(work: () => Promise<void>): () => Promise<void> {
  let running = Promise.resolve();
  let busy = false;
  const timer = setInterval(() => {
    if (busy) return;
    busy = true;
    running = work().finally(() => {
      busy = false;
    });
  }, LOOK_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    return running;
  };
}

type Handler = (
  call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
  callback: sendUnaryData<IstioCertificateResponse>,
) => void;

function createCertificateHandler(options: CaServerOptions, { status, Metadata }: Grpc): Handler {
  const { ca, log, now = Date.now } = options;
  const lines = new RefusedLines(now);
  const rates = new RateLimit(options.maxRate ?? MAX_RATE, options.maxTotalRate ?? MAX_TOTAL_RATE);
  return (call, callback) => {
    const peer = call.getPeer();
    let account: ServiceAccount | null = null;
    async function answer(): Promise<IstioCertificateResponse> {
      const token = bearerToken(call.metadata.get('authorization'));
      account = await accountOfToken(options, token, peer, now());
      const identity = identityOf(ca.trustDomain, account.namespace, account.serviceAccount);
      rates.take(identity.uri, performance.now());
      const ttlMs = grantedTtl(call.request.validityDuration, options.ttlMs);
      const requester = { by: 'server', peer } as const;
      const { chain, roots, serial, notAfter } = await ca.issueForRequest(
        call.request.csr,
        identity,
        ttlMs,
        requester,
      );
      const until = new Date(notAfter).toISOString();
      log.info(
        { event: 'issued', identity: identity.uri, serial, notAfter: until, peer },
        'certificate issued',
      );
      // Istio's order: the leaf, what is between, the roots
      return { certChain: [...chain, ...roots] };
    }
    function sendDate(): void {
      // RFC 9110 §6.6.1: by it a client finds out how far its clock is off. Sent before the status, with errors too
      const metadata = new Metadata();
      metadata.set('date', new Date(now()).toUTCString());
      call.sendMetadata(metadata);
    }
    answer().then(
      (response) => {
        sendDate();
        callback(null, response);
      },
      (error: unknown) => {
        const { code, details } = refusal(error, status);
        const name = status[code] ?? String(code);
        const record = { event: 'refused', status: name, reason: details, account, peer };
        // an error nobody foresaw: its sender gets no inside view, the log does
        if (lines.admits()) {
          const more = lines.suppressed === 0 ? {} : { suppressed: lines.suppressed };
          const inside = code === status.INTERNAL ? { error: String(error) } : {};
          log.warn({ ...record, ...inside, ...more }, 'request refused');
        }
        const whose = account === null ? null : `${account.namespace}/${account.serviceAccount}`;
        ca.noteRefusal({ status: name, reason: details, account: whose, peer, by: 'server' });
        sendDate();
        const metadata = new Metadata();
        if (error instanceof RateError) metadata.set(PUSHBACK, String(error.retryAfterMs));
        callback({ code, details, metadata });
      },
    );
  };
}

/** Our own tokens name us; what others sign goes to whoever may know them. */
function accountOfToken(
  { reviewToken = null, tokenKeys }: CaServerOptions,
  token: string,
  peer: string,
  now: number,
): Promise<ServiceAccount> {
  if (reviewToken === null || claimsOurs(token)) return verifyToken(tokenKeys, token, now);
  return reviewToken(token, peer);
}

/** @throws TokenError unless there is exactly one bearer token. */
function bearerToken(values: readonly (string | Buffer)[]): string {
  const [value] = values;
  if (value === undefined) throw new TokenError('no bearer token: send metadata authorization: Bearer TOKEN');
  const token = typeof value === 'string' ? /^Bearer +([^\s,]+)$/i.exec(value)?.[1] : undefined;
  if (token === undefined || values.length !== 1) {
    throw new TokenError('the authorization metadata is not one bearer token');
  }
  return token;
}

/** Istio's rule: no or a senseless wish gets the default. A longer one than allowed is cut, not refused. */
function grantedTtl(wishSeconds: number, mostMs: number): number {
  return wishSeconds > 0 ? Math.min(wishSeconds * 1000, mostMs) : mostMs;
}

function refusal(error: unknown, status: Grpc['status']): { code: number; details: string } {
  if (error instanceof TokenError) return { code: status.UNAUTHENTICATED, details: error.message };
  if (error instanceof ReviewUnavailableError) return { code: status.UNAVAILABLE, details: error.message };
  if (error instanceof RequestError) return { code: status.INVALID_ARGUMENT, details: error.message };
  if (error instanceof RateError) return { code: status.RESOURCE_EXHAUSTED, details: error.message };
  if (error instanceof CredentialsError) return { code: status.FAILED_PRECONDITION, details: error.message };
  return { code: status.INTERNAL, details: 'the CA failed; see its log' };
}

function bind(
  server: Server,
  address: string,
  credentials: InstanceType<Grpc['ServerCredentials']>,
): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, port) => {
      if (error === null) resolve(port);
      else reject(new CredentialsError(`cannot listen on ${address}: ${error.message}`));
    });
  });
}

function shutDown(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const force = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, CLOSE_GRACE_MS);
    server.tryShutdown(() => {
      clearTimeout(force);
      resolve();
    });
  });
}

const LINES_A_MINUTE = 100;

/** Strangers need no token to be refused: the log has so many lines of them a minute, and says how many it left out. */
class RefusedLines {
  readonly #now: () => number;
  #minute = 0;
  #written = 0;
  #unwritten = 0;
  /** Left out in the minutes before. */
  suppressed = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  admits(): boolean {
    const minute = Math.floor(this.#now() / 60_000);
    if (minute !== this.#minute) {
      this.#minute = minute;
      this.#written = 0;
      this.suppressed = this.#unwritten;
      this.#unwritten = 0;
    } else this.suppressed = 0;
    if (this.#written >= LINES_A_MINUTE) {
      this.#unwritten++;
      return false;
    }
    this.#written++;
    return true;
  }
}
