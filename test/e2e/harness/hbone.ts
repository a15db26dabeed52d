/** Whether the sidecars of a test speak HBONE to one another: the same tests hold for both ways of carrying bytes. */
import { freePorts } from './ports.ts';

/** Set by the files of `test/e2e/over-hbone/` before they import the test. */
export const overHbone = process.env.OARLOCK_TEST_OVER === 'hbone';

const free = overHbone ? await freePorts(24) : [];

/** The HBONE ports of one mesh. */
export class HbonePorts {
  readonly #ports = new Map<string, number>();

  /** Of a workload, the same for whoever asks. */
  of(workload: string): number {
    let port = this.#ports.get(workload);
    if (port === undefined) {
      port = free.pop();
      if (port === undefined) throw new Error('more workloads than HBONE ports');
      this.#ports.set(workload, port);
    }
    return port;
  }
}

let current = new HbonePorts();

/** Of the mesh that is being written now. */
export function hbonePorts(): HbonePorts {
  return current;
}

/** What is written from now on is another mesh: its workloads have the names of the last one, and live beside them. */
export function beginMesh(): void {
  current = new HbonePorts();
}

/** What a workload's sidecar is told. Idle tunnels close soon: one would count as a connection where none is to be left. */
export function hboneFlags(port: number): string[] {
  return ['--hbone-port', String(port), '--session-idle-timeout', '2s'];
}
