/** `oarlock ca serve` as a process of its own, and the tokens it takes. */
import { join } from 'node:path';
import type { Test } from 'tap';
import { freePort } from './ports.ts';
import { type Oarlock, runToEnd, start } from './processes.ts';
import { within } from './wait.ts';

export class CaProcess {
  readonly t: Test;
  readonly dir: string;
  readonly address: string;
  readonly ttl: string;
  readonly #more: readonly string[];
  running: Oarlock;

  private constructor(t: Test, dir: string, address: string, ttl: string, more: readonly string[]) {
    this.#more = more;
    this.t = t;
    this.dir = dir;
    this.address = address;
    this.ttl = ttl;
    this.running = this.#start();
  }

  /** Starts one whose root lies in `dir`, on an address of this machine. @param more further flags of `ca serve` */
  static async start(
    t: Test,
    dir: string,
    ttl = '1h',
    { host = '127.0.0.1', more = [] }: { host?: string; more?: readonly string[] } = {},
  ): Promise<CaProcess> {
    const ca = new CaProcess(t, dir, `${host}:${await freePort()}`, ttl, more);
    await ca.up();
    return ca;
  }

  get root(): string {
    return join(this.dir, 'root-cert.pem');
  }

  get port(): number {
    return Number(this.address.slice(this.address.lastIndexOf(':') + 1));
  }

  up(): Promise<unknown> {
    return within('the CA to be ready', this.running.stdout.next({ ready: true }));
  }

  async kill(): Promise<void> {
    await this.running.kill();
  }

  async restart(): Promise<void> {
    this.running = this.#start();
    await this.up();
  }

  /** Writes a token for `shop/ACCOUNT`; returns the flags a sidecar needs. */
  async flags(account: string): Promise<string[]> {
    const file = this.tokenFile(account);
    const args = ['ca', 'token', '--dir', this.dir, '--namespace', 'shop', '--service-account', account];
    const { code, stderr } = await runToEnd(this.t, [...args, '--out', file]);
    if (code !== 0) throw new Error(stderr);
    return ['--ca-address', this.address, '--ca-root', this.root, '--token', file];
  }

  tokenFile(account: string): string {
    return join(this.dir, `${account}.token`);
  }

  #start(): Oarlock {
    const flags = ['--dir', this.dir, '--listen', this.address, '--ttl', this.ttl, ...this.#more];
    return start(this.t, ['ca', 'serve', ...flags]);
  }
}
