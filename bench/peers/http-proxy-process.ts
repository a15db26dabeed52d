/** One side of an http-proxy or http-proxy-3 pair, in a process of its own. */
import { Agent } from 'node:http';
import { Agent as TlsAgent } from 'node:https';
import { clientTls, serve, sideOf } from './node-tls.ts';

const side = sideOf();
const toCallee = side.role === 'caller';
const options = {
  target: `${toCallee ? 'https' : 'http'}://127.0.0.1:${side.dial}`,
  agent: toCallee ? new TlsAgent({ keepAlive: true, ...clientTls(side) }) : new Agent({ keepAlive: true }),
};
const proxy =
  process.argv.at(-2) === 'http-proxy'
    ? (await import('http-proxy')).default.createProxyServer(options)
    : (await import('http-proxy-3')).createProxyServer(options);
proxy.on('error', (error: Error, _request: unknown, response: unknown) => {
  process.stderr.write(`${error.message}\n`);
  if (response === null || typeof response !== 'object' || !('writeHead' in response)) return;
  const answer = response as import('node:http').ServerResponse;
  if (!answer.headersSent) answer.writeHead(502);
  answer.end();
});
const server = serve(side, (request, response) => proxy.web(request, response));
server.on('upgrade', (request, socket, head) => proxy.ws(request, socket, head));
