/** Which of a workload's ports the rules of capture leave alone, so that no sidecar of its own takes mutual TLS there. */
import { ports, uncapturedInbound } from '../mesh/ports.ts';
import type { Workload } from '../mesh/workload.ts';

/** Istio's annotations of a Pod; where ports are included, those alone are captured, and the excluded ones do not count. */
const INCLUDE = 'traffic.sidecar.istio.io/includeInboundPorts';
const EXCLUDE = 'traffic.sidecar.istio.io/excludeInboundPorts';

/** @returns what a Pod's annotations say; undefined where they say nothing */
export function inboundCaptureOf(
  annotations: ReadonlyMap<string, string>,
): Workload['inboundCapture'] | undefined {
  const included = annotations.get(INCLUDE) ?? '*';
  const excluded = annotations.get(EXCLUDE) ?? '';
  if (included === '*' && excluded === '') return undefined;
  return { included: included === '*' ? '*' : portsIn(included), excluded: portsIn(excluded) };
}

/** True where what comes to a port reaches the app itself, or the sidecar's port for everybody. */
export function isUncaptured({ inboundCapture }: Workload, port: number): boolean {
  if (port === ports.hbone) return true;
  const { included = '*', excluded } = inboundCapture ?? {};
  if (included !== '*') return !included.has(port);
  return uncapturedInbound.includes(port) || (excluded?.has(port) ?? false);
}

function portsIn(text: string): ReadonlySet<number> {
  return new Set(
    text
      .split(',')
      .filter((item) => item.trim() !== '')
      .map(Number),
  );
}
