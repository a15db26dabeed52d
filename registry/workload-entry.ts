/** WorkloadEntry, on its own and inline in a ServiceEntry: the address, labels and account of one workload. */
import { isIP } from 'node:net';
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import type { Decoder } from '../mesh/schema.ts';
import { mapOf, object, portNumber, Reporter } from '../mesh/schema.ts';
import type { Workload } from '../mesh/workload.ts';
import {
  acceptedOnly,
  isHostName,
  isUnixAddress,
  portName,
  requireField,
  stringThat,
  tags,
  unsigned,
} from './checks.ts';

/** The label by which an endpoint says that a sidecar of ours stands before it; its value then is `istio`. */
export const TLS_MODE_LABEL = 'security.istio.io/tlsMode';

const address = stringThat(
  (text) => text === '' || isIP(text) !== 0 || isUnixAddress(text) || isHostName(text),
  'an IP address, a host name or unix:///path',
);

const MAX_ACCOUNT = 253;
const MAX_PLACE = 2048;

/** Istio takes any text for an account; no identity can be made of some. */
const account: Decoder<string> = (value, path, reporter) => {
  const text = stringThat((name) => name.length <= MAX_ACCOUNT, `at most ${MAX_ACCOUNT} characters`)(
    value,
    path,
    reporter,
  );
  if (text !== undefined && !/^[A-Za-z0-9._-]*$/.test(text)) {
    reporter.report(path, 'badValue', `${JSON.stringify(text)} is no service account name`, 'Warning');
  }
  return text;
};

const place = stringThat((text) => text.length <= MAX_PLACE, `a text of at most ${MAX_PLACE} characters`);

const fields = object({
  address,
  ports: mapOf(portNumber),
  labels: tags,
  network: acceptedOnly(place, 'networks are not routed between'),
  locality: acceptedOnly(place, 'endpoints are not chosen by locality'),
  weight: unsigned,
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
    if (spec.address === undefined || spec.address === '') {
      // "address is unset with network": it would be reached through that network's gateway.
      if (!spec.network) requireField({ ...(spec.address === '' ? {} : spec) }, 'address', path, reporter);
      else reporter.report(path, 'missing', 'without an address it cannot be reached here', 'Warning');
      return undefined;
    }
    const ports = spec.ports ?? new Map<string, number>();
    checkPorts(spec.ports, spec.address, path, reporter);
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
  ports: ReadonlyMap<string, number> | undefined,
  address: string,
  path: FieldPath,
  reporter: Reporter,
): void {
  for (const name of ports?.keys() ?? []) portName(name, [...path, 'ports', name], reporter);
  if (ports !== undefined && isUnixAddress(address)) {
    reporter.report([...path, 'ports'], 'badValue', 'a unix address has no ports');
  }
}

/** The name by which a WorkloadEntry's `ports` say where it takes HBONE. */
const HBONE_PORT_NAME = 'hbone';

/** Takes the port of tunnels out of a WorkloadEntry's ports: no service is ever served on it. */
function withoutTunnelPort(workload: Workload): Workload {
  const hbonePort = workload.ports.get(HBONE_PORT_NAME);
  if (hbonePort === undefined) return workload;
  const ports = new Map(workload.ports);
  ports.delete(HBONE_PORT_NAME);
  return { ...workload, ports, hbonePort };
}

/**
 * WorkloadEntry (networking.istio.io) → Workload, its service account '' where none is given.
 * @returns null where the address is missing or wrong; all faults are added to `problems`.
 */
export function decodeWorkloadEntry(resource: Resource, problems: Problem[]): Workload | null {
  const reporter = new Reporter(resource, problems);
  const workload = endpointOf(resource)(resource.spec, ['spec'], reporter);
  return workload === undefined ? null : withoutTunnelPort(workload);
}
