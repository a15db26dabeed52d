/** Credentials from a CA that speaks Istio's CreateCertificate: istiod, or our embedded one. */
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { checkServerIdentity, createSecureContext, type PeerCertificate } from 'node:tls';
import type { Client, ServiceError } from '@grpc/grpc-js';
import type { Credentials } from '../mesh/credentials.ts';
import type { Identity } from '../mesh/identity.ts';
import { isLoopback, parseHostPort } from './address.ts';
import { checkCredentials, isSelfSigned } from './check.ts';
import { type Grpc, loadGrpc } from './grpc.ts';
import {
  CREATE_CERTIFICATE,
  decodeResponse,
  encodeRequest,
  type IstioCertificateRequest,
  MAX_MESSAGE_BYTES,
} from './istio-ca-proto.ts';
import { splitCertificates } from './pem.ts';
import { makeRequest } from './request.ts';
import { type CredentialSource, CredentialsError } from './source.ts';

export interface IstioCaOptions {
  /** `HOST:PORT` of the CA. */
  readonly address: string;
  /** File with the roots its server certificate is checked against; read for every request. */
  readonly caRootFile: string;
  /** File with the bearer token; read for every request, for the kubelet replaces it. */
  readonly tokenFile: string;
  /** Who we are; an answer for anyone else is refused. */
  readonly identity: Identity;
  /** Sent as gRPC metadata `ClusterID` where given (`ISTIO_META_CLUSTER_ID`). */
  readonly clusterId?: string;
  /** Asked-for validity in milliseconds, default 24 h as Istio's; the CA may give less. */
  readonly ttlMs?: number;
  /** Longest wait for the answer in milliseconds, default 10 s. */
  readonly deadlineMs?: number;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

/** Istiod's name for itself; its agent expects it where the CA is reached by a loopback address (port-forward). */
const ISTIOD_NAME = 'istiod.istio-system.svc';
const MAX_TOKEN_BYTES = 65_536;

/**
 * The source for one workload. Each attempt makes a new key, reads root and token anew, connects anew (so a CA's
 * new root or address counts at once) and checks the answer with checkCredentials.
 * @throws CredentialsError on an address that is none.
 */
export function istioCaSource(options: IstioCaOptions): CredentialSource {
  const { address, identity } = options;
  const origin = `ca ${address}`;
  const hostPort = parseHostPort(address);
  if (hostPort === null) throw new CredentialsError(`${address} is not HOST:PORT`);
  const { host } = hostPort;
  const now = options.now ?? Date.now;
  const validityDuration = Math.max(1, Math.round((options.ttlMs ?? 86_400_000) / 1000));

  async function obtain(signal: AbortSignal): Promise<Credentials> {
    const [caRoots, token] = await Promise.all([readRoots(options.caRootFile), readToken(options.tokenFile)]);
    const { csrPem, keyPem } = await makeRequest(identity);
    const answer = await createCertificate(
      { options, host, caRoots, token, signal },
      { csr: csrPem, validityDuration },
    );
    try {
      const certificates = splitCertificates(answer.join('\n'), 'the answer');
      const { chain, roots } = splitRoots(certificates);
      // both the answer's roots and the file's are trusted: while a root is exchanged they are not the same
      const offered = { chain, keyPem, roots, moreRoots: caRoots, origin, expected: identity, now: now() };
      return checkCredentials(offered);
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      throw new CredentialsError(`CA ${address}: its answer is refused: ${error.message}`);
    }
  }
  return { origin, obtain };
}

/** Istio puts the root last; with several roots, as while they are exchanged, all of them are. */
function splitRoots(certificates: readonly string[]): { chain: readonly string[]; roots: readonly string[] } {
  let end = certificates.length;
  while (end > 0 && isSelfSigned(certificates[end - 1] ?? '')) end--;
  if (end === certificates.length) {
    throw new CredentialsError('it does not end in a root: the last certificate must be a self-signed CA');
  }
  return { chain: certificates.slice(0, end), roots: certificates.slice(end) };
}

interface Call {
  readonly options: IstioCaOptions;
  readonly host: string;
  readonly caRoots: readonly string[];
  readonly token: string;
  readonly signal: AbortSignal;
}

async function createCertificate(call: Call, request: IstioCertificateRequest): Promise<readonly string[]> {
  const { options, signal } = call;
  const grpc = await loadGrpc();
  signal.throwIfAborted();
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${call.token}`);
  if (options.clusterId !== undefined) metadata.set('ClusterID', options.clusterId);
  const client = connect(grpc, call);
  try {
    return await new Promise((resolve, reject) => {
      const deadline = Date.now() + (options.deadlineMs ?? 10_000);
      const pending = client.makeUnaryRequest(
        CREATE_CERTIFICATE,
        encodeRequest,
        decodeResponse,
        request,
        metadata,
        { deadline },
        (error, response) => {
          if (error !== null) reject(explain(grpc.status, error, options));
          else resolve(response?.certChain ?? []);
        },
      );
      signal.addEventListener('abort', () => pending.cancel(), { once: true });
    });
  } finally {
    client.close();
  }
}

function connect(grpc: Grpc, { options, host, caRoots }: Call): Client {
  const secureContext = createSecureContext({ ca: [...caRoots], minVersion: 'TLSv1.2' });
  const checkName = (_host: string, certificate: PeerCertificate) => {
    const refusal = checkServerIdentity(host, certificate);
    const asIstiod = isLoopback(host) && checkServerIdentity(ISTIOD_NAME, certificate) === undefined;
    return asIstiod ? undefined : refusal;
  };
  const named = isIP(host) === 0 && !isLoopback(host);
  return new grpc.Client(
    `dns:${options.address}`,
    grpc.credentials.createFromSecureContext(secureContext, { checkServerIdentity: checkName }),
    {
      // TLS allows no address as server name (RFC 6066 §3); checkName looks at the real host in any case
      'grpc.ssl_target_name_override': named ? host : ISTIOD_NAME,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    },
  );
}

/** Names the CA, the status and what to do. The CA's own words are kept, shortened: they may be anyone's. */
function explain(
  status: Grpc['status'],
  error: ServiceError,
  { address, tokenFile, caRootFile, deadlineMs = 10_000 }: IstioCaOptions,
): CredentialsError {
  const hints: Partial<Record<number, string>> = {
    [status.UNAUTHENTICATED]: `check that ${tokenFile} holds a fresh token with the CA's audience`,
    [status.PERMISSION_DENIED]: `check whose token ${tokenFile} holds`,
    [status.UNAVAILABLE]: `check that the CA runs there and that ${caRootFile} holds the root of its certificate`,
    [status.DEADLINE_EXCEEDED]: `it did not answer within ${deadlineMs / 1000} s; check the CA and the network`,
    [status.RESOURCE_EXHAUSTED]: 'it is busy, or its answer is too long; will try again',
    [status.UNIMPLEMENTED]: 'is that the port of a CA? Istio has it at 15012',
  };
  const details = error.details.replace(/\s+/g, ' ').slice(0, 500);
  const hint = hints[error.code];
  return new CredentialsError(
    `CA ${address}: ${status[error.code] ?? error.code}: ${details}${hint === undefined ? '' : `; ${hint}`}`,
  );
}

async function readRoots(file: string): Promise<readonly string[]> {
  return splitCertificates(await readText(file, 'the root of the CA'), file);
}

async function readToken(file: string): Promise<string> {
  const token = (await readText(file, 'the token for the CA')).trim();
  // checked here, for gRPC's error on an unfit header value would quote it
  if (token === '' || token.length > MAX_TOKEN_BYTES || !/^[!-~]+$/.test(token)) {
    throw new CredentialsError(
      `the token file ${file} ${token === '' ? 'is empty' : 'does not hold one bearer token'}`,
    );
  }
  return token;
}

async function readText(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new CredentialsError(`${what} cannot be read: ${(error as Error).message}`);
  }
}
