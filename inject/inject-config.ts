/** What an operator sets for all injected pods; annotations of a pod may say otherwise for that one. */
import { isPorts, isPortsOrAll, isRanges, isRangesOrAll } from './annotations.ts';
import { InjectError } from './inject-error.ts';
import { isList, isObject, type Json, type JsonObject } from './json.ts';

export interface InjectConfig {
  /** Whether pods that say nothing are injected; `disabled`: only those that ask. */
  readonly policy: 'enabled' | 'disabled';
  readonly image: string;
  readonly imagePullPolicy: 'Always' | 'IfNotPresent' | 'Never' | null;
  readonly imagePullSecrets: readonly string[];
  /** HOST:PORT of a CA that speaks Istio's CreateCertificate. */
  readonly caAddress: string;
  /** Audience of the projected token, as the CA wants it. */
  readonly tokenAudience: string;
  readonly trustDomain: string;
  readonly clusterId: string;
  /** Goes into `istio.io/rev`. */
  readonly revision: string;
  /** The sidecar as an init container that stays (Kubernetes 1.29), else as a container among the app's. */
  readonly nativeSidecar: boolean;
  readonly holdApplicationUntilProxyStarts: boolean;
  /** The rules of capture are set by a CNI plugin: no init container does. */
  readonly cni: boolean;
  /** Name of the config map with resources, in each namespace. */
  readonly configMap: string;
  /** Name of the config map with the CA's root under `root-cert.pem`, in each namespace. */
  readonly rootConfigMap: string;
  /** What is captured where a pod's annotation does not say it: as in Istio's `global.proxy`. Null: not said. */
  readonly includeIPRanges: string | null;
  readonly excludeIPRanges: string | null;
  readonly includeInboundPorts: string | number | null;
  readonly excludeInboundPorts: string | number | null;
  readonly includeOutboundPorts: string | number | null;
  readonly excludeOutboundPorts: string | number | null;
  readonly logLevel: string;
  readonly rewriteProbes: boolean;
  readonly prometheus: boolean;
  /** Of both containers. */
  readonly resources: JsonObject;
  /** More environment for the sidecar; what is of the rules goes to `istio-init` too. */
  readonly env: Readonly<Record<string, string>>;
}

/** Sizes are Istio's (values.yaml, global.proxy.resources). */
export const DEFAULT_INJECT_CONFIG: InjectConfig = {
  policy: 'enabled',
  image: 'oarlock:0.1.0',
  imagePullPolicy: null,
  imagePullSecrets: [],
  caAddress: 'oarlock-ca.oarlock-system.svc:15012',
  tokenAudience: 'istio-ca',
  trustDomain: 'cluster.local',
  clusterId: 'Kubernetes',
  revision: 'default',
  nativeSidecar: true,
  holdApplicationUntilProxyStarts: false,
  cni: false,
  configMap: 'oarlock-config',
  rootConfigMap: 'istio-ca-root-cert',
  includeIPRanges: null,
  excludeIPRanges: null,
  includeInboundPorts: null,
  excludeInboundPorts: null,
  includeOutboundPorts: null,
  excludeOutboundPorts: null,
  logLevel: 'info',
  rewriteProbes: true,
  prometheus: true,
  resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { cpu: '2', memory: '1Gi' } },
  env: {},
};

type Check = (value: Json) => boolean;

const isText: Check = (value) => typeof value === 'string' && value !== '';
const isFlag: Check = (value) => typeof value === 'boolean';
/** One port in YAML is a number. */
const isListed =
  (check: (text: string) => boolean): Check =>
  (value) =>
    (typeof value === 'string' || typeof value === 'number') && check(String(value));
const isOneOf =
  (...words: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && words.includes(value);

const FIELDS: Readonly<Record<keyof InjectConfig, readonly [check: Check, shape: string]>> = {
  policy: [isOneOf('enabled', 'disabled'), 'enabled or disabled'],
  image: [isText, 'the name of an image'],
  imagePullPolicy: [isOneOf('Always', 'IfNotPresent', 'Never'), 'Always, IfNotPresent or Never'],
  imagePullSecrets: [(value) => isList(value) && value.every(isText), 'a list of names'],
  caAddress: [(value) => isText(value) && /^\S+:\d{1,5}$/.test(String(value)), 'HOST:PORT'],
  tokenAudience: [isText, 'a text'],
  trustDomain: [(value) => /^[a-z0-9._-]{1,255}$/.test(String(value)), 'a trust domain'],
  clusterId: [isText, 'a text'],
  revision: [isText, 'a text'],
  nativeSidecar: [isFlag, 'true or false'],
  holdApplicationUntilProxyStarts: [isFlag, 'true or false'],
  cni: [isFlag, 'true or false'],
  configMap: [isText, 'the name of a config map'],
  rootConfigMap: [isText, 'the name of a config map'],
  includeIPRanges: [isListed(isRangesOrAll), '* or CIDR ranges with commas'],
  excludeIPRanges: [isListed(isRanges), 'CIDR ranges with commas'],
  includeInboundPorts: [isListed(isPortsOrAll), '* or ports with commas'],
  excludeInboundPorts: [isListed(isPorts), 'ports with commas'],
  includeOutboundPorts: [isListed(isPorts), 'ports with commas'],
  excludeOutboundPorts: [isListed(isPorts), 'ports with commas'],
  logLevel: [isOneOf('trace', 'debug', 'info', 'warn', 'error'), 'trace, debug, info, warn or error'],
  rewriteProbes: [isFlag, 'true or false'],
  prometheus: [isFlag, 'true or false'],
  resources: [isObject, 'an object with requests and limits'],
  env: [
    (value) => isObject(value) && Object.values(value).every((text) => typeof text === 'string'),
    'an object of texts',
  ],
};

/**
 * The defaults with what a file or flags say instead.
 * @param given an object with fields of InjectConfig
 * @param from how to name it in an error
 * @throws InjectError naming a field that is not known, or has another shape
 */
export function readInjectConfig(given: Json, from: string): InjectConfig {
  if (given === null) return DEFAULT_INJECT_CONFIG;
  if (!isObject(given)) throw new InjectError(`${from} must be an object with fields such as image: NAME`);
  for (const [name, value] of Object.entries(given)) {
    const field = Object.hasOwn(FIELDS, name) ? FIELDS[name as keyof InjectConfig] : undefined;
    if (field === undefined) {
      throw new InjectError(`${from}: ${name} is not known; there are ${Object.keys(FIELDS).join(', ')}`);
    }
    const [check, shape] = field;
    if (value === undefined || !check(value)) throw new InjectError(`${from}: ${name} must be ${shape}`);
  }
  return { ...DEFAULT_INJECT_CONFIG, ...(given as Partial<InjectConfig>) };
}
