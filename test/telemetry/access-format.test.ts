/** Formats of the access log: Istio's text as Envoy prints it, formats of one's own, and what mesh config and flags choose. */
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  type AccessFormat,
  PLAIN_OPERATORS,
  parseFormat,
  parseJsonFormat,
  unknownOperators,
} from '../../mesh/access-format.ts';
import { compileFormat, istioJson, istioText } from '../../telemetry/access-format.ts';
import { AccessLogKeeper } from '../../telemetry/access-log.ts';
import {
  type AccessRecord,
  connectionRecord,
  LoggedConnection,
  LoggedUpstream,
} from '../../telemetry/access-record.ts';
import { LineBytes } from '../../telemetry/line-bytes.ts';

const CONNECTION = {
  direction: 'inbound',
  downstreamLocalAddress: '127.0.0.1:28833',
  downstreamRemoteAddress: '127.0.0.1:56782',
  requestedServerName: null,
  sourcePrincipal: 'spiffe://cluster.local/ns/shop/sa/web',
  connectionSecurityPolicy: 'mutual_tls',
} as const;
const UPSTREAM = {
  host: '127.0.0.1:45995',
  localAddress: '127.0.0.1:36380',
  cluster: 'inbound|8080||',
  routeName: 'default',
  destinationPrincipal: 'spiffe://cluster.local/ns/shop/sa/orders',
};

function tcp(changes: Partial<typeof UPSTREAM> | Record<string, null> = {}): AccessRecord {
  const upstream = new LoggedUpstream({ ...UPSTREAM, routeName: null, ...changes });
  return connectionRecord(new LoggedConnection(CONNECTION), upstream);
}

function request(changes: Partial<AccessRecord> = {}, upstream: object = {}): AccessRecord {
  return {
    ...tcp(),
    upstream: new LoggedUpstream({ ...UPSTREAM, ...upstream }),
    method: 'GET',
    path: '/ok',
    protocol: 'HTTP/1.1',
    responseCode: 200,
    responseCodeDetails: 'via_upstream',
    authority: 'orders:9080',
    ...changes,
  };
}

function lineOf(format: AccessFormat, ...records: AccessRecord[]): string {
  const compiled = compileFormat(format);
  const line = new LineBytes();
  line.bytes = Buffer.alloc(compiled.longest * records.length);
  for (const record of records) compiled.write(line, record);
  return line.bytes.toString('utf8', 0, line.at);
}

const text = (format: string): AccessFormat => ({ encoding: 'text', parts: parseFormat(format) });
const json = (format: string): AccessFormat => ({ encoding: 'json', fields: parseJsonFormat(format) });

t.test('lines that Envoy 1.40 printed with Istio’s default text format', (t) => {
  const at = (time: string): number => Date.parse(`2026-11-21T12:36:${time}Z`);
  const rows: readonly (readonly [string, AccessRecord, string])[] = [
    [
      'a request with a body',
      request({
        startTime: at('30.439'),
        method: 'POST',
        bytesReceived: 5,
        bytesSent: 3,
        durationMs: 1.9,
        upstreamServiceTime: 0.7,
        requestId: 'e4255d4b-9432-4d37-a8ef-53278bd5a0aa',
      }),
      '[2026-11-21T12:36:30.439Z] "POST /ok HTTP/1.1" 200 - via_upstream - "-" 5 3 1 0 "-" "-" "e4255d4b-9432-4d37-a8ef-53278bd5a0aa" "orders:9080" "127.0.0.1:45995" inbound|8080|| 127.0.0.1:36380 127.0.0.1:28833 127.0.0.1:56782 - default',
    ],
    [
      'denied by RBAC',
      request(
        {
          startTime: at('31.949'),
          path: '/denied/by-name',
          responseCode: 403,
          responseCodeDetails: 'rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]',
          bytesSent: 19,
          xForwardedFor: '10.1.1.1',
          userAgent: 'test/1',
          requestId: 'd0abc0ac-8215-4171-824a-ae67cc9dbab3',
        },
        { host: null, localAddress: null },
      ),
      '[2026-11-21T12:36:31.949Z] "GET /denied/by-name HTTP/1.1" 403 - rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]] - "-" 0 19 0 - "10.1.1.1" "test/1" "d0abc0ac-8215-4171-824a-ae67cc9dbab3" "orders:9080" "-" inbound|8080|| - 127.0.0.1:28833 127.0.0.1:56782 - default',
    ],
    [
      'upstream refused',
      request(
        {
          startTime: at('34.467'),
          responseCode: 503,
          responseFlags: 'UF',
          responseCodeDetails:
            'upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}',
          upstreamTransportFailureReason: 'delayed_connect_error:_Connection_refused',
          bytesSent: 98,
          requestId: 'd19346b9-e397-440f-87dc-5b3ecaa4ba93',
        },
        { host: '127.0.0.1:28832', cluster: 'nobody', localAddress: null },
      ),
      '[2026-11-21T12:36:34.467Z] "GET /ok HTTP/1.1" 503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused} - "delayed_connect_error:_Connection_refused" 0 98 0 - "-" "-" "d19346b9-e397-440f-87dc-5b3ecaa4ba93" "orders:9080" "127.0.0.1:28832" nobody - 127.0.0.1:28833 127.0.0.1:56782 - default',
    ],
    [
      'no route',
      request(
        {
          startTime: at('48.130'),
          responseCode: 404,
          responseFlags: 'NR',
          responseCodeDetails: 'route_not_found',
        },
        { host: null, cluster: null, localAddress: null, routeName: null },
      ),
      '[2026-11-21T12:36:48.130Z] "GET /ok HTTP/1.1" 404 NR route_not_found - "-" 0 0 0 - "-" "-" "-" "orders:9080" "-" - - 127.0.0.1:28833 127.0.0.1:56782 - -',
    ],
    [
      'TCP',
      { ...tcp(), startTime: at('49.132'), bytesReceived: 20, bytesSent: 41, durationMs: 1 },
      '[2026-11-21T12:36:49.132Z] "- - -" 0 - - - "-" 20 41 1 - "-" "-" "-" "-" "127.0.0.1:45995" inbound|8080|| 127.0.0.1:36380 127.0.0.1:28833 127.0.0.1:56782 - -',
    ],
    [
      'TCP denied by RBAC',
      {
        ...tcp(),
        startTime: at('49.135'),
        bytesReceived: 5,
        connectionTerminationDetails: 'rbac_access_denied_matched_policy[ns[shop]-policy[tcp-deny]-rule[0]]',
      },
      '[2026-11-21T12:36:49.135Z] "- - -" 0 - - rbac_access_denied_matched_policy[ns[shop]-policy[tcp-deny]-rule[0]] "-" 5 0 0 - "-" "-" "-" "-" "127.0.0.1:45995" inbound|8080|| 127.0.0.1:36380 127.0.0.1:28833 127.0.0.1:56782 - -',
    ],
  ];
  for (const [name, record, expected] of rows) t.equal(lineOf(istioText, record), `${expected}\n`, name);
  t.end();
});

t.test('what comes from the wire cannot forge a field of a text line', (t) => {
  const said = lineOf(
    text('"%REQ(USER-AGENT)%"'),
    request({ userAgent: 'a" "b\\\u001b[2J\u009b\r\né\ud83d' }),
  );
  t.equal(said, '"a\\x22 \\x22b\\x5c\\x1b[2J\\x9b\\x0d\\x0aé\ufffd"\n');
  t.end();
});

t.test('a connection’s lines follow its requests: what repeats and what changes', (t) => {
  const connection = new LoggedConnection(CONNECTION);
  const upstreams = [new LoggedUpstream(UPSTREAM), new LoggedUpstream({ ...UPSTREAM, host: '127.0.0.2:1' })];
  const records = ['GET', 'GET', 'POST', 'GET'].map((method, i) => ({
    ...request({ method, userAgent: method === 'POST' ? null : 'a-longer-name-than-copied/1' }),
    connection,
    upstream: upstreams[i % 2] as LoggedUpstream,
    path: `/${i}`,
  }));
  const format = text(
    '%REQ(:METHOD)% %REQ(:PATH)% %REQ(USER-AGENT)% %UPSTREAM_HOST% %DOWNSTREAM_LOCAL_PORT%',
  );
  const expected = [
    'GET /0 a-longer-name-than-copied/1 127.0.0.1:45995 28833',
    'GET /1 a-longer-name-than-copied/1 127.0.0.2:1 28833',
    'POST /2 - 127.0.0.1:45995 28833',
    'GET /3 a-longer-name-than-copied/1 127.0.0.2:1 28833',
  ];
  t.strictSame(lineOf(format, ...records).split('\n'), [...expected, '']);
  // The same connection in another format: nothing of the first may be left.
  t.strictSame(lineOf(text('%UPSTREAM_HOST%|%REQ(:METHOD)%'), ...records.slice(1, 3)).split('\n'), [
    '127.0.0.2:1|GET',
    '127.0.0.1:45995|POST',
    '',
  ]);
  t.end();
});

t.test('formats of one’s own', (t) => {
  const record = request({
    path: '/a?b=c',
    startTime: 0,
    durationMs: 12.9,
    upstreamServiceTime: 3.2,
    grpcStatus: 7,
    userAgent: 'curl/8.5.0',
    requestHeaders: ['seven', null],
  });
  const rows: readonly (readonly [string, string])[] = [
    ['100%% %RESPONSE_CODE%', '100% 200\n'],
    ['%REQ(user-agent):4%|%REQ(:PATH):2%', 'curl|/a\n'],
    ['%REQ(X-ONE)% %REQ(X-TWO)% %REQ(X-TWO?X-ONE)% %REQ(X-TWO?:METHOD)%', 'seven - seven GET\n'],
    ['%REQ_WITHOUT_QUERY(:PATH)% %REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%', '/a /a\n'],
    [
      '%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%',
      'PermissionDenied PERMISSION_DENIED 7 7\n',
    ],
    ['%DURATION% %RESPONSE_DURATION% %RESP(X-Envoy-Upstream-Service-Time)%', '12 3 3\n'],
    ['%DYNAMIC_METADATA(istio:x)% %FILTER_STATE(y)% %NOBODY_KNOWS% %RESP(SERVER)%', '- - - -\n'],
    ['%DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_URI_SAN%', 'spiffe://cluster.local/ns/shop/sa/web -\n'],
    ['%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%:%DOWNSTREAM_REMOTE_PORT%', '127.0.0.1:56782\n'],
    ['no operator\n', 'no operator\n'],
  ];
  for (const [format, expected] of rows) t.equal(lineOf(text(format), record), expected, format);
  t.equal(
    lineOf(
      json(
        '{"code":"%RESPONSE_CODE%","is":"%REQ(:METHOD)% of 100%%","none":"%REQ(X-TWO)%","in":{"id":"%REQ(X-ONE)%"},"n":1}',
      ),
      { ...record, requestHeaders: [null, 'se"ven'] },
    ),
    '{"code":200,"is":"GET of 100%","none":null,"in":{"id":"se\\"ven"},"n":1}\n',
  );
  t.strictSame(compileFormat(text('%REQ(X-ONE)%%REQ(:path)%%REQ(X-one?X-Two)%')).requestHeaders, [
    'x-one',
    'x-two',
  ]);
  for (const name of PLAIN_OPERATORS) t.doesNotThrow(() => lineOf(text(`%${name}%`), record), name);
  t.end();
});

t.test('gRPC’s status names are Envoy’s', (t) => {
  // envoy source/common/grpc/status.cc, and the codes of gRPC's statuscodes.md
  const rows = [
    [0, 'OK', 'OK'],
    [1, 'Canceled', 'CANCELLED'],
    [3, 'InvalidArgument', 'INVALID_ARGUMENT'],
    [14, 'Unavailable', 'UNAVAILABLE'],
    [16, 'Unauthenticated', 'UNAUTHENTICATED'],
    [99, '99', '99'],
  ] as const;
  for (const [grpcStatus, camel, snake] of rows) {
    const line = lineOf(text('%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)%'), request({ grpcStatus }));
    t.equal(line, `${camel} ${snake}\n`);
  }
  t.end();
});

t.test('formats that cannot be read, and operators nobody knows', (t) => {
  for (const format of ['100%', '%lower%', '%REQ(A%', '%%%'])
    t.throws(() => parseFormat(format), /no operator begins/, format);
  for (const format of ['', '{"a":}', '[]', '"x"', '{', '{"a":"%"}'])
    t.throws(() => parseJsonFormat(format), /is not (JSON|a JSON object)|no operator/, format);
  t.strictSame(unknownOperators(istioText), []);
  t.strictSame(unknownOperators(istioJson), []);
  t.strictSame(unknownOperators(json('{"a":{"b":"%CEL(x)% %CEL(x)%"},"c":"%RESP(:STATUS)%"}')), [
    '%CEL(x)%',
    '%RESP(:STATUS)%',
  ]);
  t.end();
});

t.test('flags beat mesh config, which beats the default', async (t) => {
  const cases: readonly {
    readonly name: string;
    readonly flags: readonly [file: string | null, encoding: 'text' | 'json' | null];
    readonly mesh: readonly [file: string | null, encoding: 'text' | 'json' | null, format?: AccessFormat];
    readonly expected: Record<string, RegExp>;
  }[] = [
    { name: 'mesh config', flags: [null, null], mesh: ['a', 'text'], expected: { a: /^\[/ } },
    { name: 'the flag’s file', flags: ['b', null], mesh: ['a', 'text'], expected: { b: /^\[/ } },
    { name: 'the flag’s encoding', flags: [null, 'json'], mesh: ['a', 'text'], expected: { a: /^\{"type"/ } },
    { name: 'JSON by default', flags: ['b', null], mesh: [null, null], expected: { b: /^\{"type"/ } },
    {
      name: 'mesh config’s own format',
      flags: [null, null],
      mesh: ['a', 'text', text('own %RESPONSE_CODE%')],
      expected: { a: /^own 200$/ },
    },
    {
      name: 'its format is of the other encoding',
      flags: [null, 'json'],
      mesh: ['a', 'text', text('own %RESPONSE_CODE%')],
      expected: { a: /^\{"type"/ },
    },
    { name: 'off', flags: ['off', null], mesh: ['a', 'text'], expected: {} },
  ];
  for (const { name, flags, mesh, expected } of cases) {
    const dir = t.testdir({ [name]: {} });
    const inDir = (file: string | null): string | null =>
      file === null || file === 'off' ? file : join(dir, name, file);
    const keeper = new AccessLogKeeper({ accessLog: inDir(flags[0]), accessLogEncoding: flags[1] });
    const [file, encoding, format = null] = mesh;
    keeper.use({ file: inDir(file), encoding, format })?.write(request());
    await keeper.close();
    for (const file of ['a', 'b']) {
      const path = join(dir, name, file);
      if (file in expected) t.match(readFileSync(path, 'utf8').trim(), expected[file], name);
      else t.notOk(existsSync(path), `${name}: no ${file}`);
    }
  }
});

t.test('mesh config may change where lines go; none is lost', async (t) => {
  const dir = t.testdir();
  const [first, second] = [join(dir, 'first'), join(dir, 'second')];
  const keeper = new AccessLogKeeper({ accessLog: null, accessLogEncoding: null });
  const of = (file: string) => ({ file, encoding: 'text', format: text('%REQ(:PATH)%') }) as const;
  const log = keeper.use(of(first));
  log?.write(request({ path: '/1' }));
  t.equal(keeper.use(of(first)), log, 'nothing changed');
  keeper.use(of(second))?.write(request({ path: '/2' }));
  t.throws(() => keeper.use(of(join(dir, 'no', 'such'))), { code: 'ENOENT' });
  keeper.current?.write(request({ path: '/3' }));
  await keeper.close();
  t.equal(readFileSync(first, 'utf8'), '/1\n');
  t.equal(readFileSync(second, 'utf8'), '/2\n/3\n');
  t.equal(keeper.dropped, 0);
});

async function rotate(t: Test, between: (log: AccessLogKeeper) => void): Promise<readonly [string, string]> {
  const dir = t.testdir();
  const [path, old] = [join(dir, 'log'), join(dir, 'log.1')];
  const keeper = new AccessLogKeeper({ accessLog: path, accessLogEncoding: 'text' });
  const log = keeper.use({ file: null, encoding: 'text', format: text('%REQ(:PATH)%') });
  log?.write(request({ path: '/1' }));
  await log?.flush();
  renameSync(path, old);
  between(keeper);
  log?.write(request({ path: '/3' }));
  await keeper.close();
  return [readFileSync(old, 'utf8'), readFileSync(path, 'utf8')];
}

t.test('a file that was renamed is opened anew', async (t) => {
  t.strictSame(await rotate(t, (keeper) => keeper.current?.reopen()), ['/1\n', '/3\n']);
});

t.test('a file that is opened anew while a batch is written: the batch stays whole', async (t) => {
  const big = `/${'a'.repeat(900)}`;
  const [old, fresh] = await rotate(t, (keeper) => {
    for (let i = 0; i < 100; i++) keeper.current?.write(request({ path: big }));
    keeper.current?.reopen();
  });
  const lines = `${old}${fresh}`.split('\n');
  t.equal(lines.length, 103, 'every line is there');
  t.strictSame([...new Set(lines)].sort(), ['', '/1', '/3', big], 'and whole');
  t.ok(fresh.endsWith('/3\n'));
});
