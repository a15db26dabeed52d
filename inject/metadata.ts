/** The labels and annotations that an injected pod gets, under Istio's names. */
import { names } from './annotations.ts';
import { captureOf } from './capture.ts';
import type { InjectConfig } from './inject-config.ts';
import type { Owner } from './owner.ts';
import { type Named, type Pod, PROXY_CONTAINER } from './pod.ts';
import { type Settings, wantsMetrics } from './settings.ts';

/** A label's value has so many characters. */
const LONGEST_LABEL = 63;

/** As Istio's template sets them; what the pod says itself stays. */
export function injectedLabels(pod: Pod, owner: Owner, settings: Settings): Readonly<Record<string, string>> {
  const { labels } = pod;
  const first = (...values: readonly (string | undefined)[]): string => values.find((value) => value) ?? '';
  const name = first(labels[names.canonicalName], labels['app.kubernetes.io/name'], labels.app, owner.name);
  const revision = first(
    labels[names.canonicalRevision],
    labels['app.kubernetes.io/version'],
    labels.version,
    'latest',
  );
  return {
    ...labels,
    [names.tlsMode]: first(labels[names.tlsMode], 'istio'),
    ...(settings.env.ISTIO_META_ENABLE_HBONE === 'true'
      ? { [names.tunnel]: first(labels[names.tunnel], 'http') }
      : {}),
    [names.canonicalName]: labelValue(name),
    [names.canonicalRevision]: revision,
  };
}

/** A workload's name may be longer than a label's value, and a cut may leave what a label must not end with. */
function labelValue(text: string): string {
  return text.slice(0, LONGEST_LABEL).replace(/^[-_.]+|[-_.]+$/g, '');
}

/** What injection put into the pod, as `sidecar.istio.io/status` has it. */
export interface Added {
  readonly initContainers: readonly Named[];
  readonly containers: readonly Named[];
  readonly volumes: readonly Named[];
  readonly imagePullSecrets: readonly string[];
}

export function injectedAnnotations(
  pod: Pod,
  added: Added,
  settings: Settings,
  config: InjectConfig,
): Readonly<Record<string, string>> {
  const { annotations } = pod;
  const app = pod.containers.find(({ name }) => name !== PROXY_CONTAINER)?.name;
  const result: Record<string, string> = { ...annotations, [names.revision]: config.revision };
  if (app !== undefined) {
    result[names.defaultContainer] ??= app;
    result[names.defaultLogsContainer] ??= app;
  }
  if (settings.statusPort !== 0 && wantsMetrics(annotations, config) && !hasScraping(annotations)) {
    result['prometheus.io/scrape'] = 'true';
    result['prometheus.io/port'] = String(settings.statusPort);
    result['prometheus.io/path'] = '/stats/prometheus';
  }
  // A CNI plugin has no more than these to go by, as Istio's.
  if (config.cni) {
    result[names.interceptionMode] = settings.redirect ? 'REDIRECT' : 'NONE';
    for (const { annotation, value } of captureOf(annotations, settings.statusPort, config))
      result[annotation] = value;
  }
  result[names.status] = status(added, config.revision);
  return result;
}

/** As Istio's injector writes it: null for an empty list. */
function status({ initContainers, containers, volumes, imagePullSecrets }: Added, revision: string): string {
  const list = (values: readonly string[]): readonly string[] | null => (values.length === 0 ? null : values);
  const namesOf = (named: readonly Named[]): readonly string[] | null => list(named.map(({ name }) => name));
  return JSON.stringify({
    initContainers: namesOf(initContainers),
    containers: namesOf(containers),
    volumes: namesOf(volumes),
    imagePullSecrets: list(imagePullSecrets),
    revision,
  });
}

/**
 * The app's own metrics, or a wish not to be asked, under any of the spellings Prometheus takes for the same. They
 * stay: we do not ask the app for its metrics, as Istio's agent does to merge both.
 */
function hasScraping(annotations: Pod['annotations']): boolean {
  return Object.keys(annotations).some((name) =>
    /^prometheus[^a-z0-9]io[^a-z0-9](?:scrape|port|path)$/i.test(name),
  );
}
