/** Credentials from a CA that speaks Istio's CreateCertificate: istiod, or our embedded one. */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP, type Socket } from 'node:net';
import { checkServerIdentity, createSecureContext, type PeerCertificate } from 'node:tls';
import type { ChannelCredentials, Client, Metadata } from '@grpc/grpc-js';
import type { Credentials } from '../mesh/credentials.ts';
import type { Identity } from '../mesh/identity.ts';
import { isLoopback, parseHostPort } from './address.ts';
import { readToken } from './bearer-token.ts';
import { explainRefusal, wordsOnSkew } from './ca-refusal.ts';
import { checkCredentials, isSelfSigned } from './check.ts';
import { clockSkew, type Validity } from './clock-skew.ts';
import { type Grpc, loadGrpc } from './grpc.ts';
import {
  CREATE_CERTIFICATE,
  decodeResponse,
  encodeRequest,
  type IstioCertificateRequest,
  MAX_MESSAGE_BYTES,
} from './istio-ca-proto.ts';
import type { KeyType } from './keys.ts';
import { splitCertificates } from './pem.ts';
import { makeRequest } from './request.ts';
import { type CredentialSource, CredentialsError, RefusedSet } from './source.ts';

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
  /** Of the workload's own key, default EC-P256. */
  readonly keyType?: KeyType;
  /** Longest wait for the answer in milliseconds, default 10 s. */
  readonly deadlineMs?: number;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

/** Istiod's name for itself; its agent expects it where the CA is reached by a loopback address (port-forward). */
const ISTIOD_NAME = 'istiod.istio-system.svc';
/** A connection that has not ended in good order by then is cut. */
const CLOSING_MS = 1_000;

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
    const { csrPem, keyPem } = await makeRequest(identity, options.keyType);
    const call = { options, host, caRoots, token, signal, now };
    const { certChain, date, ourTime } = await createCertificate(call, { csr: csrPem, validityDuration });
    const askedMs = validityDuration * 1000;
    let skew = clockSkew({ date, leaf: null, issuer: null, askedMs }, ourTime);
    try {
      const certificates = splitCertificates(certChain.join('\n'), 'the answer');
      const { chain, roots } = splitRoots(certificates);
      const [leaf = null, issuer = null] = certificates.slice(0, 2).map(validityOf);
      skew = clockSkew({ date, leaf, issuer, askedMs }, ourTime);
      const moreRoots = sameMesh(roots, caRoots) ? caRoots : [];
      const offered = { chain, keyPem, roots, moreRoots, origin, expected: identity, now: now() };
      return { ...checkCredentials(offered), clockSkewMs: skew };
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      throw new RefusedSet(`CA ${address}: its answer is refused: ${error.message}${wordsOnSkew(skew)}`, {
        clockSkewMs: skew,
      });
    }
  }
  return { origin, obtain };
}

function validityOf(pem: string): Validity | null {
  try {
    const { validFromDate, validToDate } = new X509Certificate(pem);
    return { notBefore: validFromDate.getTime(), notAfter: validToDate.getTime() };
  } catch {
    return null; // checkCredentials says what is wrong with it
  }
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

/**
 * While a root is exchanged, the CA's answers and the file come to know the new one at different times, so both are
 * trusted. But a CA that is reached through somebody else's certificate (a public one, a gateway's) has other roots
 * in its file, which vouch for no workload.
 */
function sameMesh(answered: readonly string[], inFile: readonly string[]): boolean {
  const prints = new Set(answered.map(printOf));
  return inFile.some((pem) => prints.has(printOf(pem)));
}

function printOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

interface Call {
  readonly options: IstioCaOptions;
  readonly host: string;
  readonly caRoots: readonly string[];
  readonly token: string;
  readonly signal: AbortSignal;
  readonly now: () => number;
}

interface Answer {
  readonly certChain: readonly string[];
  /** Header `date`, null where there is none. */
  readonly date: string | null;
  /** Our clock in the middle of the exchange, milliseconds since the epoch. */
  readonly ourTime: number;
}

async function createCertificate(call: Call, request: IstioCertificateRequest): Promise<Answer> {
  const { options, signal, now } = call;
  const { deadlineMs = 10_000 } = options;
  const grpc = await loadGrpc();
  signal.throwIfAborted();
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${call.token}`);
  if (options.clusterId !== undefined) metadata.set('ClusterID', options.clusterId);
  const sockets: Socket[] = [];
  const client = connect(grpc, call, sockets);
  const sentAt = now();
  const started = performance.now();
  try {
    return await new Promise((resolve, reject) => {
      const deadline = Date.now() + deadlineMs;
      let headers = new grpc.Metadata();
      const pending = client.makeUnaryRequest(
        CREATE_CERTIFICATE,
        encodeRequest,
        decodeResponse,
        request,
        metadata,
        { deadline },
        (error, response) => {
          const ourTime = sentAt + (performance.now() - started) / 2;
          // where an answer is trailers only, they hold what else stands in the headers
          const answers = error === null ? [headers] : [headers, error.metadata];
          const date = answers.flatMap((one) => one.get('date'))[0]?.toString() ?? null;
          if (error === null) resolve({ certChain: response?.certChain ?? [], date, ourTime });
          else {
            const { address, caRootFile, tokenFile, clusterId = null } = options;
            const asked = { address, caRootFile, tokenFile, clusterId, token: call.token, deadlineMs };
            reject(explainRefusal(grpc.status, error, { ...asked, answers, date, ourTime, now: now() }));
          }
        },
      );
      pending.on('metadata', (received: Metadata) => {
        headers = received;
      });
      signal.addEventListener('abort', () => pending.cancel(), { once: true });
    });
  } finally {
    client.close();
    setTimeout(() => {
      for (const socket of sockets) socket.destroy();
    }, CLOSING_MS).unref();
  }
}

/** @param sockets gets those that are opened, for whoever ends the call */
function connect(grpc: Grpc, { options, host, caRoots }: Call, sockets: Socket[]): Client {
  const secureContext = createSecureContext({ ca: [...caRoots], minVersion: 'TLSv1.2' });
  const checkName = (_host: string, certificate: PeerCertificate) => {
    const refusal = checkServerIdentity(host, certificate);
    const asIstiod = isLoopback(host) && checkServerIdentity(ISTIOD_NAME, certificate) === undefined;
    return asIstiod ? undefined : refusal;
  };
  const named = isIP(host) === 0 && !isLoopback(host);
  const credentials = grpc.credentials.createFromSecureContext(secureContext, {
    checkServerIdentity: checkName,
  });
  return new grpc.Client(`dns:${options.address}`, keepingSockets(credentials, sockets), {
    // TLS allows no address as server name (RFC 6066 §3); checkName looks at the real host in any case
    'grpc.ssl_target_name_override': named ? host : ISTIOD_NAME,
    'grpc.use_local_subchannel_pool': 1,
    // the keeper tries again, with its own backoff and a token read anew
    'grpc.enable_retries': 0,
    'grpc.enable_http_proxy': 0,
    'grpc.service_config_disable_resolution': 1,
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
  });
}

/**
 * grpc-js has no time-out for a TLS handshake, and `close()` does not end one: a CA that takes connections and says
 * nothing would cost us a socket an attempt. It shows its sockets nowhere but here.
 */
function keepingSockets(credentials: ChannelCredentials, sockets: Socket[]): ChannelCredentials {
  const create = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...args) => {
    const connector = create(...args);
    const secure = connector.connect.bind(connector);
    connector.connect = (socket) => {
      sockets.push(socket);
      return secure(socket);
    };
    return connector;
  };
  return credentials;
}

async function readRoots(file: string): Promise<readonly string[]> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw new CredentialsError(`the root of the CA cannot be read: ${(error as Error).message}`);
  }
  const roots = splitCertificates(text, file);
  try {
    roots.forEach(printOf);
  } catch (error) {
    throw new CredentialsError(
      `${file} holds a certificate that cannot be read: ${(error as Error).message}`,
    );
  }
  return roots;
}
