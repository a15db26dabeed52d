/** Whether the sidecars of a test speak HBONE to one another: the same tests hold for both ways of carrying bytes. */
import { freePorts } from './ports.ts';

/** Set by the files of `test/e2e/over-hbone/` before they import the test. */
export const overHbone = process.env.OARLOCK_TEST_OVER === 'hbone';

const free = overHbone ? await freePorts(16) : [];
const ports = new Map<string, number>();

/** The HBONE port of a workload, the same for whoever asks. */
export function hbonePortOf(workload: string): number {
  let port = ports.get(workload);
  if (port === undefined) {
    port = free.pop();
    if (port === undefined) throw new Error('more workloads than HBONE ports');
    ports.set(workload, port);
  }
  return port;
}

/** What a workload's sidecar is told. Idle tunnels close soon: one would count as a connection where none is to be left. */
export function hboneFlags(workload: string): string[] {
  return ['--hbone-port', String(hbonePortOf(workload)), '--session-idle-timeout', '2s'];
}
