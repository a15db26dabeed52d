/** Serves Istio's CreateCertificate over gRPC and TLS for the embedded CA. */

import type { webcrypto } from 'node:crypto';
import { hostname } from 'node:os';
import type { SecureContextOptions } from 'node:tls';
import type { Server, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import { identityOf } from '../mesh/identity.ts';
import { hostPort } from '../mesh/text.ts';
import type { HostPort } from './address.ts';
import { type ServiceAccount, TokenError, verifyToken } from './ca-token.ts';
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

/** What the server says of each request: pino's logger, or a test's. Never a token or key. */
export interface CaLog {
  info(record: Readonly<Record<string, unknown>>, message: string): void;
  warn(record: Readonly<Record<string, unknown>>, message: string): void;
}

export interface CaServerOptions {
  readonly ca: EmbeddedCa;
  readonly tokenKeys: webcrypto.CryptoKeyPair;
  /** Port 0 lets the kernel choose. */
  readonly listen: HostPort;
  /** Milliseconds: what a certificate gets where the request names no validity, and the most any gets. */
  readonly ttlMs: number;
  readonly log: CaLog;
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
/** One timer's longest sleep, so that a machine that was suspended renews soon after. */
const RENEWAL_LOOK_MS = 60_000;

/**
 * Starts the server; resolves once it listens.
 * @throws CredentialsError where the address cannot be bound.
 */
export async function startCaServer(options: CaServerOptions): Promise<CaServer> {
  const grpc = await loadGrpc();
  const { listen } = options;
  const certificate = await ownCertificate(options, grpc);
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
    { CreateCertificate: createCertificateHandler(options, grpc.status) },
  );
  try {
    const port = await bind(server, hostPort(listen.host, listen.port), certificate.credentials);
    return {
      address: { host: listen.host, port },
      close: () => {
        certificate.stop();
        return shutDown(server);
      },
    };
  } catch (error) {
    certificate.stop();
    throw error;
  }
}

type Handler = (
  call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
  callback: sendUnaryData<IstioCertificateResponse>,
) => void;

function createCertificateHandler(options: CaServerOptions, status: Grpc['status']): Handler {
  const { ca, log, now = Date.now } = options;
  return (call, callback) => {
    const peer = call.getPeer();
    let account: ServiceAccount | null = null;
    async function answer(): Promise<IstioCertificateResponse> {
      const token = bearerToken(call.metadata.get('authorization'));
      account = await verifyToken(options.tokenKeys, token, now());
      const identity = identityOf(ca.trustDomain, account.namespace, account.serviceAccount);
      const ttlMs = grantedTtl(call.request.validityDuration, options.ttlMs);
      const { certificatePem, serial, notAfter } = await ca.issueForRequest(
        call.request.csr,
        identity,
        ttlMs,
      );
      const until = new Date(notAfter).toISOString();
      log.info(
        { event: 'issued', identity: identity.uri, serial, notAfter: until, peer },
        'certificate issued',
      );
      return { certChain: [certificatePem, ca.rootPem] };
    }
    answer().then(
      (response) => callback(null, response),
      (error: unknown) => {
        const { code, details } = refusal(error, status);
        const record = { event: 'refused', status: status[code], reason: details, account, peer };
        // an error nobody foresaw: its sender gets no inside view, the log does
        log.warn(code === status.INTERNAL ? { ...record, error: String(error) } : record, 'request refused');
        callback({ code, details });
      },
    );
  };
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
  if (error instanceof RequestError) return { code: status.INVALID_ARGUMENT, details: error.message };
  if (error instanceof CredentialsError) return { code: status.FAILED_PRECONDITION, details: error.message };
  return { code: status.INTERNAL, details: 'the CA failed; see its log' };
}

/** The server's own certificate, issued by the root it serves, and renewed without a pause. */
async function ownCertificate(
  { ca, listen, log, serverTtlMs = 86_400_000, now = Date.now }: CaServerOptions,
  grpc: Grpc,
) {
  const hosts = serverNames(listen.host);
  let renewAt = 0;
  async function issue(): Promise<SecureContextOptions> {
    const { certificatePem, keyPem, notAfter } = await ca.issueServer(hosts, serverTtlMs);
    renewAt = now() + (notAfter - now()) / 2;
    return { cert: certificatePem, key: keyPem, minVersion: 'TLSv1.2' };
  }

  class OwnCredentials extends grpc.ServerCredentials {
    replace(context: SecureContextOptions): void {
      this.updateSecureContextOptions(context);
    }
    override _equals(other: unknown): boolean {
      return this === other;
    }
  }
  const credentials = new OwnCredentials({}, await issue());
  const timer = setInterval(
    () => {
      if (now() < renewAt) return;
      renewAt = Number.POSITIVE_INFINITY; // until this one is through
      issue().then(
        (context) => credentials.replace(context),
        (error: unknown) => {
          renewAt = now() + RENEWAL_LOOK_MS;
          log.warn(
            { event: 'own-certificate', error: String(error) },
            'the CA could not renew its server certificate',
          );
        },
      );
    },
    Math.min(RENEWAL_LOOK_MS, serverTtlMs / 8),
  );
  timer.unref();
  return { credentials, stop: () => clearInterval(timer) };
}

/** What clients may dial: loopback in all forms, istiod's name, where we listen, and this machine's name. */
function serverNames(listenHost: string): readonly string[] {
  const names = new Set(['localhost', '127.0.0.1', '::1', 'istiod.istio-system.svc']);
  if (listenHost !== '0.0.0.0' && listenHost !== '::') names.add(listenHost);
  // in compose the container's name is what the others dial
  if (/^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(hostname())) names.add(hostname());
  return [...names];
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
