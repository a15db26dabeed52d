/** On a port whose protocol nobody declared, no spelling or timing of a request gets past what reads requests. */
import t from 'tap';
import { tcpApp } from '../e2e/harness/apps.ts';
import { open } from '../e2e/harness/clients.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

t.setTimeout(180_000);

let heard = '';
/** An app that takes anything: whatever reaches it unread has got past. */
const app = await tcpApp(t, (socket) => {
  socket.on('data', (chunk) => {
    heard += chunk.toString('latin1');
    socket.end('the app heard it');
  });
});
const sidecar = await inboundSidecar(t, app.port, {
  protocol: 'auto',
  limits: { handshakeTimeout: 300 },
  verify: () => ({ kind: 'refused', status: 401, message: 'no', challenge: null }),
});
const rest = ' HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer forged\r\nConnection: close\r\n\r\n';

t.test('no spelling of a request reaches the app unread', async (t) => {
  const rows = [
    { text: `GET /admin${rest}`, status: 401 },
    { text: `\r\nGET /admin${rest}`, status: 401 },
    { text: `GET HTTP://x/admin${rest}`, status: 401 },
    { text: `get /admin${rest}`, status: 401 },
    { text: `FOO /admin${rest}`, status: 401 },
    { text: `GET  /admin${rest}`, status: 400 },
    { text: `GET\t/admin${rest}`, status: 400 },
    { text: ` GET /admin${rest}`, status: 400 },
    { text: `\r\n\r\nGET /admin${rest}`, status: 400 },
    { text: `GET x/admin${rest}`, status: 400 },
    { text: `POST x/admin${rest}`, status: 400 },
    { text: 'GET /admin HTTP/1.1\nHost: x\n\n', status: 400 },
    { text: 'GET /admin\r\n\r\n', status: 400 },
    { text: `CONNECT x:80${rest}`, status: 405 },
    { text: `${'A'.repeat(5_000)} /admin${rest}`, status: 401 },
  ];
  for (const { text, status } of rows) {
    for (const cut of [0, 3]) {
      heard = '';
      const peer = await open(t, sidecar.port);
      peer.write(text.slice(0, cut));
      peer.write(text.slice(cut));
      peer.end();
      await peer.ended();
      t.equal(Number(/^HTTP\/1\.1 (\d+)/.exec(peer.text)?.[1]), status, JSON.stringify(text.slice(0, 30)));
      t.equal(heard, '');
    }
  }
});

t.test('what may still become a request is not carried as TCP for having waited', async (t) => {
  for (const text of ['G', 'GE', 'GET', 'GET ', '\r\n', '\r\nGE', 'get', 'CONNECT x']) {
    heard = '';
    const before = sidecar.lines.length;
    const peer = await open(t, sidecar.port);
    peer.write(text);
    t.equal(await peer.ended(), 'ECONNRESET', JSON.stringify(text));
    t.equal(heard, '');
    const line = sidecar.lines.slice(before).find(({ reason }) => reason === 'request_timeout');
    t.match(line, { detail: `${text.length} bytes of what may be a request line` });
  }
});

t.test('what is no request goes to the app, at once or with its end', async (t) => {
  for (const text of [
    'USER root\r\n',
    'OPTIONS rtsp://a/b RTSP/1.0\r\n\r\n',
    '\0\x01',
    'GE',
    'hello there',
  ]) {
    heard = '';
    const peer = await open(t, sidecar.port);
    peer.write(text);
    if (text === 'GE' || text === 'hello there') peer.end();
    await peer.ended();
    t.equal(peer.text, 'the app heard it', JSON.stringify(text));
    t.equal(heard, text);
  }
});
