/** `oarlock probe`: what it asks, what it prints, and its exit status, against real servers. */
import { createServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import t, { type Test } from 'tap';
import { probeCommand } from '../../cli/probe.ts';
import { TestCa } from '../e2e/harness/test-ca.ts';
import { closedPort, healthApp, httpApp, listening } from '../probes/helper.ts';
import { folder, oarlock } from './helper.ts';

t.setTimeout(240_000);

interface Row {
  readonly name: string;
  readonly args: readonly string[];
  readonly code: number;
  readonly stdout?: RegExp | string;
  readonly stderr?: RegExp | string;
}

async function hold(t: Test, rows: readonly Row[]): Promise<void> {
  for (const { name, args, code, stdout = '', stderr = '' } of rows) {
    const got = await oarlock(['probe', ...args]);
    t.equal(got.code, code, name);
    t.match(got.stdout, typeof stdout === 'string' ? new RegExp(`^${stdout}$`) : stdout, name);
    t.match(got.stderr, typeof stderr === 'string' ? new RegExp(`^${stderr}$`) : stderr, name);
  }
}

t.test('http', async (t) => {
  const port = await httpApp(t, (request, response) => {
    const { url = '', method, headers } = request;
    if (url === '/echo?a=b') {
      response.end(`${method} ${headers.host} ${headers['user-agent']} ${headers['x-a']}`);
    } else if (url === '/old') response.writeHead(302, { location: '/new' }).end();
    else if (url === '/away') response.writeHead(302, { location: 'http://elsewhere.example/' }).end('moved');
    else if (url === '/slow') response.write('x');
    else if (url === '/big') response.end('y'.repeat(100_000));
    else response.writeHead(Number(url.slice(1)) || 200).end('fine');
  });
  const at = `http://127.0.0.1:${port}`;
  await hold(t, [
    { name: 'well', args: [at], code: 0, stdout: 'fine' },
    {
      name: 'its own words where it is not well',
      args: [`${at}/503`],
      code: 1,
      stdout: 'fine',
      stderr: /answered 503\n/,
    },
    { name: 'a redirect on the same host', args: [`${at}/old`], code: 0, stdout: 'fine' },
    {
      name: 'and to another',
      args: [`${at}/away`],
      code: 0,
      stdout: 'moved',
      stderr: /redirected to http:\/\/elsewhere\.example\/, which/,
    },
    { name: 'expected', args: [`${at}/404`, '--expect', '200,404'], code: 0, stdout: 'fine' },
    { name: 'expected class', args: [`${at}/old`, '--expect', '3xx'], code: 0 },
    {
      name: 'not expected',
      args: [`${at}/201`, '--expect', '204', '--expect', '5xx'],
      code: 1,
      stdout: 'fine',
      stderr: /answered 201, not 204 or 5xx/,
    },
    {
      name: 'method, headers and place',
      args: [
        ...[`http://web.example:${port}/echo?a=b#c`, '--resolve', `web.example:${port}:127.0.0.1`],
        ...['--method', 'POST', '--header', 'X-A: b c', '--header', 'user-agent: me'],
      ],
      code: 0,
      stdout: `POST web\\.example:${port} me b c`,
    },
    {
      name: 'a Host of its own',
      args: [`${at}/echo?a=b`, '--header', 'Host: h.example'],
      code: 0,
      stdout: 'GET h.example oarlock undefined',
    },
    {
      name: 'bounded in time',
      args: [`${at}/slow`, '--timeout', '300ms'],
      code: 1,
      stderr: /no answer within 300 ms/,
    },
    { name: 'bounded in size', args: [`${at}/big`], code: 0, stdout: /^y{10240}$/ },
    {
      name: 'nobody there',
      args: [`http://127.0.0.1:${await closedPort()}/`],
      code: 1,
      stderr: /ECONNREFUSED/,
    },
  ]);
  const json = await oarlock(['probe', '-o', 'json', `${at}/away`]);
  t.equal(json.stderr, '');
  t.match(JSON.parse(json.stdout), {
    url: `${at}/away`,
    ok: true,
    status: 302,
    body: 'moved',
    truncated: false,
    redirect: 'http://elsewhere.example/',
    error: null,
    durationMs: Number,
  });
  const failed = await oarlock(['probe', '-o', 'json', `${at}/500`]);
  t.equal(failed.code, 1);
  t.match(JSON.parse(failed.stdout), { ok: false, status: 500, error: 'answered 500' });
});

t.test('https', async (t) => {
  const ca = await TestCa.create();
  const { cert, key } = await ca.leaf(null, { dns: ['web.example'] });
  const server = createHttpsServer({ cert, key }, (_request, response) => response.end('fine'));
  const port = await listening(t, server, '127.0.0.1');
  const roots = `${folder(t, { 'root.pem': ca.rootPem })}/root.pem`;
  const at = `https://web.example:${port}/`;
  const here = ['--resolve', `web.example:${port}:127.0.0.1`];
  await hold(t, [
    { name: 'unknown root', args: [at, ...here], code: 1, stderr: /TLS failed: .*certificate/i },
    { name: 'its root', args: [at, ...here, '--cacert', roots], code: 0, stdout: 'fine' },
    {
      name: 'another name',
      args: [`https://127.0.0.1:${port}/`, '--cacert', roots],
      code: 1,
      stderr: /TLS failed: .*127\.0\.0\.1/,
    },
    { name: 'any certificate', args: [`https://127.0.0.1:${port}/`, '--insecure'], code: 0, stdout: 'fine' },
  ]);
});

t.test('tcp and grpc', async (t) => {
  const open = await listening(t, createServer(), '127.0.0.1');
  const closed = await closedPort();
  const app = await healthApp(t, { '': 1, 'shop.Cart': 2 });
  await hold(t, [
    { name: 'open', args: [`tcp://127.0.0.1:${open}`], code: 0 },
    { name: 'closed', args: [`tcp://127.0.0.1:${closed}`], code: 1, stderr: /ECONNREFUSED/ },
    { name: 'the server', args: [`grpc://127.0.0.1:${app.port}`], code: 0 },
    { name: 'a service', args: [`grpc://127.0.0.1:${app.port}/shop.Cart`], code: 1, stderr: /NOT_SERVING/ },
  ]);
});

t.test('bad usage', async (t) => {
  const web = 'http://127.0.0.1:1/';
  const rows: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /missing required argument 'url'/],
    [['127.0.0.1'], /no URL such as/],
    [['localhost:80'], /no URL such as/],
    [['ftp://127.0.0.1/'], /only http, https, tcp and grpc/],
    [['tcp://127.0.0.1'], /needs a port/],
    [['tcp://127.0.0.1:1/x'], /no path/],
    [['grpc://127.0.0.1:1/%zz'], /%zz/],
    [['tcp://127.0.0.1:1', '--expect', '200'], /--expect is for http and https/],
    [['http://a:secret@127.0.0.1:1/'], /give --header 'Authorization/],
    [[web, '--expect', '6xx'], /must be statuses/],
    [[web, '--method', 'G ET'], /must be a method/],
    [[web, '--header', 'nothing'], /must be 'Name: value'/],
    [[web, '--header', 'A: b\r\nC: d'], /must be 'Name: value'/],
    [[web, '--header', 'Content-Length: 5'], /not yours to say/],
    [[web, '--timeout', '5'], /must be a duration/],
    [[web, '--cacert', '/nowhere'], /--cacert \/nowhere cannot be read: ENOENT/],
    [[web, '--cacert', '/dev/null'], /has no certificate in PEM/],
    [[web, '--cacert', '/dev/null', '--insecure'], /not both/],
    [[web, '--resolve', 'other:1:127.0.0.1'], /is for other:1, and the URL asks 127\.0\.0\.1:1/],
    [[web, '--resolve', '127.0.0.1:1:localhost'], /must be HOST:PORT:ADDRESS/],
  ];
  for (const [args, message] of rows) {
    const command = probeCommand()
      .exitOverride()
      .configureOutput({ writeErr: () => {} });
    await t.rejects(command.parseAsync([...args], { from: 'user' }), { message }, args.join(' '));
  }
  await hold(t, [{ name: 'and its exit status', args: ['ftp://x'], code: 2, stderr: /^oarlock: ftp: only/ }]);
});
