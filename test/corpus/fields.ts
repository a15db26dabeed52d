/** Point 8: fields of one hop end here, whatever Connection nominates; nobody but us says who the caller is (RFC 9110 §7.6.1). */
import { type Case, chunked, get, HOST, OK, post, type SeenRequest, served } from './case.ts';

function goes(name: string, lines: string, seen: SeenRequest): Case {
  return {
    name,
    send: get(lines) + get('', '/b'),
    expect: served({ line: 'GET / HTTP/1.1', ...seen }, 'GET /b HTTP/1.1'),
  };
}

const requests: readonly Case[] = [
  goes('Keep-Alive', 'Keep-Alive: timeout=5\r\n', { lacks: ['keep-alive'] }),
  goes('Proxy-Connection', 'Proxy-Connection: keep-alive\r\n', { lacks: ['proxy-connection'] }),
  goes('Proxy-Connection: close does not close', 'Proxy-Connection: close\r\n', {
    lacks: ['proxy-connection'],
  }),
  goes('TE', 'TE: trailers\r\n', { lacks: ['te'] }),
  goes('TE, nominated', 'Connection: TE\r\nTE: trailers, deflate\r\n', { lacks: ['te'] }),
  goes('Upgrade without Connection', 'Upgrade: websocket\r\n', { lacks: ['upgrade'] }),
  goes('Connection: keep-alive', 'Connection: keep-alive\r\n', {}),
  goes('an empty Connection', 'Connection:\r\n', {}),
  goes('a nominated field', 'Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\n', { lacks: ['x-a'], has: ['x-b: 2'] }),
  goes('a nominated field, before', 'X-A: 1\r\nConnection: X-A\r\n', { lacks: ['x-a'] }),
  goes('a nominated field, in another case', 'Connection: x-a\r\nX-A: 1\r\n', { lacks: ['x-a'] }),
  goes('a nominated field, each of its lines', 'Connection: X-A\r\nX-A: 1\r\nx-a: 2\r\nX-A: 3\r\n', {
    lacks: ['x-a'],
  }),
  goes(
    'several in a list',
    'Connection: X-A, X-B,X-C\t,\tX-D\r\nX-A: 1\r\nX-B: 1\r\nX-C: 1\r\nX-D: 1\r\nX-E: 1\r\n',
    {
      lacks: ['x-a', 'x-b', 'x-c', 'x-d'],
      has: ['x-e: 1'],
    },
  ),
  goes('several on lines of their own', 'Connection: X-A\r\nX-A: 1\r\nX-B: 1\r\nConnection: X-B\r\n', {
    lacks: ['x-a', 'x-b'],
  }),
  goes('empty members of a list', 'Connection: , X-A,, ,X-B,\r\nX-A: 1\r\nX-B: 1\r\n', {
    lacks: ['x-a', 'x-b'],
  }),
  goes('keep-alive and a field', 'Connection: keep-alive, X-A\r\nX-A: 1\r\n', { lacks: ['x-a'] }),
  goes('a field that is not there', 'Connection: X-Nowhere\r\n', {}),
  goes('Connection nominates itself', 'Connection: Connection, X-A\r\nX-A: 1\r\n', { lacks: ['x-a'] }),
  goes('Host', `Connection: Host\r\n`, { has: [`host: ${HOST}`] }),
  goes('Host, in small letters', 'Connection: host\r\n', { has: [`host: ${HOST}`] }),
  goes(
    'X-Request-Id',
    'Connection: X-Request-Id\r\nX-Request-Id: 11111111-1111-4111-8111-111111111111\r\n',
    {},
  ),
  goes('Cookie', 'Connection: Cookie\r\nCookie: a=1\r\n', { lacks: ['cookie'] }),
  goes('a name longer than the field', 'Connection: X-AA\r\nX-A: 1\r\n', { has: ['x-a: 1'] }),
  goes('a name shorter than the field', 'Connection: X-A\r\nX-AA: 1\r\n', { has: ['x-aa: 1'] }),
  {
    name: 'Content-Length',
    send: post('Connection: Content-Length\r\nContent-Length: 5\r\n', 'hello') + get('', '/b'),
    expect: served({ body: 'hello', framing: 'length' }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'Transfer-Encoding',
    send:
      post('Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n', '5\r\nhello\r\n0\r\n\r\n') +
      get('', '/b'),
    expect: served({ body: 'hello', framing: 'chunked' }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'Content-Length and Host together',
    send: post('Connection: close, Content-Length, Host\r\nContent-Length: 5\r\n', 'hello'),
    expect: {
      answers: [200],
      end: 'closed',
      app: [{ body: 'hello', framing: 'length', has: [`host: ${HOST}`] }],
    },
  },
  {
    name: 'Transfer-Encoding and Trailer',
    send: post(
      'Connection: Transfer-Encoding, Trailer\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n',
      '5\r\nhello\r\n0\r\nX: 1\r\n\r\n',
    ),
    expect: served({ body: 'hello', framing: 'chunked' }),
  },
  goes(
    'end to end fields stay',
    'Via: 1.1 x\r\nForwarded: for=1.2.3.4\r\nCache-Control: no-store\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip\r\nUser-Agent: t\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\nb3: 0\r\nX-B3-TraceId: 80f198ee56343ba864fe8b2a57d3eff7\r\n',
    {
      has: [
        'via: 1.1 x',
        'forwarded: for=1.2.3.4',
        'cache-control: no-store',
        'range: bytes=0-1',
        'accept-encoding: gzip',
        'user-agent: t',
        'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
        'tracestate: a=b',
        'b3: 0',
        'x-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7',
      ],
    },
  ),
];

/** In plaintext nobody is known: the app must see none. Over mutual TLS it sees ours, once. */
function spoof(name: string, lines: string): readonly Case[] {
  const send = get(lines);
  return [
    {
      name,
      send,
      on: ['inbound'],
      expect: served({
        lacks: [
          'x-forwarded-client-cert',
          'x_forwarded_client_cert',
          'x-forwarded_client-cert',
          'x_forwarded-client-cert',
        ],
      }),
    },
    {
      name: `${name}, ours stays`,
      send,
      on: ['pair'],
      expect: served({ line: 'GET / HTTP/1.1', lacks: ['x_forwarded_client_cert'] }),
    },
  ];
}

const identity: readonly Case[] = [
  ...spoof('one', 'X-Forwarded-Client-Cert: By=spoof\r\n'),
  ...spoof('in small letters', 'x-forwarded-client-cert: By=spoof\r\n'),
  ...spoof('in capitals', 'X-FORWARDED-CLIENT-CERT: By=spoof\r\n'),
  ...spoof('two', 'X-Forwarded-Client-Cert: By=spoof\r\nX-Forwarded-Client-Cert: By=spoof2\r\n'),
  ...spoof(
    'three, apart and of different cases',
    'X-Forwarded-Client-Cert: By=spoof\r\nA: 1\r\nx-forwarded-client-CERT: By=spoof\r\nB: 1\r\nX-forwarded-Client-Cert: spoof\r\n',
  ),
  ...spoof('underscores', 'X_Forwarded_Client_Cert: By=spoof\r\n'),
  ...spoof(
    'underscores in part',
    'X-Forwarded_Client-Cert: By=spoof\r\nX_Forwarded-Client-Cert: By=spoof\r\nX-Forwarded-Client_Cert: By=spoof\r\n',
  ),
  ...spoof('an empty one before it', 'X-Forwarded-Client-Cert:\r\nX-Forwarded-Client-Cert: By=spoof\r\n'),
  ...spoof('a list', 'X-Forwarded-Client-Cert: By=a;URI=spoof,By=b;URI=spoof\r\n'),
  ...spoof('nominated', 'Connection: X-Forwarded-Client-Cert\r\nX-Forwarded-Client-Cert: By=spoof\r\n'),
  ...spoof(
    'nominated by another spelling',
    'Connection: x_forwarded_client_cert\r\nX-Forwarded-Client-Cert: By=spoof\r\n',
  ),
  {
    name: 'nominated and not sent: ours stays',
    send: get('Connection: X-Forwarded-Client-Cert\r\n'),
    on: ['pair'],
    expect: served('GET / HTTP/1.1'),
  },
  {
    name: 'in a trailer',
    send: chunked('5\r\nhello\r\n0\r\nX-Forwarded-Client-Cert: By=spoof\r\n\r\n'),
    expect: served({ body: 'hello', trailers: [] }),
  },
  {
    name: 'on the second request too',
    send: get('', '/a') + get('X-Forwarded-Client-Cert: By=spoof\r\n', '/b'),
    expect: served('GET /a HTTP/1.1', 'GET /b HTTP/1.1'),
  },
];

/** An answer with these lines, and what the downstream may not or must see of it. */
function answer(
  name: string,
  lines: string,
  seen: { readonly lacks?: readonly string[]; readonly has?: readonly string[] },
): Case {
  return {
    name,
    send: get(),
    app: `HTTP/1.1 200 OK\r\n${lines}Content-Length: 2\r\n\r\nok`,
    expect: { answers: [{ status: 200, body: 'ok', ...seen }], end: 'open', app: ['GET / HTTP/1.1'] },
  };
}

const answers: readonly Case[] = [
  answer('Keep-Alive', 'Keep-Alive: timeout=5, max=10\r\n', { lacks: ['keep-alive'] }),
  answer('Keep-Alive, nominated', 'Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n', {
    lacks: ['keep-alive'],
  }),
  answer('Proxy-Connection', 'Proxy-Connection: keep-alive\r\n', { lacks: ['proxy-connection'] }),
  answer('TE', 'TE: trailers\r\n', { lacks: ['te'] }),
  answer('Upgrade', 'Upgrade: h2c\r\n', { lacks: ['upgrade'] }),
  answer('Upgrade, nominated', 'Connection: Upgrade\r\nUpgrade: h2,h2c\r\n', { lacks: ['upgrade'] }),
  answer('a nominated field', 'Connection: X-A\r\nX-A: 1\r\nX-B: 2\r\n', { lacks: ['x-a'], has: ['x-b: 2'] }),
  answer('a nominated field, before and in another case', 'x-a: 1\r\nConnection: X-A\r\n', {
    lacks: ['x-a'],
  }),
  answer('several', 'Connection: X-A, keep-alive ,X-B\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n', {
    lacks: ['x-a', 'x-b'],
    has: ['x-c: 3'],
  }),
  answer('several on lines of their own', 'Connection: X-A\r\nX-A: 1\r\nConnection: X-B\r\nX-B: 2\r\n', {
    lacks: ['x-a', 'x-b'],
  }),
  answer('Set-Cookie, nominated', 'Connection: Set-Cookie\r\nSet-Cookie: a=1\r\n', { lacks: ['set-cookie'] }),
  answer('Content-Length, nominated', 'Connection: Content-Length\r\n', { has: ['content-length: 2'] }),
  answer('Set-Cookie lines stay apart', 'Set-Cookie: a=1, b\r\nSet-Cookie: c=2\r\n', {
    has: ['set-cookie: a=1, b', 'set-cookie: c=2'],
  }),
  answer(
    'end to end fields stay',
    'ETag: "x"\r\nVary: *\r\nVia: 1.1 x\r\nX-Empty:\r\nWWW-Authenticate: Basic\r\nX: caf\xe9\r\n',
    {
      has: ['etag: "x"', 'vary: *', 'via: 1.1 x', 'x-empty: ', 'www-authenticate: Basic', 'x: caf\xe9'],
    },
  ),
  {
    name: 'Transfer-Encoding, nominated',
    send: get(),
    app: 'HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    expect: {
      answers: [{ status: 200, body: 'ok', framing: 'chunked' }],
      end: 'open',
      app: ['GET / HTTP/1.1'],
    },
  },
  {
    name: 'Connection: close of the app does not close the downstream',
    send: get('', '/a') + get('', '/b'),
    app: ['HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok', OK],
    expect: { answers: [200, 200], end: 'open', app: ['GET /a HTTP/1.1', 'GET /b HTTP/1.1'] },
  },
];

export const fields = { requests, identity, answers };
