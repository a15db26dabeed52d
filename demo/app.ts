/** A little app of the demo: answers in JSON, says who called it, and asks the next app by its sidecar. */
import { Agent, createServer, get, type IncomingMessage, type ServerResponse } from 'node:http';

export interface AppOptions {
  readonly name: string;
  /** On 127.0.0.1. */
  readonly port: number;
  /** Whom to ask before a GET is answered: a port of our own sidecar, which knows the way. Null: nobody. */
  readonly next: { readonly name: string; readonly port: number; readonly path: string } | null;
}

const NEXT_TIMEOUT_MS = 5_000;
/** How long answers under way may take once we are told to stop. */
const STOP_MS = 1_000;
const agent = new Agent({ keepAlive: true });

/** Serves until SIGTERM or SIGINT; says on stdout when it is ready. It knows nothing of TLS. */
export function runApp(options: AppOptions): void {
  const server = createServer((request, response) => {
    void answer(options, request, response);
  });
  server.listen(options.port, '127.0.0.1', () => {
    process.stdout.write(`${JSON.stringify({ ready: true, port: options.port })}\n`);
  });
  const stop = () => {
    server.close();
    server.closeIdleConnections();
    agent.destroy();
    setTimeout(() => server.closeAllConnections(), STOP_MS).unref();
  };
  process.once('SIGTERM', stop).once('SIGINT', stop);
}

async function answer(
  { name, next }: AppOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  // A body is not looked at, but must be read for the connection to be used again.
  request.resume();
  const { method = '', url = '' } = request;
  const body: Record<string, unknown> = { app: name, request: `${method} ${url}`, caller: callerOf(request) };
  let status = 200;
  if (next !== null && method === 'GET' && url !== '/health') {
    const given = await ask(next.port, next.path);
    body[next.name] = given.body;
    if (given.status !== 200) status = 502;
  }
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

/** The sidecar sets this header from the verified certificate, and drops one that came over the network. */
function callerOf(request: IncomingMessage): string {
  const header = request.headers['x-forwarded-client-cert'];
  const uri = typeof header === 'string' ? /URI=([^;,]*)/.exec(header)?.[1] : undefined;
  return uri ?? 'unknown, by plaintext';
}

function ask(port: number, path: string): Promise<{ readonly status: number; readonly body: unknown }> {
  return new Promise((resolve) => {
    const failed = (error: Error) => {
      process.stderr.write(`GET 127.0.0.1:${port}${path}: ${error.message}\n`);
      resolve({ status: 0, body: error.message });
    };
    const request = get({ host: '127.0.0.1', port, path, agent, timeout: NEXT_TIMEOUT_MS }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', failed);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: response.statusCode ?? 0, body: parsed(text) });
      });
    });
    request.on('timeout', () => request.destroy(new Error('no answer in time')));
    request.on('error', failed);
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
