/** Who comes in by a port of capture: asks the kernel where each connection was going, and turns away what must not pass. */
import type { Socket } from 'node:net';
import { appSource } from '../../mesh/app-source.ts';
import { hostPort } from '../../mesh/text.ts';
import { type Direction, unmapped } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import { answerCanary, isCanary } from './canary.ts';
import type { LocalAddresses } from './local-addresses.ts';
import type { AskOriginalDestination, OriginalDestination } from './original-destination.ts';

/** What the ports of capture are told by whoever opens them. */
export interface CaptureOptions {
  readonly path: Pick<DataPath, 'turnAway'>;
  readonly ask: AskOriginalDestination;
  /** Of this machine. */
  readonly addresses: LocalAddresses;
  /** True for a port that this process listens on. */
  isOurs(port: number): boolean;
  /** True for one of the two ports of capture themselves. */
  isCapture(port: number): boolean;
  /** What a canary of this process expects to hear. */
  nonce(): string;
}

export class Capture {
  readonly #options: CaptureOptions;

  constructor(options: CaptureOptions) {
    this.#options = options;
  }

  /**
   * @param port of capture that it came to
   * @returns null where it was turned away, or was a canary and has its answer
   */
  admit(direction: Direction, port: number, socket: Socket): OriginalDestination | null {
    const { path, ask, nonce } = this.#options;
    let original: OriginalDestination | null;
    try {
      original = ask(socket);
    } catch (error) {
      path.turnAway(socket, direction, port, 'not_redirected', (error as Error).message);
      return null;
    }
    if (direction === 'inbound' && original !== null && isCanary(original, socket)) {
      answerCanary(socket, nonce());
      return null;
    }
    const why =
      original === null ? 'the kernel redirected nothing' : this.#whyNot(direction, original, socket);
    if (why === null) return original;
    path.turnAway(socket, direction, port, 'not_redirected', why);
    return null;
  }

  /** What would come back to us for ever, or reach what is none of the app's; null: it may pass. */
  #whyNot(direction: Direction, { address, port }: OriginalDestination, socket: Socket): string | null {
    const { isOurs, isCapture, addresses } = this.#options;
    const { localAddress = '', localPort } = socket;
    if (port === localPort && address === unmapped(localAddress)) return 'the kernel redirected nothing';
    if (isCapture(port)) return `it was going to ${hostPort(address, port)}, a port of capture`;
    if (staysHere(address) && !staysHere(localAddress))
      return `it was going to ${hostPort(address, port)}, and another machine sent it`;
    if (direction === 'inbound' && !addresses.has(address))
      return `it was going to ${hostPort(address, port)}, which is no address of this machine`;
    if (isOurs(port) && (direction === 'inbound' || addresses.has(address)))
      return `it was going to ${hostPort(address, port)}, a port of the sidecar`;
    return null;
  }
}

/**
 * True for what the kernel takes from no wire, and for ::6, which is there for us alone. Rules redirect before the
 * kernel looks whether such a destination may come by an interface, so that is ours to look at. Where to they redirect
 * tells who sent it, as no source address does: what a process of this machine sends goes to loopback, what an interface
 * brings to an address of the interface.
 */
function staysHere(address: string): boolean {
  const bare = unmapped(address);
  return bare.startsWith('127.') || bare === '::1' || bare === appSource[6];
}
