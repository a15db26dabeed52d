/** One side of an `http.Server` + undici pair, in a process of its own. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Pool } from 'undici';
import { clientTls, serve, sideOf } from './node-tls.ts';

const side = sideOf();
const toCallee = side.role === 'caller';
const pool = new Pool(`${toCallee ? 'https' : 'http'}://127.0.0.1:${side.dial}`, {
  ...(toCallee ? { connect: clientTls(side) } : {}),
  headersTimeout: 0,
  bodyTimeout: 0,
});

/** Fields that belong to one connection, and those undici sets itself. */
const OWN = new Set(['connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'te', 'trailer']);

async function pass(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method = 'GET', url = '/' } = request;
  const headers: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(request.headers)) {
    if (value !== undefined && !OWN.has(name)) headers[name] = value;
  }
  const hasBody =
    request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined;
  const gone = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished) gone.abort();
  });
  const what = {
    method: method as 'GET',
    path: url,
    headers,
    body: hasBody ? request : null,
    signal: gone.signal,
  };
  await pool.stream(what, ({ statusCode, headers }) => {
    const answered: Record<string, string | string[]> = {};
    for (const [name, value] of Object.entries(headers)) {
      if (value !== undefined && !OWN.has(name)) answered[name] = value;
    }
    return response.writeHead(statusCode, answered);
  });
}

serve(side, (request, response) => {
  pass(request, response).catch((error: Error) => {
    process.stderr.write(`${error.message}\n`);
    if (response.headersSent) response.destroy();
    else response.writeHead(502).end();
  });
});
