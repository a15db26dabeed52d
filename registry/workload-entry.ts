/** WorkloadEntry, on its own and inline in a ServiceEntry: the address, labels and account of one workload. */
import { isIP } from 'node:net';
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import type { Decoder } from '../mesh/schema.ts';
import { integer, mapOf, notHonoured, object, portNumber, Reporter, string } from '../mesh/schema.ts';
import type { Workload } from '../mesh/workload.ts';
import { isHostName, isUnixAddress, portName, requireField, stringThat } from './checks.ts';

/** The label by which an endpoint says that a sidecar of ours stands before it; its value then is `istio`. */
export const TLS_MODE_LABEL = 'security.istio.io/tlsMode';

/** Weight is protobuf's uint32. */
const MAX_WEIGHT = 0xffffffff;

const address = stringThat(
  (text) => isIP(text) !== 0 || isUnixAddress(text) || isHostName(text),
  'an IP address, a host name or unix:///path',
);

const account = stringThat(
  (text) => /^[A-Za-z0-9._-]*$/.test(text),
  'a service account name: letters, digits, dots and dashes',
);

const fields = object({
  address,
  ports: mapOf(portNumber),
  labels: mapOf(string),
  network: notHonoured('networks are not routed between'),
  locality: notHonoured('endpoints are not chosen by locality'),
  weight: integer(0, MAX_WEIGHT),
  serviceAccount: account,
});

/** A WorkloadEntry's fields at `path` → a Workload with the name, namespace and labels its owner gives it. */
export function endpointOf(owner: {
  readonly name: string;
  readonly namespace: string;
  readonly labels: ReadonlyMap<string, string>;
}): Decoder<Workload> {
  return (value, path, reporter) => {
    const spec = fields(value, path, reporter);
    if (spec === undefined) return undefined;
    if (spec.address === undefined) {
      requireField(spec, 'address', path, reporter);
      return undefined;
    }
    const ports = spec.ports ?? new Map<string, number>();
    checkPorts(ports, spec.address, path, reporter);
    return {
      name: owner.name,
      namespace: owner.namespace,
      // Istio's ConvertWorkloadEntry: "merge labels from metadata with spec, with precedence to the metadata".
      labels: new Map([...(spec.labels ?? []), ...owner.labels]),
      serviceAccount: spec.serviceAccount ?? '',
      addresses: [spec.address],
      ports,
      // Istio's GetLoadBalancingWeight: an unset weight, which protobuf cannot tell from 0, counts as 1.
      weight: spec.weight === undefined || spec.weight === 0 ? 1 : spec.weight,
    };
  };
}

function checkPorts(
  ports: ReadonlyMap<string, number>,
  address: string,
  path: FieldPath,
  reporter: Reporter,
): void {
  for (const name of ports.keys()) portName(name, [...path, 'ports', name], reporter);
  if (ports.size > 0 && isUnixAddress(address)) {
    reporter.report([...path, 'ports'], 'badValue', 'a unix address has no ports');
  }
}

/**
 * WorkloadEntry (networking.istio.io) → Workload, its service account '' where none is given.
 * @returns null where the address is missing or wrong; all faults are added to `problems`.
 */
export function decodeWorkloadEntry(resource: Resource, problems: Problem[]): Workload | null {
  const reporter = new Reporter(resource, problems);
  return endpointOf(resource)(resource.spec, ['spec'], reporter) ?? null;
}
