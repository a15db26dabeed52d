/** The real Kubernetes API for tests: objects made, read and deleted, and accounts as pods have them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { Agent, request } from 'undici';
import { parseAllDocuments } from 'yaml';
import { temporaryFolder } from '../ca-client/helper.ts';
import type { ControlPlane } from './control-plane.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of the API are looked into by tests that know them
type Any = any;

export interface Asked {
  readonly status: number;
  readonly body: Any;
}

/** Where the kinds of our manifests are. */
const PLURALS: Readonly<Record<string, string>> = {
  NetworkPolicy: 'networkpolicies',
};
const CLUSTER_WIDE = ['Namespace', 'ClusterRole', 'ClusterRoleBinding', 'MutatingWebhookConfiguration'];

export class Kubernetes {
  readonly #plane: ControlPlane;
  /** The test API server's certificate is its own. */
  readonly #agent = new Agent({ connect: { rejectUnauthorized: false } });

  constructor(t: Test, plane: ControlPlane) {
    this.#plane = plane;
    t.teardown(() => this.#agent.close());
  }

  async ask(method: string, path: string, body?: object): Promise<Asked> {
    const merge = method === 'PATCH' && !Array.isArray(body) ? 'application/merge-patch+json' : null;
    const type = method === 'PATCH' ? (merge ?? 'application/json-patch+json') : 'application/json';
    const { statusCode, body: stream } = await request(new URL(path, this.#plane.env('KUBE_API')), {
      dispatcher: this.#agent,
      method: method as 'GET',
      headers: { authorization: `Bearer ${this.#plane.env('KUBE_TOKEN')}`, 'content-type': type },
      body: body === undefined ? null : JSON.stringify(body),
    });
    return { status: statusCode, body: await stream.json() };
  }

  /** Makes an object, strict about fields that the API does not know. */
  create(object: Any, more = ''): Promise<Asked> {
    return this.ask('POST', `${pathOf(object)}?fieldValidation=Strict${more}`, object);
  }

  /** A namespace that is gone after the test, as far as anything here deletes namespaces. */
  async namespace(t: Test, name: string, labels: Readonly<Record<string, string>> = {}): Promise<string> {
    await this.create({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } });
    t.teardown(() => this.ask('DELETE', `/api/v1/namespaces/${name}`));
    return name;
  }

  /** The folder that the kubelet gives a pod of that account, its token for the API server. */
  async account(t: Test, namespace: string, name: string): Promise<string> {
    const dir = temporaryFolder(t);
    const token = await this.#plane.token(namespace, name, 'https://kubernetes.default.svc');
    writeFileSync(join(dir, 'token'), token);
    writeFileSync(join(dir, 'namespace'), namespace);
    writeFileSync(join(dir, 'ca.crt'), readFileSync(join(this.#plane.dir, 'apicerts/apiserver.crt')));
    return dir;
  }
}

/** Every object of some manifest files. */
export function objectsIn(...files: readonly string[]): readonly Any[] {
  return files.flatMap((file) =>
    parseAllDocuments(readFileSync(file, 'utf8'))
      .map((document) => document.toJS() as Any)
      .filter((object) => object !== null),
  );
}

function pathOf({ apiVersion, kind, metadata }: Any): string {
  const root = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const place = CLUSTER_WIDE.includes(kind) ? '' : `/namespaces/${metadata.namespace ?? 'default'}`;
  return `${root}${place}/${PLURALS[kind] ?? `${kind.toLowerCase()}s`}`;
}
