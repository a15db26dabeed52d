/** Reaches a provider of the mesh the way any other service is reached: routed, over mTLS where its route says so. */
import type { Duplex } from 'node:stream';
import { routeOfProvider } from '../registry/extension-providers.ts';
import { reachEndpoint } from './choose-route.ts';
import type { DataPath } from './data-path.ts';

/**
 * Opens a stream of plaintext to a service. It emits `leaving` when it is to be given up soon, for its peer's
 * certificate is near its end: what is begun on it then may be cut.
 * @param service `HOST` or `NS/HOST`
 * @throws Error saying why it could not be reached
 */
export function connectProvider(path: DataPath, service: string, port: number): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const route = path.snapshot === null ? null : routeOfProvider(path.snapshot.route, service, port);
    if (route === null) {
      reject(new Error(`no service ${service} with port ${port} is known`));
      return;
    }
    // Fresh: whoever asks keeps its own connections, and pools them better than the data path could.
    reachEndpoint(
      path,
      { route, protocol: 'tcp', fresh: true, lost: null },
      {
        connected: ({ stream }) => resolve(stream),
        failed: (reason, detail) => reject(new Error(`${reason}: ${detail}`)),
      },
    );
  });
}
