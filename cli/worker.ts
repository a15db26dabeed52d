/** A data-path thread: takes plain messages from `run`'s thread, compiles its own snapshot, answers each message. */
import { parentPort, workerData } from 'node:worker_threads';
import { compileSnapshot } from '../config/snapshot.ts';
import { createLogger } from '../telemetry/log.ts';
import { defaultSeriesBounds, MeshMetrics } from '../telemetry/mesh-metrics.ts';
import { LocalPlane } from './data-plane.ts';
import { giveBackWhenQuiet } from './give-back.ts';
import { guardPeerCertificates } from './peer-certificates.ts';
import type { WorkerAnswer, WorkerOptions, WorkerRequest } from './worker-messages.ts';

guardPeerCertificates();
const options = workerData as WorkerOptions;
const metrics = new MeshMetrics({
  ...defaultSeriesBounds,
  now: () => performance.now(),
  cluster: options.clusterId,
});
const log = createLogger(options.logLevel);
const plane = new LocalPlane(options.plane, log, metrics);
void giveBackWhenQuiet(log);

async function obey(request: WorkerRequest): Promise<unknown> {
  switch (request.kind) {
    case 'listen':
      await plane.listen(request.own);
      return plane.ports();
    case 'apply': {
      const resources = request.input.resources.map((resource) => ({
        ...resource,
        // Lines are for messages, and the main thread has told those: a function does not cross threads.
        origin: { file: resource.file, lineOf: () => 1 },
      }));
      const { snapshot } = compileSnapshot({ ...request.input, resources });
      if (snapshot === null) throw new Error('a set that the main thread compiled does not compile here');
      await plane.apply(snapshot, request.own);
      return plane.ports();
    }
    case 'credentials':
      plane.useCredentials(request.credentials);
      return null;
    case 'trust':
      plane.useTrust(request.additions);
      return null;
    case 'report':
      return plane.report();
    case 'reopen-logs':
      plane.reopenLogs();
      return null;
    case 'metrics':
      return metrics.registry.getMetricsAsJSON();
    case 'announce':
      plane.announce(request.ms);
      return null;
    case 'drain':
      await plane.drain(request.direction);
      return null;
    case 'stop':
      await plane.stop(request.why);
      return null;
  }
}

parentPort?.on('message', (request: WorkerRequest) => {
  obey(request).then(
    (value) => parentPort?.postMessage({ id: request.id, value } satisfies WorkerAnswer),
    (error: Error) =>
      parentPort?.postMessage({ id: request.id, error: error.message } satisfies WorkerAnswer),
  );
});
