/** Keeps our CA among those that the API server trusts for this webhook: `caBundle` of its configuration. */
import { X509Certificate } from 'node:crypto';
import { type KubernetesApi, refusalOf } from '../ca-client/kubernetes-api.ts';

/** Those of replicas and of the process before; the youngest stay. */
const MAX_CERTIFICATES = 8;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/**
 * Adds our CA where it is missing, and takes out what has expired.
 * @param name of the MutatingWebhookConfiguration
 * @returns whether it had to be changed
 * @throws Error with the API server's words; also where another replica was quicker, which is tried again
 */
export async function keepCaBundle(
  api: KubernetesApi,
  name: string,
  caPem: string,
  now: number,
): Promise<boolean> {
  const path = `/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/${name}`;
  const found = await api.ask('GET', path);
  const what = `MutatingWebhookConfiguration ${name}`;
  if (found.status !== 200) throw new Error(`${what} cannot be read: ${refusalOf(found)}`);
  const { webhooks, metadata } = found.body as Configuration;
  const steps = (webhooks ?? []).flatMap(({ clientConfig }, i) => {
    const old = clientConfig?.caBundle ?? '';
    const bundle = Buffer.from(bundleWith(Buffer.from(old, 'base64').toString('utf8'), caPem, now)).toString(
      'base64',
    );
    return bundle === old ? [] : [{ op: 'add', path: `/webhooks/${i}/clientConfig/caBundle`, value: bundle }];
  });
  if (steps.length === 0) return false;
  // Between reading and writing another replica may have added its own.
  const unchanged = { op: 'test', path: '/metadata/resourceVersion', value: metadata?.resourceVersion ?? '' };
  const done = await api.ask('PATCH', path, [unchanged, ...steps]);
  if (done.status !== 200) throw new Error(`${what} cannot be patched: ${refusalOf(done)}`);
  return true;
}

interface Configuration {
  readonly metadata?: { readonly resourceVersion?: string };
  readonly webhooks?: readonly { readonly clientConfig?: { readonly caBundle?: string } }[];
}

/** The valid certificates of a bundle, and ours, which is the last where it was not in it. */
export function bundleWith(bundle: string, caPem: string, now: number): string {
  const ours = caPem.trim();
  const valid = (bundle.match(CERTIFICATE) ?? []).filter((pem) => endOf(pem) > now);
  const all = valid.includes(ours) ? valid : [...valid, ours];
  const last = all.slice(-MAX_CERTIFICATES);
  return `${(last.includes(ours) ? last : [ours, ...last.slice(1)]).join('\n')}\n`;
}

function endOf(pem: string): number {
  try {
    return new X509Certificate(pem).validToDate.getTime();
  } catch {
    return 0;
  }
}
