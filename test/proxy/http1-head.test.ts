/** Strict heads (RFC 9112): what is refused, what is rebuilt, and that nothing hostile is passed on as it came. */
import t from 'tap';
import { normalizeTarget } from '../../policy/path.ts';
import { HeadError } from '../../proxy/http/head.ts';
import { type Http1Request, parseRequest } from '../../proxy/http1/request-head.ts';
import { parseResponse } from '../../proxy/http1/response-head.ts';

const AS_IT_CAME = { close: false, plain: false, tunnel: false, changes: null };
const bounds = { maxFields: 100 };
const base = (target: string): string | null => normalizeTarget(target, 'BASE');
const request = (head: string) => parseRequest(head, bounds, base);
const written = (head: Http1Request): string => head.write(null).toString('latin1');
const response = (head: string, method = 'GET') => parseResponse(head, bounds, method);

/** The status a head is refused with; null where it is taken. */
function refusal(read: () => unknown): number | null {
  try {
    read();
    return null;
  } catch (error) {
    if (error instanceof HeadError) return error.status;
    throw error;
  }
}

const GET = 'GET / HTTP/1.1\r\nHost: a';

t.test('requests that are refused', async (t) => {
  const many = Array.from({ length: 101 }, (_, i) => `\r\nX-${i}: 1`).join('');
  const rows: [title: string, head: string, status?: number][] = [
    // lines
    ['bare LF between fields', `${GET}\nX: 1`],
    ['bare LF after the request line', 'GET / HTTP/1.1\nHost: a'],
    ['bare CR in a value', `${GET}\r\nX: 1\r2`],
    ['NUL in a value', `${GET}\r\nX: 1\0`],
    ['NUL in a name', `${GET}\r\nX\0: 1`],
    ['another control byte in a value', `${GET}\r\nX: a\x01b`],
    ['DEL in a value', `${GET}\r\nX: a\x7fb`],
    ['obs-fold by space', `${GET}\r\nX: 1\r\n 2`],
    ['obs-fold by tab', `${GET}\r\nX: 1\r\n\t2`],
    ['a space before the first field', 'GET / HTTP/1.1\r\n Host: a'],
    ['a space before the colon', `${GET}\r\nX : 1`],
    ['a tab before the colon', `${GET}\r\nX\t: 1`],
    ['a name that is no token', `${GET}\r\nX(y): 1`],
    ['a name beyond ASCII', `${GET}\r\nX\xe9: 1`],
    ['an empty name', `${GET}\r\n: 1`],
    ['a line without colon', `${GET}\r\nnonsense`],
    ['too many fields', `${GET}${many}`, 431],
    // request line
    ['nothing', ''],
    ['HTTP/0.9', 'GET /'],
    ['no target', 'GET HTTP/1.1\r\nHost: a'],
    ['two spaces', 'GET  / HTTP/1.1\r\nHost: a'],
    ['a tab for a space', 'GET\t/ HTTP/1.1\r\nHost: a'],
    ['a space at the end', 'GET / HTTP/1.1 \r\nHost: a'],
    ['a space in the target', 'GET /a b HTTP/1.1\r\nHost: a'],
    ['a space before the method', ' GET / HTTP/1.1\r\nHost: a'],
    ['a method that is no token', 'G(T / HTTP/1.1\r\nHost: a'],
    ['HTTP/1.2', 'GET / HTTP/1.2\r\nHost: a', 505],
    ['HTTP/2.0', 'GET / HTTP/2.0\r\nHost: a', 505],
    ['HTTP/1.10', 'GET / HTTP/1.10\r\nHost: a', 505],
    ['HTTP/01.1', 'GET / HTTP/01.1\r\nHost: a', 505],
    ['http/1.1', 'GET / http/1.1\r\nHost: a'],
    ['HTTP/1', 'GET / HTTP/1\r\nHost: a', 505],
    ['another protocol', 'GET / ICY/1.1\r\nHost: a'],
    // target
    ['a fragment', 'GET /a#b HTTP/1.1\r\nHost: a'],
    ['a control byte in the target', 'GET /a\x01 HTTP/1.1\r\nHost: a'],
    ['a NUL in the target', 'GET /a\0 HTTP/1.1\r\nHost: a'],
    ['a tab in the target', 'GET /a\tb HTTP/1.1\r\nHost: a'],
    ['a target in no form', 'GET a HTTP/1.1\r\nHost: a'],
    ['* for GET', 'GET * HTTP/1.1\r\nHost: a'],
    ['OPTIONS *', 'OPTIONS * HTTP/1.1\r\nHost: a', 404],
    ['another scheme', 'GET ftp://a/ HTTP/1.1\r\nHost: a'],
    ['an absolute form without authority', 'GET http:///x HTTP/1.1\r\nHost: a'],
    ['an absolute form with user info', 'GET http://u@a/ HTTP/1.1\r\nHost: a'],
    ['CONNECT', 'CONNECT a:443 HTTP/1.1\r\nHost: a:443', 405],
    // Host
    ['no Host', 'GET / HTTP/1.1\r\nX: 1'],
    ['two Hosts', `${GET}\r\nHost: b`],
    ['two Hosts that are one', `${GET}\r\nhost: a`],
    ['a list for a Host', 'GET / HTTP/1.1\r\nHost: a, b'],
    ['a space in Host', 'GET / HTTP/1.1\r\nHost: a b'],
    ['an empty Host', 'GET / HTTP/1.1\r\nHost: '],
    ['user info in Host', 'GET / HTTP/1.1\r\nHost: u@a'],
    ['a path in Host', 'GET / HTTP/1.1\r\nHost: a/b'],
    ['a backslash in Host', 'GET / HTTP/1.1\r\nHost: a\\b'],
    ['a port that is none', 'GET / HTTP/1.1\r\nHost: a:b'],
    ['two Hosts beside an absolute form', 'GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b'],
  ];
  for (const [title, head, status = 400] of rows)
    t.equal(
      refusal(() => request(head)),
      status,
      title,
    );
});

t.test('bodies: one way to tell the end, or none', async (t) => {
  const POST = 'POST / HTTP/1.1\r\nHost: a';
  const lengths = [
    '+5',
    '-5',
    '0x5',
    '5.0',
    '5 5',
    '5,6',
    '5,',
    '1e1',
    '',
    'five',
    '٥',
    '5;',
    '9007199254740992',
    '99999999999999999999',
    `${'0'.repeat(40)}5x`,
  ];
  const codings = [
    'gzip',
    'identity',
    'gzip, chunked',
    'chunked, gzip',
    'chunked, chunked',
    ', chunked',
    'chunked,',
    'chunked;q=1',
    '"chunked"',
    'x chunked',
    'chunke',
    '',
  ];
  for (const value of lengths)
    t.equal(
      refusal(() => request(`${POST}\r\nContent-Length: ${value}`)),
      400,
      `Content-Length: ${value}`,
    );
  for (const value of codings) {
    const status = refusal(() => request(`${POST}\r\nTransfer-Encoding: ${value}`));
    t.ok(status === 400 || status === 501, `Transfer-Encoding: ${value}`);
  }
  const rows: [title: string, fields: string][] = [
    ['two lengths that differ', 'Content-Length: 5\r\nContent-Length: 6'],
    ['two codings', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked'],
    ['length, then coding', 'Content-Length: 5\r\nTransfer-Encoding: chunked'],
    ['coding, then length', 'Transfer-Encoding: chunked\r\nContent-Length: 5'],
    ['a coding with a vertical tab', 'Transfer-Encoding: \x0bchunked'],
  ];
  for (const [title, fields] of rows)
    t.equal(
      refusal(() => request(`${POST}\r\n${fields}`)),
      400,
      title,
    );
  const old = 'POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked';
  t.equal(
    refusal(() => request(old)),
    400,
    'a coding in HTTP/1.0',
  );
  const good: [fields: string, framing: object][] = [
    ['X: 1', { kind: 'none' }],
    ['Content-Length: 0', { kind: 'none' }],
    ['Content-Length: 5', { kind: 'length', length: 5 }],
    ['Content-Length: 007', { kind: 'length', length: 7 }],
    ['Content-Length: \t5 ', { kind: 'length', length: 5 }],
    ['Transfer-Encoding: chunked', { kind: 'chunked' }],
    ['transfer-encoding: CHUNKED', { kind: 'chunked' }],
  ];
  for (const [fields, framing] of good) t.same(request(`${POST}\r\n${fields}`).framing, framing, fields);
});

t.test('what policy sees and the app gets', async (t) => {
  const rows: [
    title: string,
    line: string,
    host: string,
    sees: { method?: string; path: string; host: string },
  ][] = [
    ['as it came', 'GET /a?b=c', 'x:81', { path: '/a?b=c', host: 'x:81' }],
    ['methods keep their case', 'get /', 'x', { method: 'get', path: '/', host: 'x' }],
    ['the absolute form beats Host', 'GET http://real:82/p?q', 'forged', { path: '/p?q', host: 'real:82' }],
    ['an absolute form without path', 'GET http://real', 'forged', { path: '/', host: 'real' }],
    ['an absolute form of a query alone', 'GET http://real?q', 'forged', { path: '/?q', host: 'real' }],
    ['a backslash is a slash', 'GET /a\\b', 'x', { path: '/a/b', host: 'x' }],
    ['dot segments are gone', 'GET /a/../b/./c', 'x', { path: '/b/c', host: 'x' }],
    ['escaped ones too', 'GET /a/%2e%2E/b', 'x', { path: '/b', host: 'x' }],
    ['IPv6', 'GET /', '[::1]:80', { path: '/', host: '[::1]:80' }],
  ];
  for (const [title, line, host, sees] of rows) {
    const head = request(`${line} HTTP/1.1\r\nHost: ${host}`);
    t.match({ method: head.method, path: head.path, host: head.host }, sees, title);
    const text = written(head);
    t.equal(
      text,
      `${head.method} ${sees.path} HTTP/1.1\r\nHost: ${sees.host}\r\n\r\n`,
      `${title}: written so`,
    );
  }
});

t.test('fields that stop here, and those that nomination cannot remove', async (t) => {
  const rows: [title: string, fields: string, gone: RegExp, kept?: RegExp][] = [
    [
      'hop-by-hop',
      'Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nUpgrade: h2c\r\nConnection: Upgrade',
      /keep-alive|proxy-connection|te:|upgrade|connection/i,
    ],
    ['nominated', 'X-Hop: 1\r\nX-Stay: 1\r\nConnection: x-hop', /X-Hop/, /X-Stay: 1/],
    [
      'framing, Host and authorization, though nominated',
      'Content-Length: 5\r\nAuthorization: b\r\nConnection: host, content-length, authorization',
      /Connection/i,
      /Host: a[\s\S]*Content-Length: 5[\s\S]*Authorization: b/,
    ],
    ['XFCC', 'X-Forwarded-Client-Cert: a\r\nx-forwarded-client-cert: b', /a|b/],
    ['XFCC in disguise', 'X_Forwarded_Client_Cert: q\r\nx-forwarded_client-cert: q', /q/],
  ];
  for (const [title, fields, gone, kept] of rows) {
    const head = request(`POST / HTTP/1.1\r\nHost: a\r\n${fields}`);
    const text = written(head)
      .split('\r\n')
      .slice(kept === undefined ? 2 : 1)
      .join('\r\n');
    t.notMatch(text, gone, `${title}: gone`);
    if (kept !== undefined) t.match(text, kept, `${title}: kept`);
  }
  const head = request(`${GET}\r\nX-A: 1\r\nx-a: 2, 3`);
  t.same(head.headerValues('x-a'), ['1', '2, 3'], 'repeated values each alone, in order');
});

t.test('keep-alive', async (t) => {
  const rows: [head: string, kept: boolean][] = [
    [GET, true],
    [`${GET}\r\nConnection: close`, false],
    [`${GET}\r\nConnection: x, Close`, false],
    ['GET / HTTP/1.0\r\nHost: a', false],
    // RFC 9112 §9.3: a proxy must not keep one with an HTTP/1.0 client.
    ['GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive', false],
  ];
  for (const [head, kept] of rows) t.equal(request(head).keepAlive, kept, JSON.stringify(head));
});

t.test('answers that are refused', async (t) => {
  const rows: [title: string, head: string][] = [
    ['nothing', ''],
    ['no status', 'HTTP/1.1'],
    ['two digits', 'HTTP/1.1 20 OK'],
    ['four digits', 'HTTP/1.1 2000 OK'],
    ['below 100', 'HTTP/1.1 099 x'],
    ['no number', 'HTTP/1.1 2xx OK'],
    ['two spaces', 'HTTP/1.1  200 OK'],
    ['a tab', 'HTTP/1.1\t200 OK'],
    ['HTTP/2', 'HTTP/2 200 OK'],
    ['another protocol', 'ICY 200 OK'],
    ['a control byte in the phrase', 'HTTP/1.1 200 O\x01K'],
    ['bare LF', 'HTTP/1.1 200 OK\nX: 1'],
    ['obs-fold', 'HTTP/1.1 200 OK\r\nX: 1\r\n 2'],
    ['a line without colon', 'HTTP/1.1 200 OK\r\nnonsense'],
    ['a space before the colon', 'HTTP/1.1 200 OK\r\nX : 1'],
    ['length and coding', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked'],
    ['two lengths that differ', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6'],
    ['a length that is none', 'HTTP/1.1 200 OK\r\nContent-Length: -1'],
    ['a coding in HTTP/1.0', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked'],
    ['a coding but chunked', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip'],
  ];
  for (const [title, head] of rows)
    t.not(
      refusal(() => response(head)),
      null,
      title,
    );
});

t.test("where an answer's body ends (RFC 9112 §6.3)", async (t) => {
  const rows: [title: string, head: string, method: string, framing: object][] = [
    ['a length', 'HTTP/1.1 200 OK\r\nContent-Length: 5', 'GET', { kind: 'length', length: 5 }],
    ['chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked', 'GET', { kind: 'chunked' }],
    ['neither: with the connection', 'HTTP/1.1 200 OK', 'GET', { kind: 'close' }],
    ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5', 'HEAD', { kind: 'none' }],
    ['204', 'HTTP/1.1 204 No Content', 'GET', { kind: 'none' }],
    [
      '304 with the length of what is not sent',
      'HTTP/1.1 304 Not Modified\r\nContent-Length: 5',
      'GET',
      { kind: 'none' },
    ],
    ['100', 'HTTP/1.1 100 Continue', 'POST', { kind: 'none' }],
    ['no phrase', 'HTTP/1.1 200 \r\nContent-Length: 0', 'GET', { kind: 'none' }],
  ];
  for (const [title, head, method, framing] of rows) t.same(response(head, method).framing, framing, title);
  const nominating = response('HTTP/1.1 200 OK\r\nX-Hop: 1\r\nX: 2\r\nConnection: x-hop');
  t.equal(
    nominating.write(AS_IT_CAME, null).toString('latin1'),
    'HTTP/1.1 200 OK\r\nX: 2\r\n\r\n',
    'hop-by-hop fields stop in replies too',
  );
});

t.test('framing goes on as it was understood, and only where there can be a body', async (t) => {
  const octal = request('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 010');
  t.same(octal.framing, { kind: 'length', length: 10 });
  t.match(written(octal), /\r\nContent-Length: 10\r\n/, 'no app reads it as octal');
  for (const [head, sent] of [
    ['HTTP/1.1 204 No Content\r\nContent-Length: 5', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['HTTP/1.1 103 Early Hints\r\nContent-Length: 5', 'HTTP/1.1 103 Early Hints\r\n\r\n'],
    ['HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked', 'HTTP/1.1 304 Not Modified\r\n\r\n'],
    [
      'HTTP/1.1 304 Not Modified\r\nContent-Length: 5',
      'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n',
    ],
  ] as const) {
    t.equal(response(head).write(AS_IT_CAME, null).toString('latin1'), sent, head);
  }
});
