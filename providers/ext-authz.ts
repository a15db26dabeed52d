/** Asks external authorization providers, as Envoy's ext_authz filter asks with the settings that istiod gives it. */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { CheckAnswer, ExtAuthz, ExtAuthzProvider } from '../mesh/ext-authz.ts';
import { type Asker, NotAsked, orAbort, type Question } from './ext-authz-asker.ts';

/**
 * Opens a stream of plaintext to a provider's service, over mTLS where the mesh says so.
 * @param service `HOST` or `NS/HOST`
 * @throws Error where it cannot be reached
 */
export type Connect = (service: string, port: number) => Promise<Duplex>;

export interface ExtAuthzClient extends ExtAuthz {
  /** Closes every connection to providers; what still waits fails. */
  close(): void;
}

/** Checks in flight at one service: beyond it they are denied at once. */
const MAX_IN_FLIGHT = 4_096;
/** Services whose connections are kept: more than any mesh config names; what it names no more makes room. */
const MAX_SERVICES = 64;

interface Service {
  readonly asker: Promise<Asker>;
  inFlight: number;
}

/**
 * @param connect reaches a provider's service: the caller's own outbound route
 * @param now milliseconds since the epoch
 */
export function createExtAuthz(connect: Connect, now: () => number = Date.now): ExtAuthzClient {
  const services = new Map<string, Service>();

  /** The connections are a service's, not a provider's: two providers may name one service. */
  function serviceOf({ protocol, service, port }: ExtAuthzProvider): Service {
    const key = `${protocol} ${service} ${port}`;
    const found = services.get(key) ?? {
      asker: newAsker(protocol, () => connect(service, port)),
      inFlight: 0,
    };
    // Last used, last to go.
    services.delete(key);
    services.set(key, found);
    for (const [oldKey, old] of services) {
      if (services.size <= MAX_SERVICES) break;
      if (old.inFlight > 0) continue;
      services.delete(oldKey);
      closeAsker(old.asker);
    }
    return found;
  }

  return {
    async check(provider, check, signal) {
      // What istiod would not use denies, with the status of its deny rule.
      if (provider.fault !== null) return refused(403, provider.fault);
      const service = serviceOf(provider);
      if (service.inFlight >= MAX_IN_FLIGHT)
        return refused(provider.statusOnError, `${MAX_IN_FLIGHT} checks are waiting for it already`);
      service.inFlight++;
      try {
        const asker = await loaded(service);
        const question = { provider, check, now: now(), id: randomBytes(8).readBigUInt64BE().toString() };
        return await inTime(question, signal, (limit) => asker.ask(question, limit));
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        return error instanceof NotAsked || OURS.test(reason)
          ? refused(provider.statusOnError, reason)
          : failed(reason);
      } finally {
        service.inFlight--;
      }
    },
    close() {
      for (const { asker } of services.values()) closeAsker(asker);
      services.clear();
    },
  };
}

/** Where a connection fails for what this machine has too little of. The data path names errors in its words. */
const OURS = /\b(?:EMFILE|ENFILE|ENOBUFS|ENOMEM|EADDRNOTAVAIL)\b/;

/** A denial of our own, whatever failOpen says. */
function refused(status: number, why: string): CheckAnswer {
  return { kind: 'denied', status, fields: [], body: Buffer.alloc(0), why: printable(why) };
}

function failed(reason: string): CheckAnswer {
  return { kind: 'failed', reason: printable(reason) };
}

/** Some reasons quote the other side. */
function printable(reason: string): string {
  return reason.replace(/[^\x20-\x7e]+/g, ' ').slice(0, 300);
}

/** The libraries are loaded when the first provider is asked. */
async function newAsker(protocol: 'http' | 'grpc', open: () => Promise<Duplex>): Promise<Asker> {
  if (protocol === 'http') return (await import('./ext-authz-http.ts')).httpAsker(open);
  return (await import('./ext-authz-grpc.ts')).grpcAsker(open);
}

async function loaded({ asker }: Service): Promise<Asker> {
  try {
    return await asker;
  } catch (error) {
    throw new NotAsked((error as Error).message);
  }
}

function closeAsker(asker: Promise<Asker>): void {
  asker.then((loaded) => loaded.close(), ignore);
}

function ignore(): void {}

/** Waits for `ask` until the provider's time is up or `signal` says that nobody waits for the answer. */
async function inTime(
  { provider: { timeout } }: Question,
  signal: AbortSignal,
  ask: (limit: AbortSignal) => Promise<CheckAnswer>,
): Promise<CheckAnswer> {
  const limit = new AbortController();
  // An answer that came while we were busy is read first: a pause of ours is no silence of the provider's.
  const timer = setTimeout(
    () => setImmediate(() => limit.abort(new Error(`no answer within ${timeout / 1000} s`))),
    timeout,
  );
  const leave = () => limit.abort(new Error('the downstream left'));
  signal.addEventListener('abort', leave, { once: true });
  if (signal.aborted) leave();
  try {
    limit.signal.throwIfAborted();
    return await orAbort(ask(limit.signal), limit.signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', leave);
  }
}
