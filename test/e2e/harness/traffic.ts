/** Steady good traffic beside a test: one request after the other, every failure kept. */
import { Agent } from 'node:http';
import type { Test } from 'tap';
import { call } from './clients.ts';
import { until } from './wait.ts';

export class Traffic {
  /** Requests answered 200. */
  served = 0;
  readonly failures: string[] = [];
  readonly #port: number;
  readonly #path: string;
  readonly #agent: Agent;
  #stopping = false;
  readonly #done: Promise<void>;

  /** @param kept one connection for all requests, else a new one for each */
  constructor(t: Test, port: number, { path = '/tell', kept = true } = {}) {
    this.#port = port;
    this.#path = path;
    this.#agent = new Agent({ keepAlive: kept, maxSockets: 1 });
    this.#done = this.#loop();
    t.teardown(() => this.stop());
  }

  /** Ends it; all that was begun is over then. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
    this.#agent.destroy();
  }

  /** Waits until so many more have been served: it lives. */
  async goesOn(more = 3): Promise<void> {
    const from = this.served;
    await until(`${more} more requests (failures: ${this.failures})`, () => this.served >= from + more);
  }

  async #loop(): Promise<void> {
    while (!this.#stopping) {
      try {
        const { status, body } = await call(this.#port, this.#path, { agent: this.#agent });
        if (status === 200) this.served++;
        else this.failures.push(`${status} at ${new Date().toISOString()}: ${body.toString().trim()}`);
      } catch (error) {
        this.failures.push(`${(error as Error).message} at ${new Date().toISOString()}`);
      }
      // A breath between two: it shall show failures, not use up the machine.
      await new Promise((resolve) => {
        setTimeout(resolve, 5);
      });
    }
  }
}
