/** The CA server's own certificate: issued by the CA it serves, renewed without a pause. */
import { hostname } from 'node:os';
import type { SecureContextOptions } from 'node:tls';
import type { CaLog } from './ca-upkeep.ts';
import type { EmbeddedCa } from './embedded-ca.ts';
import type { Grpc } from './grpc.ts';

export interface ServerCertificate {
  readonly credentials: InstanceType<Grpc['ServerCredentials']>;
  /** Issues another one where half of its life is over, or the CA signs with another key. Never rejects. */
  look(): Promise<void>;
}

/** After a failure. */
const RETRY_MS = 10_000;

export interface OwnCertificate {
  readonly ca: EmbeddedCa;
  readonly log: CaLog;
  /** Where the server listens; one of the names in its certificate. */
  readonly listenHost: string;
  /** Validity in milliseconds. */
  readonly ttlMs: number;
  /** More names it is dialled by. */
  readonly more: readonly string[];
}

/** Issues the first one. @throws CredentialsError where the CA cannot */
export async function serverCertificate(
  { ca, log, listenHost, ttlMs, more }: OwnCertificate,
  grpc: Grpc,
): Promise<ServerCertificate> {
  const { access } = ca;
  const hosts = [...new Set([...serverNames(listenHost), ...more])];
  let renewAt = 0;
  let signer = '';
  async function issue(): Promise<SecureContextOptions> {
    const { chain, keyPem, notAfter } = await ca.issueServer(hosts, ttlMs);
    const now = access.now();
    renewAt = now + (notAfter - now) / 2;
    signer = access.state?.signerPrint ?? '';
    return { cert: chain.join(''), key: keyPem, minVersion: 'TLSv1.2' };
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
  return {
    credentials,
    async look() {
      if (access.now() < renewAt && access.state?.signerPrint === signer) return;
      try {
        credentials.replace(await issue());
      } catch (error) {
        renewAt = access.now() + RETRY_MS;
        signer = access.state?.signerPrint ?? '';
        log.warn(
          { event: 'own-certificate', error: (error as Error).message },
          'the CA could not renew its server certificate',
        );
      }
    },
  };
}

/** What clients may dial: loopback in all forms, istiod's name, where we listen, and this machine's name. */
function serverNames(listenHost: string): readonly string[] {
  const names = new Set(['localhost', '127.0.0.1', '::1', 'istiod.istio-system.svc']);
  if (listenHost !== '0.0.0.0' && listenHost !== '::') names.add(listenHost);
  // in compose the container's name is what the others dial
  if (/^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(hostname())) names.add(hostname());
  return [...names];
}
