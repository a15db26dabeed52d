/** The demo's client outside the mesh: no sidecar, no certificate, plaintext twice a second. */
import { Agent, get } from 'node:http';

const INTERVAL_MS = 500;
const TIMEOUT_MS = 5_000;

/** Calls until SIGTERM or SIGINT. Says on stdout when it was first answered 200, and logs each change of the outcome. */
export function runLegacy(port: number): void {
  const agent = new Agent({ keepAlive: true });
  let last = '';
  let ready = false;
  const call = () => {
    const request = get({ host: '127.0.0.1', port, path: '/', agent, timeout: TIMEOUT_MS }, (response) => {
      response.resume().on('error', (error) => note(error.message));
      response.on('end', () => note(`answered ${response.statusCode}`));
    });
    request.on('timeout', () => request.destroy(new Error('no answer in time')));
    request.on('error', (error) => note(error.message));
  };
  const note = (outcome: string) => {
    if (outcome !== last) {
      process.stderr.write(`${new Date().toISOString()} GET 127.0.0.1:${port}/: ${outcome}\n`);
    }
    last = outcome;
    if (ready || outcome !== 'answered 200') return;
    ready = true;
    process.stdout.write(`${JSON.stringify({ ready: true })}\n`);
  };
  call();
  const timer = setInterval(call, INTERVAL_MS);
  const stop = () => {
    clearInterval(timer);
    agent.destroy();
  };
  process.once('SIGTERM', stop).once('SIGINT', stop);
}
