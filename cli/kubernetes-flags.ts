/** The flags that say where the Kubernetes API is and who we are there; their defaults are what a pod finds. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { type KubernetesApi, kubernetesApi } from '../ca-client/kubernetes-api.ts';
import { UsageError } from '../config/usage-error.ts';

/** Where each pod has its account's token, the cluster's root and its namespace. */
const ACCOUNT_DIR = '/var/run/secrets/kubernetes.io/serviceaccount';

export function addKubernetesOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--kubernetes-api <url>', 'the Kubernetes API').default('https://kubernetes.default.svc'),
    )
    .addOption(
      new Option('--kubernetes-account <dir>', 'token, ca.crt and namespace of our account there').default(
        ACCOUNT_DIR,
      ),
    );
}

export interface KubernetesAccess {
  readonly api: KubernetesApi;
  /** The one we are in. */
  readonly namespace: string;
}

/** @throws UsageError where this is no pod's, or the URL none */
export function kubernetesAccess(parsed: Readonly<Record<string, unknown>>): KubernetesAccess {
  const dir = String(parsed.kubernetesAccount);
  const url = String(parsed.kubernetesApi);
  if (!URL.canParse(url) || new URL(url).protocol !== 'https:') {
    throw new UsageError(`--kubernetes-api must be an https URL, not ${JSON.stringify(url)}`);
  }
  let namespace: string;
  try {
    namespace = readFileSync(join(dir, 'namespace'), 'utf8').trim();
  } catch (error) {
    const reason = (error as Error).message.split(', ')[0];
    throw new UsageError(`--kubernetes-account ${dir}: ${reason}; a pod with a service account token has it`);
  }
  if (!/^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/.test(namespace)) {
    throw new UsageError(`${join(dir, 'namespace')} holds no name of a namespace`);
  }
  return {
    api: kubernetesApi({ url, caFile: join(dir, 'ca.crt'), tokenFile: join(dir, 'token') }),
    namespace,
  };
}
