/** Rewrites a pod's probes and lifecycle handlers to ask the sidecar, and says what the sidecar is to ask in their place. */
import { compareText } from '../mesh/text.ts';

/** A part of a manifest as it was read: nothing of it is checked yet. */
type Json = Readonly<Record<string, unknown>>;

export interface ProbeRewriting {
  /** The pod's annotations: `sidecar.istio.io/rewriteAppHTTPProbers` and `status.sidecar.istio.io/port`. */
  readonly annotations: Json;
  /** Where the sidecar answers, unless the annotation says: 15020. */
  readonly statusPort: number;
  /** `ISTIO_KUBE_APP_PROBERS` of a sidecar that is there already; null: none. What it holds stays. */
  readonly probers: string | null;
}

export interface RewrittenProbes {
  /** The pod's spec. What was given is not touched; it is given back where nothing was to be done. */
  readonly spec: Json;
  /** The sidecar's `ISTIO_KUBE_APP_PROBERS`; null: it has nothing to ask, and the name is left out. */
  readonly probers: string | null;
  /** Probes that were left as they are though they may fail under STRICT, one line each. */
  readonly warnings: readonly string[];
}

/** A probe's or handler's field, and the last part of the path that stands for it (Istio's pilot-agent). */
const PROBES = [
  ['readinessProbe', 'readyz'],
  ['livenessProbe', 'livez'],
  ['startupProbe', 'startupz'],
] as const;
const HANDLERS = [
  ['preStop', 'prestopz'],
  ['postStart', 'poststartz'],
] as const;
const SIDECAR = 'istio-proxy';

/**
 * Rewrites `httpGet`, `tcpSocket` and `grpc` probes of all containers but the sidecar's, init containers included,
 * and `httpGet` and `tcpSocket` of their lifecycle handlers, as Istio's injection does (pkg/kube/inject/app_probe.go).
 * Applied to its own result it changes nothing.
 *
 * Other than Istio's: a probe with a `host` of its own is left alone, for it may ask another pod, and so is one whose
 * named port its container does not have; Istio rewrites both, and both fail from then on.
 * @throws Error where `probers` is not what an injection writes
 */
export function rewriteProbes(spec: Json, how: ProbeRewriting): RewrittenProbes {
  const warnings: string[] = [];
  const statusPort = statusPortOf(how, warnings);
  if (!wanted(how.annotations) || statusPort === null) return { spec, probers: how.probers, warnings };
  const table = new Map<string, Json>(Object.entries(readProbers(how.probers)));
  const work: Work = { statusPort, table, warnings };
  const changed: Record<string, unknown> = {};
  for (const list of ['initContainers', 'containers']) {
    const before = spec[list];
    if (!Array.isArray(before)) continue;
    const after = before.map((container: unknown) =>
      isJson(container) ? rewritten(container, work) : container,
    );
    if (after.some((container, index) => container !== before[index])) changed[list] = after;
  }
  return {
    spec: Object.keys(changed).length === 0 ? spec : { ...spec, ...changed },
    probers: table.size === 0 ? null : printed(table),
    warnings,
  };
}

interface Work {
  readonly statusPort: number;
  /** What the sidecar asks, by the path it is asked at. */
  readonly table: Map<string, Json>;
  readonly warnings: string[];
}

/** @returns the container itself where it has nothing to rewrite */
function rewritten(container: Json, work: Work): Json {
  const { name, lifecycle } = container;
  if (typeof name !== 'string' || name === SIDECAR) return container;
  const changed: Record<string, unknown> = {};
  for (const [field, kind] of PROBES) {
    const probe = container[field];
    if (isJson(probe))
      replace(changed, field, probe, asked(probe, { container, path: `/app-health/${name}/${kind}` }, work));
  }
  const handlers: Record<string, unknown> = {};
  if (isJson(lifecycle)) {
    for (const [field, kind] of HANDLERS) {
      const handler = lifecycle[field];
      // The kubelet knows no grpc here.
      if (!isJson(handler) || isJson(handler.grpc)) continue;
      replace(
        handlers,
        field,
        handler,
        asked(handler, { container, path: `/app-lifecycle/${name}/${kind}` }, work),
      );
    }
    if (Object.keys(handlers).length > 0) changed.lifecycle = { ...lifecycle, ...handlers };
  }
  return Object.keys(changed).length === 0 ? container : { ...container, ...changed };
}

function replace(into: Record<string, unknown>, field: string, before: Json, after: Json): void {
  if (after !== before) into[field] = after;
}

interface Place {
  readonly container: Json;
  /** What the sidecar is asked at in its place. */
  readonly path: string;
}

/** The probe that asks the sidecar in this one's place, which is noted in the table; or the same where it stays. */
function asked(probe: Json, { container, path }: Place, { statusPort, table, warnings }: Work): Json {
  const kind = (['httpGet', 'tcpSocket', 'grpc'] as const).find((name) => isJson(probe[name]));
  if (kind === undefined) return probe;
  const action = probe[kind] as Json;
  if (isSet(action.host)) {
    warnings.push(
      `the probe for ${path} has a host of its own (${String(action.host)}): it is left as it is`,
    );
    return probe;
  }
  const port = numberOf(action.port, container);
  if (port === null) {
    warnings.push(
      `the probe for ${path} asks at port ${String(action.port)}, which its container does not name`,
    );
    return probe;
  }
  // It asks the sidecar already.
  if (port === statusPort) return probe;
  const { timeoutSeconds } = probe;
  table.set(path, {
    [kind]: kind === 'grpc' ? { port, service: action.service ?? null } : { ...action, port },
    ...(typeof timeoutSeconds === 'number' && timeoutSeconds > 0 ? { timeoutSeconds } : {}),
  });
  const { tcpSocket: _tcp, grpc: _grpc, ...rest } = probe;
  // The kubelet asks the sidecar in plaintext; the sidecar asks the app over TLS.
  const httpGet =
    kind === 'httpGet' ? { ...action, ...(action.scheme === 'HTTPS' ? { scheme: 'HTTP' } : {}) } : {};
  return { ...rest, httpGet: { ...httpGet, path, port: statusPort } };
}

/** A port by number, or by a name its container gives; also a number in quotes, as the kubelet takes it. */
function numberOf(port: unknown, container: Json): number | null {
  const named = typeof port === 'string' ? namedPort(port, container) : port;
  const number = typeof named === 'string' && /^[0-9]{1,5}$/.test(named) ? Number(named) : named;
  return typeof number === 'number' && Number.isInteger(number) && number >= 1 && number <= 65_535
    ? number
    : null;
}

function namedPort(name: string, { ports }: Json): unknown {
  const found = Array.isArray(ports)
    ? ports.find((port: unknown) => isJson(port) && port.name === name)
    : undefined;
  return isJson(found) ? found.containerPort : name;
}

/** Istio's default is to rewrite. The words are those of Go's `strconv.ParseBool`; others are not heeded. */
function wanted(annotations: Json): boolean {
  return !/^(?:0|f|F|false|FALSE|False)$/.test(String(annotations['sidecar.istio.io/rewriteAppHTTPProbers']));
}

/** @returns null where the sidecar has no such port, as the annotation's 0 says */
function statusPortOf({ annotations, statusPort }: ProbeRewriting, warnings: string[]): number | null {
  const text = annotations['status.sidecar.istio.io/port'];
  if (text === undefined) return statusPort;
  const number = numberOf(String(text), {});
  if (number === null) {
    warnings.push(
      `status.sidecar.istio.io/port ${JSON.stringify(text)} is no port to ask at: probes are left as they are`,
    );
  }
  return number;
}

function readProbers(text: string | null): Readonly<Record<string, Json>> {
  if (text === null || text === '') return {};
  try {
    const value: unknown = JSON.parse(text);
    if (isJson(value) && Object.values(value).every(isJson)) return value as Readonly<Record<string, Json>>;
  } catch {
    // Said below.
  }
  throw new Error("ISTIO_KUBE_APP_PROBERS of the pod's istio-proxy is no JSON object of probes");
}

/** By path, as Go's encoding/json sorts a map. */
function printed(table: ReadonlyMap<string, Json>): string {
  return JSON.stringify(Object.fromEntries([...table].sort(([a], [b]) => compareText(a, b))));
}

function isSet(value: unknown): boolean {
  return value !== undefined && value !== null && value !== '';
}

function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
