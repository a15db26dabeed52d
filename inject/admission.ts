/** What a mutating admission webhook answers: an AdmissionReview (admission.k8s.io/v1) in, one with a patch out. */
import type { InjectConfig } from './inject-config.ts';
import { InjectError } from './inject-error.ts';
import { injectPod } from './inject-pod.ts';
import { isObject, type Json, type JsonObject } from './json.ts';
import { jsonPatch } from './json-patch.ts';
import { ownerOfPod, textOf } from './owner.ts';

export interface AdmissionAnswer {
  /** The AdmissionReview to send back. */
  readonly review: JsonObject;
  /** For the log. */
  readonly outcome: 'injected' | 'skipped' | 'refused';
  /** `NAMESPACE/NAME`, or what there is of it before the API server makes a name. */
  readonly pod: string;
  /** Why it was refused; null: it was not. */
  readonly error: string | null;
}

/** The API server shows so much of a warning. */
const LONGEST_WARNING = 256;
const MOST_WARNINGS = 16;
const BAD_REQUEST = 400;

/**
 * Answers for one pod. One that is to be injected and cannot be is refused, as by Istio's injector: without its
 * sidecar it would be open, and its author would not know.
 * @throws InjectError where `body` is no AdmissionReview with a request
 */
export function answerReview(body: Json, config: InjectConfig): AdmissionAnswer {
  const review = isObject(body) ? body : {};
  const { apiVersion, kind, request } = review;
  if (apiVersion !== 'admission.k8s.io/v1' || kind !== 'AdmissionReview') {
    throw new InjectError('the body must be an AdmissionReview of admission.k8s.io/v1');
  }
  const uid = isObject(request) ? textOf(request.uid) : '';
  if (!isObject(request) || uid === '')
    throw new InjectError('the AdmissionReview has no request with a uid');
  const answer = (response: JsonObject): JsonObject => ({ apiVersion, kind, response: { uid, ...response } });
  const { object } = request;
  const metadata = isObject(object) && isObject(object.metadata) ? object.metadata : {};
  const namespace = textOf(metadata.namespace) || textOf(request.namespace);
  const pod = `${namespace}/${textOf(metadata.name) || textOf(metadata.generateName)}`;
  if (!isPod(request)) return { review: answer({ allowed: true }), outcome: 'skipped', pod, error: null };
  try {
    const done = injectPod(object, 'the pod', (found) => ownerOfPod(found, namespace), config);
    const warnings = done.warnings
      .slice(0, MOST_WARNINGS)
      .map((text) => `oarlock: ${text}`.slice(0, LONGEST_WARNING));
    const more = warnings.length === 0 ? {} : { warnings };
    if (!done.injected)
      return { review: answer({ allowed: true, ...more }), outcome: 'skipped', pod, error: null };
    const patch = Buffer.from(JSON.stringify(jsonPatch(object ?? null, done.pod))).toString('base64');
    const response = { allowed: true, patchType: 'JSONPatch', patch, ...more };
    return { review: answer(response), outcome: 'injected', pod, error: null };
  } catch (error) {
    if (!(error instanceof InjectError)) throw error;
    const { message } = error;
    const status = { code: BAD_REQUEST, reason: 'BadRequest', message: `oarlock: not injected: ${message}` };
    return { review: answer({ allowed: false, status }), outcome: 'refused', pod, error: message };
  }
}

/** The rule in the webhook's configuration asks for pods that are created alone; nothing else is touched. */
function isPod({ kind, operation, subResource }: JsonObject): boolean {
  const { group, version, kind: name } = isObject(kind) ? kind : {};
  return textOf(group) === '' && version === 'v1' && name === 'Pod' && operation === 'CREATE' && !subResource;
}
