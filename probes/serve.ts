/** Answers the kubelet's probes on the sidecar's port by asking the app, as Istio's pilot-agent does. */
import type { IncomingMessage } from 'node:http';
import { appSourceFor } from '../mesh/app-source.ts';
import { askHttp } from './http.ts';
import type { AppProbe, AppProbes } from './table.ts';
import { askTcp } from './tcp.ts';
import { within } from './within.ts';

/** What the kubelet is told. */
export interface ProbeAnswer {
  readonly status: number;
  /** At most 10 KiB: the app's own words, or why it could not be asked. */
  readonly body: Buffer | string;
}

export interface ProbeOptions {
  readonly probes: AppProbes;
  /** The pod's address, which the kubelet would ask; null: 127.0.0.1. */
  readonly address: string | null;
  /** Capture is on: it lets past what comes from 127.0.0.6 or ::6. */
  readonly captured: boolean;
  /** An app's answer turned from good to bad or back. Said at most once a second for each probe. */
  readonly turned: (path: string, failure: string | null) => void;
}

/**
 * Of one address and probe. The kubelet asks one at a time; who asks more is none, and must not use up what is
 * everybody's: the kubelet would take the app for dead. How many addresses ask is bounded by the server's connections.
 */
const MAX_OF_ONE_CALLER = 2;
const QUIET_MS = 1_000;
/**
 * About the connection, or the body that a GET has not (RFC 9110 §7.6.1); and the word of a sidecar on who called,
 * which nobody here may give.
 */
const NOT_PASSED_ON: ReadonlySet<string> = new Set([
  'host',
  'connection',
  'proxy-connection',
  'keep-alive',
  'transfer-encoding',
  'content-length',
  'expect',
  'te',
  'trailer',
  'upgrade',
  'x-forwarded-client-cert',
]);

interface State {
  /** How many are under way, by who asks; nobody stands there with none. */
  readonly underWay: Map<string, number>;
  /** What `turned` was last told. */
  said: 'well' | 'failing';
  saidAt: number;
}

/** The probes of one pod's apps. */
export class ProbeServer {
  readonly #options: ProbeOptions;
  readonly #states: ReadonlyMap<string, State>;

  constructor(options: ProbeOptions) {
    this.#options = options;
    this.#states = new Map(
      [...options.probes.keys()].map((path) => [
        path,
        { underWay: new Map(), said: 'well', saidAt: -QUIET_MS },
      ]),
    );
  }

  /** What can be asked for: nothing else is. */
  get paths(): readonly string[] {
    return [...this.#states.keys()];
  }

  /**
   * Asks the app what stands in the table for a path, with the headers of the kubelet's request.
   * @param gone aborts when nobody waits any longer
   */
  async ask(path: string, request: IncomingMessage, gone: AbortSignal): Promise<ProbeAnswer> {
    const probe = this.#options.probes.get(path);
    const state = this.#states.get(path);
    if (probe === undefined || state === undefined) return { status: 404, body: 'no such probe' };
    const caller = request.socket.remoteAddress ?? '';
    const before = state.underWay.get(caller) ?? 0;
    if (before >= MAX_OF_ONE_CALLER) {
      return { status: 503, body: `${MAX_OF_ONE_CALLER} such probes of ${caller} are under way` };
    }
    state.underWay.set(caller, before + 1);
    try {
      const answer = await within(probe.timeoutMs, gone, (signal) => this.#asked(probe, request, signal));
      this.#note(path, state, answer.status < 400 ? null : `answered ${answer.status}`);
      return answer;
    } catch (error) {
      const { message } = error as Error;
      if (!gone.aborted) this.#note(path, state, message);
      return { status: 500, body: message };
    } finally {
      const left = (state.underWay.get(caller) ?? 1) - 1;
      if (left === 0) state.underWay.delete(caller);
      else state.underWay.set(caller, left);
    }
  }

  async #asked(probe: AppProbe, request: IncomingMessage, signal: AbortSignal): Promise<ProbeAnswer> {
    const target = this.#target(probe.port);
    if (probe.kind === 'tcp') {
      await askTcp(target, signal);
      return { status: 200, body: '' };
    }
    if (probe.kind === 'grpc') {
      // Most pods have no such probe, and start-up shall not wait for its modules.
      const { askGrpc } = await import('./grpc.ts');
      const userAgent = request.headers['user-agent'] ?? 'oarlock';
      await askGrpc({ ...target, service: probe.service, userAgent, timeoutMs: probe.timeoutMs }, signal);
      return { status: 200, body: '' };
    }
    const answer = await askHttp(
      {
        ...target,
        tls: probe.tls,
        path: probe.path,
        method: 'GET',
        authority: authorityFor(request, probe.port),
        headers: passedOn(request),
        // As the kubelet does not.
        verify: false,
        ca: null,
        follow: true,
      },
      signal,
    );
    // The kubelet takes any redirect for success; a 3xx without Location would be an error to it.
    const redirect = answer.status >= 300 && answer.status < 400;
    return redirect ? { status: 200, body: '' } : answer;
  }

  #target(port: number) {
    const { address, captured } = this.#options;
    const host = address ?? '127.0.0.1';
    return { host, port, address: null, from: captured ? appSourceFor(host) : null };
  }

  #note(path: string, state: State, failure: string | null): void {
    const now = performance.now();
    const outcome = failure === null ? 'well' : 'failing';
    if (outcome === state.said || now - state.saidAt < QUIET_MS) return;
    state.said = outcome;
    state.saidAt = now;
    this.#options.turned(path, failure);
  }
}

/** The kubelet's `Host`, but for our port, which it had to name: the app's stands there. */
function authorityFor({ headers, socket }: IncomingMessage, appPort: number): string | null {
  const { host } = headers;
  if (host === undefined || host === '') return null;
  const ours = `:${socket.localPort ?? 0}`;
  return host.endsWith(ours) ? `${host.slice(0, -ours.length)}:${appPort}` : host;
}

function passedOn({ rawHeaders, headers }: IncomingMessage): readonly string[] {
  const named = (headers.connection ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim());
  const passed: string[] = [];
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] as string;
    const lower = name.toLowerCase();
    if (!NOT_PASSED_ON.has(lower) && !named.includes(lower)) passed.push(name, rawHeaders[at + 1] as string);
  }
  return passed;
}
