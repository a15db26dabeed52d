/** What of a pod's connections is captured: by the pod's annotations, else by the operator's word for all pods. */
import { ports } from '../mesh/ports.ts';
import { names } from './annotations.ts';
import type { InjectConfig } from './inject-config.ts';
import type { Pod } from './pod.ts';

/** Fields of Istio's values under `global.proxy`. */
export type CaptureField =
  | 'includeIPRanges'
  | 'excludeIPRanges'
  | 'includeInboundPorts'
  | 'excludeInboundPorts'
  | 'includeOutboundPorts'
  | 'excludeOutboundPorts';

/** What is said of capture, under each name it goes by. */
interface Said {
  readonly annotation: string;
  /** Absent: it is for pods alone to say. */
  readonly field?: CaptureField;
  /** Of `oarlock iptables`. */
  readonly flag: string;
}

const SAID: readonly Said[] = [
  { annotation: names.includeOutboundRanges, field: 'includeIPRanges', flag: '--include-outbound-cidrs' },
  { annotation: names.excludeOutboundRanges, field: 'excludeIPRanges', flag: '--exclude-outbound-cidrs' },
  { annotation: names.includeInboundPorts, field: 'includeInboundPorts', flag: '--include-inbound-ports' },
  { annotation: names.includeOutboundPorts, field: 'includeOutboundPorts', flag: '--include-outbound-ports' },
  { annotation: names.excludeOutboundPorts, field: 'excludeOutboundPorts', flag: '--exclude-outbound-ports' },
  { annotation: names.excludeInterfaces, flag: '--exclude-interfaces' },
  { annotation: names.excludeInboundPorts, field: 'excludeInboundPorts', flag: '--exclude-inbound-ports' },
  { annotation: names.virtualInterfaces, flag: '--kubevirt-interfaces' },
];

export interface Capture {
  readonly annotation: string;
  readonly flag: string;
  readonly value: string;
}

/**
 * All that differs from the defaults of `oarlock iptables`. An annotation beats the operator's word, even where it is
 * empty, as in Istio's template.
 * @param statusPort of metrics and probes; 0: none. The kubelet asks it in plaintext, so another than the usual, which
 *   is never captured, is left out here
 */
export function captureOf(
  annotations: Pod['annotations'],
  statusPort: number,
  config: InjectConfig,
): readonly Capture[] {
  return SAID.flatMap(({ annotation, field, flag }) => {
    const said = annotations[annotation] ?? older(annotation, annotations) ?? wordOf(config, field);
    const excluded = annotation === names.excludeInboundPorts ? withPort(said ?? '', statusPort) : said;
    const value = excluded === '' && said === undefined ? undefined : excluded;
    return value === undefined ? [] : [{ annotation, flag, value: tidy(value) }];
  });
}

/** The annotation that came before this one. */
function older(annotation: string, annotations: Pod['annotations']): string | undefined {
  return annotation === names.virtualInterfaces ? annotations[names.kubevirtInterfaces] : undefined;
}

function wordOf(config: InjectConfig, field: CaptureField | undefined): string | undefined {
  const word = field === undefined ? null : config[field];
  return word === null ? undefined : String(word);
}

function withPort(list: string, port: number): string {
  if (port === 0 || port === ports.metrics) return list;
  const excluded = tidy(list)
    .split(',')
    .filter((one) => one !== '');
  return excluded.includes(String(port)) ? list : [...excluded, port].join(',');
}

function tidy(list: string): string {
  return list
    .split(',')
    .map((part) => part.trim())
    .join(',');
}
