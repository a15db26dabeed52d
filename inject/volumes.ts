/** The volumes of an injected pod, and where the sidecar finds each. */
import type { InjectConfig } from './inject-config.ts';
import type { JsonObject } from './json.ts';
import type { Named } from './pod.ts';

/** Paths inside the sidecar's container; where Istio has the same, its paths. */
export const paths = {
  config: '/etc/oarlock/config',
  /** The one place it may write. */
  state: '/var/lib/oarlock',
  root: '/var/run/secrets/istio',
  token: '/var/run/secrets/tokens',
  podInfo: '/etc/istio/pod',
} as const;

/** File names inside. */
export const files = {
  root: `${paths.root}/root-cert.pem`,
  token: `${paths.token}/istio-token`,
  labels: `${paths.podInfo}/labels`,
} as const;

/** Kubernetes renews the token at 80 % of this: 12 hours, as Istio asks for. */
const TOKEN_SECONDS = 43_200;

export function volumes(config: InjectConfig): readonly Named[] {
  return [
    // In memory: what a process leaves behind is gone with the pod.
    { name: 'oarlock-state', emptyDir: { medium: 'Memory', sizeLimit: '64Mi' } },
    // Needed: without its policies a sidecar would be open, so it rather does not start.
    { name: 'oarlock-config', configMap: { name: config.configMap } },
    {
      name: 'istio-podinfo',
      downwardAPI: {
        items: [
          { path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } },
          { path: 'annotations', fieldRef: { fieldPath: 'metadata.annotations' } },
        ],
      },
    },
    {
      name: 'istio-token',
      projected: {
        sources: [
          {
            serviceAccountToken: {
              path: 'istio-token',
              expirationSeconds: TOKEN_SECONDS,
              audience: config.tokenAudience,
            },
          },
        ],
      },
    },
    { name: 'istiod-ca-cert', configMap: { name: config.rootConfigMap } },
  ];
}

export const volumeMounts: readonly JsonObject[] = [
  { name: 'oarlock-state', mountPath: paths.state },
  { name: 'oarlock-config', mountPath: paths.config, readOnly: true },
  { name: 'istiod-ca-cert', mountPath: paths.root, readOnly: true },
  { name: 'istio-token', mountPath: paths.token, readOnly: true },
  { name: 'istio-podinfo', mountPath: paths.podInfo, readOnly: true },
];
