/** EndpointSlice and Endpoints (Kubernetes): who stands behind a Service by address, instead of its selector. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { anything, boolean, listOf, object, portNumber, Reporter, string } from '../mesh/schema.ts';
import { kubeObject, kubeTop } from './kube-schema.ts';

export interface SliceEndpoint {
  readonly address: string;
  readonly ready: boolean;
  /** `NS/NAME` where it says which Pod this is. */
  readonly pod: string | null;
}

export interface EndpointSlice {
  readonly namespace: string;
  /** Name of the Service. */
  readonly service: string;
  /** Port name of the Service (`''` where it has none) → number at each endpoint. */
  readonly ports: ReadonlyMap<string, number>;
  readonly endpoints: readonly SliceEndpoint[];
  /** Of the older kind `Endpoints`, which counts only where there is no slice. */
  readonly old: boolean;
}

const targetRef = object({
  kind: string,
  namespace: string,
  name: string,
  uid: anything,
  apiVersion: anything,
  resourceVersion: anything,
  fieldPath: anything,
});
const ports = listOf(kubeObject({ name: string, port: portNumber }, 'protocol appProtocol'));

const sliceFields = object({
  ...kubeTop,
  addressType: string,
  ports,
  endpoints: listOf(
    kubeObject(
      {
        addresses: listOf(string),
        conditions: kubeObject({ ready: boolean }, 'serving terminating'),
        targetRef,
      },
      'hostname nodeName zone hints deprecatedTopology',
    ),
  ),
});

const address = kubeObject({ ip: string, targetRef }, 'hostname nodeName');
const endpointsFields = object({
  ...kubeTop,
  subsets: listOf(object({ addresses: listOf(address), notReadyAddresses: listOf(address), ports })),
});

type Ref = { readonly kind: string | undefined; readonly name: string | undefined } | undefined;

function podOf(ref: Ref, namespace: string): string | null {
  return ref?.kind === 'Pod' && ref.name !== undefined ? `${namespace}/${ref.name}` : null;
}

function portMap(
  list: readonly { readonly name: string | undefined; readonly port: number | undefined }[] | undefined,
): ReadonlyMap<string, number> {
  return new Map((list ?? []).flatMap(({ name, port }) => (port === undefined ? [] : [[name ?? '', port]])));
}

/** The label by which a slice names its Service. */
const SERVICE_LABEL = 'kubernetes.io/service-name';

/**
 * EndpointSlice (discovery.k8s.io) → its decoded form.
 * @param resource its `spec` is the whole document
 * @returns null where it is of no Service, or of host names, which Istio leaves out too
 */
export function decodeEndpointSlice(resource: Resource, problems: Problem[]): EndpointSlice | null {
  const slice = sliceFields(resource.spec, [], new Reporter(resource, problems));
  const service = resource.labels.get(SERVICE_LABEL);
  if (slice === undefined || service === undefined || slice.addressType === 'FQDN') return null;
  const { namespace } = resource;
  const endpoints = (slice.endpoints ?? []).flatMap(({ addresses, conditions, targetRef: ref }) =>
    (addresses ?? []).map((ip) => ({
      address: ip,
      // "A nil value should be interpreted as true".
      ready: conditions?.ready ?? true,
      pod: podOf(ref, namespace),
    })),
  );
  return { namespace, service, ports: portMap(slice.ports), endpoints, old: false };
}

/** Endpoints (v1) → one slice a subset, as Kubernetes' mirroring makes them. */
export function decodeEndpoints(resource: Resource, problems: Problem[]): readonly EndpointSlice[] {
  const decoded = endpointsFields(resource.spec, [], new Reporter(resource, problems));
  const { namespace, name } = resource;
  return (decoded?.subsets ?? []).map((subset) => {
    const endpointsOf = (list: typeof subset.addresses, ready: boolean): readonly SliceEndpoint[] =>
      (list ?? []).flatMap(({ ip, targetRef: ref }) =>
        ip === undefined ? [] : [{ address: ip, ready, pod: podOf(ref, namespace) }],
      );
    const endpoints = [
      ...endpointsOf(subset.addresses, true),
      ...endpointsOf(subset.notReadyAddresses, false),
    ];
    return { namespace, service: name, ports: portMap(subset.ports), endpoints, old: true };
  });
}
