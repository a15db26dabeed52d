/** Fetching a key set: what is followed, what is refused, and every bound. */
import { createServer, type RequestListener } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import t, { type Test } from 'tap';
import { createKeyFetcher, type KeyPlace } from '../../providers/jwks-fetch.ts';
import { makeCertificate } from '../ca-client/helper.ts';

const never = new AbortController().signal;
const fetchKeys = createKeyFetcher();

async function listening(t: Test, server: Server & { closeAllConnections(): void }): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  return (server.address() as AddressInfo).port;
}

async function serve(t: Test, listener: RequestListener): Promise<string> {
  return `http://127.0.0.1:${await listening(t, createServer(listener))}`;
}

function at(uri: string): KeyPlace {
  return { uri, issuer: 'me' };
}

t.test('a key set', async (t) => {
  const base = await serve(t, (request, answer) => answer.end(`{"path":"${request.url}"}`));
  t.same(await fetchKeys(at(`${base}/keys?x=1`), 5_000, never), {
    text: '{"path":"/keys?x=1"}',
    uri: `${base}/keys?x=1`,
  });
});

t.test('user and password of the URL, and for nobody else', async (t) => {
  const other = await serve(t, (request, answer) => answer.end(String(request.headers.authorization)));
  const base = await serve(t, (request, answer) => {
    if (request.url === '/away') answer.writeHead(302, { location: other }).end();
    else if (request.url === '/moved') answer.writeHead(302, { location: '/keys' }).end();
    else answer.end(String(request.headers.authorization));
  });
  const withUser = base.replace('//', '//me:s%40crt@');
  const sent = async (uri: string) => (await fetchKeys(at(uri), 5_000, never)).text;
  const basic = `Basic ${Buffer.from('me:s@crt').toString('base64')}`;
  t.equal(await sent(`${withUser}/keys`), basic);
  t.equal(await sent(`${withUser}/moved`), basic, 'the same server');
  t.equal(await sent(`${withUser}/away`), 'undefined', 'another one');
  t.equal(await sent(`${base}/keys`), 'undefined');
});

t.test('redirects are followed, five of them', async (t) => {
  const base = await serve(t, (request, answer) => {
    const left = Number(request.url?.slice(1));
    if (left === 0) answer.end('keys');
    else answer.writeHead(302, { location: `/${left - 1}` }).end('moved');
  });
  t.match(await fetchKeys(at(`${base}/5`), 5_000, never), { text: 'keys', uri: `${base}/0` });
  await t.rejects(fetchKeys(at(`${base}/6`), 5_000, never), /redirects more than 5 times/);
});

t.test('a loop of redirects ends', async (t) => {
  const base = await serve(t, (_, answer) => answer.writeHead(307, { location: '/' }).end());
  await t.rejects(fetchKeys(at(base), 5_000, never), /redirects more than 5 times/);
});

t.test('a redirect leads nowhere but to HTTP', async (t) => {
  const base = await serve(t, (_, answer) => answer.writeHead(302, { location: 'file:///etc/passwd' }).end());
  await t.rejects(fetchKeys(at(base), 5_000, never), /leads to file:/);
});

t.test('any status but 2xx is a failure', async (t) => {
  const base = await serve(t, (_, answer) => answer.writeHead(503).end('{"keys":[]}'));
  await t.rejects(fetchKeys(at(`${base}/k?secret=1`), 5_000, never), {
    message: `${base}/k answered 503`,
  });
});

t.test('a server that never answers costs the time-out and no more', async (t) => {
  const silent = await serve(t, () => {});
  await t.rejects(fetchKeys(at(silent), 50, never), /no answer within 50 ms/);
  const slow = await serve(t, (_, answer) => answer.writeHead(200).write('{'));
  await t.rejects(fetchKeys(at(slow), 50, never), /no answer within 50 ms/);
});

t.test('a huge answer is cut off', async (t) => {
  const announced = await serve(t, (_, answer) => answer.end('x'.repeat(1024 * 1024 + 1)));
  await t.rejects(fetchKeys(at(announced), 5_000, never), /size/i);
  const streamed = await serve(t, (_, answer) => {
    const more = (): void => {
      while (answer.write('x'.repeat(65_536)));
    };
    answer.on('drain', more);
    more();
  });
  await t.rejects(fetchKeys(at(streamed), 5_000, never), /size/i);
});

t.test('nobody there', async (t) => {
  const server = createServer();
  const port = await listening(t, server);
  await new Promise((resolve) => server.close(resolve));
  await t.rejects(fetchKeys(at(`http://127.0.0.1:${port}/`), 5_000, never), /ECONNREFUSED/);
});

t.test('stopping ends a fetch', async (t) => {
  const base = await serve(t, () => stop.abort());
  const stop = new AbortController();
  await t.rejects(fetchKeys(at(base), 5_000, stop.signal));
});

t.test('addresses that hold the secrets of a cloud are never asked', async (t) => {
  for (const host of [
    '169.254.169.254',
    '[fe80::1]',
    '100.100.100.200',
    '[fd00:ec2::254]',
    '[::ffff:169.254.169.254]',
  ]) {
    await t.rejects(fetchKeys(at(`http://${host}/`), 5_000, never), /link-local or metadata/, host);
  }
  const base = await serve(t, (_, answer) =>
    answer.writeHead(302, { location: 'http://169.254.169.254/latest' }).end(),
  );
  await t.rejects(fetchKeys(at(base), 5_000, never), /link-local or metadata/, 'by a redirect');
});

t.test('OpenID discovery', async (t) => {
  let found: unknown = {};
  const base = await serve(t, (request, answer) => {
    if (request.url === '/tenant/.well-known/openid-configuration') answer.end(JSON.stringify(found));
    else answer.end(`keys at ${request.url}`);
  });
  const place = { uri: null, issuer: `${base}/tenant` };
  const rows: readonly (readonly [found: unknown, issuer: string, expected: string | RegExp])[] = [
    [{ jwks_uri: `${base}/k`, issuer: place.issuer }, place.issuer, 'keys at /k'],
    [{ jwks_uri: `${base}/k`, issuer: place.issuer }, `${place.issuer}/`, 'keys at /k'],
    [{ jwks_uri: `${base}/k` }, place.issuer, 'keys at /k'],
    [{ jwks_uri: `${base}/k`, issuer: 'https://another' }, place.issuer, /speaks for another issuer/],
    [{ jwks_uri: 5 }, place.issuer, /names no jwks_uri/],
    [null, place.issuer, /names no jwks_uri/],
    [{ jwks_uri: 'ftp://x/k' }, place.issuer, /leads to ftp:/],
    [{ jwks_uri: `${base}/k` }, 'me@example.com', /no URL to discover keys at/],
  ];
  for (const [answer, issuer, expected] of rows) {
    found = answer;
    const fetched = fetchKeys({ uri: null, issuer }, 5_000, never);
    if (typeof expected === 'string') t.match(await fetched, { text: expected, uri: `${base}/k` });
    else await t.rejects(fetched, expected);
  }
});

t.test('HTTPS is verified, and never left for less', async (t) => {
  const { pem: cert, keyPem: key } = await makeCertificate({ dns: ['localhost'], ca: true });
  const plain = await serve(t, (_, answer) => answer.end('plain'));
  const server = createHttpsServer({ cert, key }, (request, answer) => {
    if (request.url === '/away') answer.writeHead(302, { location: plain }).end();
    else answer.end('secure');
  });
  const base = `https://localhost:${await listening(t, server)}`;
  await t.rejects(fetchKeys(at(`${base}/`), 5_000, never), /self-signed/);
  const trusting = createKeyFetcher([cert]);
  t.match(await trusting(at(`${base}/`), 5_000, never), { text: 'secure' });
  await t.rejects(trusting(at(`${base}/away`), 5_000, never), /leads to http:/);
});
