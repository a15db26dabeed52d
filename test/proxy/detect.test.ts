/** What the first bytes say must not depend on how they are cut, and no bytes may make the reader throw. */
import t from 'tap';
import {
  detect,
  firstByteClass,
  httpVersion,
  isGreeting,
  looksLikeHttp,
  offersIstio,
  spokenIn,
} from '../../proxy/detect.ts';
import { helloOf, inRecords, record, seededRandom } from './client-hello.ts';

const ALPN = ['istio-http/1.1', 'istio', 'http/1.1'];
const SNI = 'outbound_.9080_._.orders.shop.svc.cluster.local';
const hello = await helloOf({ servername: SNI, ALPNProtocols: ALPN });
const said = { kind: 'tls', sni: SNI, alpn: ALPN };

t.test('SNI and ALPN of real ClientHellos', async (t) => {
  const rows = [
    { title: 'both', options: { servername: SNI, ALPNProtocols: ALPN }, said },
    { title: 'neither', options: {}, said: { kind: 'tls', sni: null, alpn: [] } },
    { title: 'only SNI', options: { servername: 'a.b' }, said: { kind: 'tls', sni: 'a.b', alpn: [] } },
    { title: 'SNI in capitals', options: { servername: 'A.b' }, said: { kind: 'tls', sni: 'a.b', alpn: [] } },
    {
      title: 'only ALPN',
      options: { ALPNProtocols: ['h2'] },
      said: { kind: 'tls', sni: null, alpn: ['h2'] },
    },
    {
      title: 'TLS 1.2',
      options: { servername: 'a.b', maxVersion: 'TLSv1.2' as const },
      said: { kind: 'tls', sni: 'a.b', alpn: [] },
    },
  ];
  for (const { title, options, said } of rows) t.same(detect(await helloOf(options)), said, title);
});

t.test('every cut of it asks for more, until it is whole', async (t) => {
  for (let end = 0; end < hello.length; end++) {
    if (detect(hello.subarray(0, end)).kind !== 'more') t.fail(`after ${end} of ${hello.length} bytes`);
  }
  t.same(detect(hello), said);
  t.same(detect(Buffer.concat([hello, record(Buffer.alloc(99), 0x17)])), said, 'early data after it');
});

t.test('cut into records at any place, it is the same', async (t) => {
  const { length } = hello.subarray(5);
  for (let cut = 1; cut < length; cut++) {
    const cutUp = inRecords(hello, cut);
    const answer = detect(cutUp);
    if (answer.kind !== 'tls' || answer.sni !== SNI) t.fail(`cut at ${cut}: ${answer.kind}`);
    // And a record's end is no end of the message.
    if (detect(cutUp.subarray(0, 5 + cut)).kind !== 'more') t.fail(`first record alone, cut at ${cut}`);
  }
  const bytewise = inRecords(hello, ...Array.from({ length: length - 1 }, (_, i) => i + 1));
  t.same(detect(bytewise), said, 'one byte a record');
  for (let end = 0; end < bytewise.length; end += 7) {
    if (detect(bytewise.subarray(0, end)).kind !== 'more') t.fail(`one byte a record, after ${end} bytes`);
  }
});

t.test('what cannot become a ClientHello is plaintext at once', async (t) => {
  const edited = (edit: (bytes: Buffer) => void): Buffer => {
    const copy = Buffer.from(hello);
    edit(copy);
    return copy;
  };
  const half = inRecords(hello, 100).subarray(0, 105);
  const rows = [
    { title: 'HTTP', bytes: Buffer.from('GET / HTTP/1.1\r\n') },
    { title: 'one byte of it', bytes: Buffer.from('G') },
    { title: 'another record type', bytes: edited((b) => b.writeUInt8(0x15, 0)) },
    { title: 'another major version', bytes: edited((b) => b.writeUInt8(2, 1)) },
    { title: 'that, after two bytes', bytes: Buffer.of(0x16, 0x02) },
    { title: 'an empty record', bytes: Buffer.of(0x16, 3, 1, 0, 0) },
    { title: 'a record beyond 2^14', bytes: Buffer.of(0x16, 3, 1, 0x40, 1) },
    { title: 'another handshake message', bytes: edited((b) => b.writeUInt8(2, 5)) },
    { title: 'a message too short to be one', bytes: edited((b) => b.writeUIntBE(8, 6, 3)) },
    { title: 'a session id beyond its end', bytes: edited((b) => b.writeUInt8(0xff, 5 + 4 + 34)) },
    { title: 'extensions beyond its end', bytes: edited((b) => b.writeUIntBE(b.length - 5 - 4 - 1, 6, 3)) },
    {
      title: 'half of it, then another record type',
      bytes: Buffer.concat([half, record(Buffer.alloc(50), 0x17)]),
    },
    { title: 'half of it, then an empty record', bytes: Buffer.concat([half, Buffer.of(0x16, 3, 1, 0, 0)]) },
  ];
  for (const { title, bytes } of rows) t.equal(detect(bytes).kind, 'plaintext', title);
});

t.test('mutations never throw, and an answer once given stays', async (t) => {
  const random = seededRandom(20_260_814);
  for (let round = 0; round < 20_000; round++) {
    const bytes = Buffer.from(random(4) === 0 ? inRecords(hello, 1 + random(hello.length - 7)) : hello);
    for (let edits = random(4); edits >= 0; edits--) bytes[random(bytes.length)] = random(256);
    const cut = random(bytes.length + 1);
    let early: ReturnType<typeof detect>;
    let late: ReturnType<typeof detect>;
    try {
      early = detect(bytes.subarray(0, cut));
      late = detect(bytes);
    } catch (error) {
      t.fail(`round ${round}: ${String(error)}`, { hex: bytes.toString('hex') });
      return;
    }
    const changed = early.kind !== 'more' && JSON.stringify(early) !== JSON.stringify(late);
    if (changed) t.fail(`round ${round}: ${early.kind} after ${cut} bytes, then ${late.kind}`);
  }
  t.pass('20,000 rounds');
});

t.test('random bytes never throw', async (t) => {
  const random = seededRandom(7);
  for (let round = 0; round < 5_000; round++) {
    const bytes = Buffer.from(Array.from({ length: random(200) }, () => random(256)));
    if (random(2) === 0) bytes.set(Buffer.of(0x16, 3, 1).subarray(0, bytes.length));
    detect(bytes);
    looksLikeHttp(bytes);
    spokenIn(bytes);
    isGreeting(bytes);
    firstByteClass(bytes);
  }
  t.pass('5,000 rounds');
});

t.test("Istio's ALPNs", async (t) => {
  const rows = [
    { alpn: [], istio: false },
    { alpn: ['h2', 'http/1.1'], istio: false },
    { alpn: ['istio'], istio: true },
    { alpn: ['istio-http/1.0'], istio: true },
    { alpn: ['istio-http/1.1'], istio: true },
    { alpn: ['istio-h2'], istio: true },
    { alpn: ['istio-peer-exchange', 'istio'], istio: true },
    { alpn: ['h2', 'istio'], istio: true },
    { alpn: ['Istio'], istio: false },
    { alpn: ['istio-http/1.2'], istio: false },
  ];
  for (const { alpn, istio } of rows) t.equal(offersIstio(alpn), istio, alpn.join(',') || 'none');
});

/**
 * `envoy`: what Envoy 1.40's http_inspector said of the same bytes, seen by filter chains for
 * `http/1.0`, `http/1.1` and `h2c` beside one for all else; `more` where it went on waiting.
 */
const ends = ' HTTP/1.1\r\nHost: x\r\n\r\n';
const lines = [
  { text: `GET /admin${ends}`, envoy: 'http' },
  { text: `GET HTTP://x/admin${ends}`, envoy: 'http' },
  { text: `GET https://x/${ends}`, envoy: 'http' },
  { text: `GET  /admin${ends}`, envoy: 'http' },
  { text: `GET\t/admin${ends}`, envoy: 'http' },
  { text: `GET\v/admin${ends}`, envoy: 'http' },
  { text: `get /admin${ends}`, envoy: 'http' },
  { text: `GETX /admin${ends}`, envoy: 'http' },
  { text: `FOO /x${ends}`, envoy: 'http' },
  { text: `PROPFIND /x${ends}`, envoy: 'http' },
  { text: `M-SEARCH /x${ends}`, envoy: 'http' },
  { text: `GET_PARAMETER /x${ends}`, envoy: 'http' },
  { text: `CONNECT x:80${ends}`, envoy: 'http' },
  { text: `CONNECT${ends}`, envoy: 'http' },
  { text: 'GET /admin\r\n', envoy: 'http' },
  { text: 'GET /x HTTP/1.1\nHost: x\n\n', envoy: 'http' },
  { text: `PRI /x${ends}`, envoy: 'http' },
  { text: 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', envoy: 'http' },
  { text: 'OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n', envoy: 'tcp' },
  { text: 'DESCRIBE rtsp://x RTSP/1.0\r\n', envoy: 'tcp' },
  { text: 'OPTIONS sip:a@b SIP/2.0\r\n\r\n', envoy: 'tcp' },
  { text: 'EHLO mail\r\n', envoy: 'tcp' },
  { text: 'USER root\r\n', envoy: 'tcp' },
  { text: 'SSH-2.0-x\r\n', envoy: 'tcp' },
  { text: 'GETX\n', envoy: 'tcp' },
  { text: 'GET\r\n', envoy: 'tcp' },
  { text: 'GET\n', envoy: 'tcp' },
  { text: 'GET\0', envoy: 'tcp' },
  { text: 'GET:/x', envoy: 'tcp' },
  { text: 'POST/x HTTP/1.1\r\n', envoy: 'tcp' },
  { text: '\0', envoy: 'tcp' },
  { text: 'G', envoy: 'more' },
  { text: 'GE', envoy: 'more' },
  { text: 'GET', envoy: 'more' },
  { text: 'GET ', envoy: 'more' },
  { text: 'x', envoy: 'more' },
  { text: 'DELETEX', envoy: 'more' },
  // Where we are stricter.
  { text: 'GET /admin', envoy: 'more', is: 'http', why: 'nothing to come can change it' },
  { text: 'PRI *', envoy: 'more', is: 'http', why: 'nothing to come can change it' },
  { text: `\r\nGET /admin${ends}`, envoy: 'tcp', is: 'http', why: 'RFC 9112 §2.2: servers skip it' },
  { text: `\nGET /admin${ends}`, envoy: 'tcp', is: 'http', why: 'as above' },
  { text: `\r\n\r\nGET /admin${ends}`, envoy: 'tcp', is: 'http', why: 'as above' },
  { text: `\rGET /${ends}`, envoy: 'tcp', is: 'http', why: 'as above' },
  { text: '\r\n', envoy: 'tcp', is: 'more', why: 'as above' },
  { text: '\r\nG', envoy: 'tcp', is: 'more', why: 'as above' },
  { text: ` GET /admin${ends}`, envoy: 'tcp', is: 'http', why: "Python's http.server strips it" },
  { text: `GET x/admin${ends}`, envoy: 'tcp', is: 'http', why: 'some servers put the slash before it' },
  { text: `GET ?a${ends}`, envoy: 'tcp', is: 'http', why: 'as above' },
  { text: 'GET /x FOO/1.1\r\n', envoy: 'tcp', is: 'http', why: 'decided before the version' },
] as const;

t.test("HTTP or not, as Envoy's inspector has it or stricter", async (t) => {
  for (const row of lines) {
    const is = 'is' in row ? row.is : row.envoy;
    const why = 'why' in row ? `: ${row.why}` : '';
    t.equal(looksLikeHttp(Buffer.from(row.text, 'latin1')), is, JSON.stringify(row.text) + why);
  }
});

t.test('HTTP or not, where Envoy was not asked', async (t) => {
  const rows = [
    { title: 'LDAP bind', text: '\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0', is: 'tcp' },
    { title: 'Postgres', text: '\0\0\0\x4a\0\x03\0\0', is: 'tcp' },
    { title: 'MySQL', text: '\0\0\0\x4a\x0a8.0', is: 'tcp' },
    { title: 'Redis', text: '*1\r\n$4\r\nPING\r\n', is: 'tcp' },
    { title: 'STOMP', text: 'CONNECT\naccept-version:1.2\n\n\0', is: 'tcp' },
    { title: 'PROXY protocol, version 2', text: '\r\n\r\n\0\r\nQUIT\n', is: 'tcp' },
    { title: 'HL7', text: '\vMSH|^~\\&|', is: 'tcp' },
    { title: 'memcached', text: 'get key\r\n', is: 'tcp' },
    { title: 'JSON', text: '{"method": "GET /x HTTP/1.1"}', is: 'tcp' },
    { title: 'words split as Python does', text: 'GET\x1c/admin\x1cHTTP/1.1\r\n', is: 'http' },
    { title: 'a method that never ends', text: 'A'.repeat(100), is: 'more' },
    { title: 'that, beyond what is waited for', text: 'A'.repeat(5_000), is: 'http' },
    { title: 'a target that never ends', text: `CONNECT ${'a'.repeat(5_000)}`, is: 'http' },
    { title: 'empty lines without end', text: '\r\n'.repeat(2_500), is: 'http' },
  ];
  for (const { title, text, is } of rows) t.equal(looksLikeHttp(Buffer.from(text, 'latin1')), is, title);
});

/** Methods of the registry (RFC 9110 §16.1.1, WebDAV) and what ZooKeeper and others say without an end of line. */
t.test('where methods in use alone count, no other word is waited for', async (t) => {
  const rows = [
    ...['ruok', 'stat', 'mntr', 'srvr', 'cons', 'x', 'hello', 'DELETEX', 'GETX'].map((text) => ({
      text,
      is: 'tcp',
    })),
    ...['G', 'GE', 'GET', 'GET ', 'get', 'con', 'PROPF', 'M-', 'CONNECT x', '\r\n', '', '\r\nP'].map(
      (text) => ({
        text,
        is: 'more',
      }),
    ),
    { text: 'hello there', is: 'tcp' },
    { text: 'A'.repeat(5_000), is: 'tcp' },
    { text: 'GET'.repeat(2_000), is: 'tcp' },
    { text: `CONNECT ${'a'.repeat(5_000)}`, is: 'http' },
    { text: `FOO /x${ends}`, is: 'http' },
    { text: `FOO x${ends}`, is: 'http' },
    { text: `get /x${ends}`, is: 'http' },
    { text: 'USER root\r\n', is: 'tcp' },
  ];
  for (const { text, is } of rows) {
    t.equal(looksLikeHttp(Buffer.from(text, 'latin1'), 'in use'), is, JSON.stringify(text.slice(0, 30)));
  }
  for (const [text, is] of [
    ['ruok', 'tcp'],
    ['PRIV', 'tcp'],
    ['PRI', 'more'],
    ['P', 'more'],
    ['FOO /', 'http1'],
  ] as const) {
    t.equal(spokenIn(Buffer.from(text), 'in use'), is, text);
  }
  for (const { text } of lines) {
    const bytes = Buffer.from(text, 'latin1');
    const any = looksLikeHttp(bytes);
    const inUse = looksLikeHttp(bytes, 'in use');
    t.ok(
      inUse === any || (any === 'more' && inUse === 'tcp'),
      `what is decided stays: ${JSON.stringify(text)}`,
    );
  }
});

t.test('an answer once given stays, however the bytes are cut', async (t) => {
  for (const { text } of lines) {
    const bytes = Buffer.from(text, 'latin1');
    const whole = looksLikeHttp(bytes);
    let early = 'more';
    for (let end = 1; end <= bytes.length && early === 'more'; end++) {
      early = looksLikeHttp(bytes.subarray(0, end));
    }
    t.equal(early, whole, JSON.stringify(text));
  }
});

/** RFC 9113 §3.4, octet by octet as it is printed there. */
const PREFACE = Buffer.from('505249202a20485454502f322e300d0a0d0a534d0d0a0d0a', 'hex');

t.test("HTTP/2 is told by its preface, HTTP/1 by the first byte that is not the preface's", async (t) => {
  for (let end = 0; end < PREFACE.length; end++) {
    t.equal(httpVersion(PREFACE.subarray(0, end)), 'more', `${end} bytes`);
    t.equal(spokenIn(PREFACE.subarray(0, end)), 'more', `${end} bytes, undeclared`);
    const wrong = Buffer.from(PREFACE.subarray(0, end + 1));
    wrong[end] = (wrong[end] ?? 0) ^ 0x20;
    t.equal(httpVersion(wrong), 'http1', `byte ${end} is wrong`);
  }
  t.equal(httpVersion(PREFACE), 'http2');
  t.equal(spokenIn(PREFACE), 'http2');
  t.equal(httpVersion(Buffer.concat([PREFACE, Buffer.alloc(100)])), 'http2');
  for (const text of ['G', 'PO', 'PRI /x HTTP/1.1', 'PRI * HTTP/1.1', 'pri * HTTP/2.0', 'PROPFIND /', '\r\n'])
    t.equal(httpVersion(Buffer.from(text, 'latin1')), 'http1', text);
});

t.test('what departs from the preface is never TCP', async (t) => {
  const rows = [
    { text: 'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n', is: 'http1' },
    { text: 'PRI * HTTP/2.0\r\nHost: x\r\n\r\n', is: 'http1' },
    { text: 'PRI * HTTP/2.1', is: 'http1' },
    { text: 'PRI *\n', is: 'http1' },
    { text: 'PRIVMSG a\r\n', is: 'tcp' },
    { text: 'PRIV', is: 'more' },
    { text: 'GET /', is: 'http1' },
    { text: 'EHLO a\r\n', is: 'tcp' },
  ];
  for (const { text, is } of rows) t.equal(spokenIn(Buffer.from(text, 'latin1')), is, JSON.stringify(text));
});

t.test('what an app says unasked: a greeting, or HTTP', async (t) => {
  const rows: readonly { title: string; bytes: Buffer; is: boolean | 'more' }[] = [
    { title: 'SMTP', bytes: Buffer.from('220 mail ESMTP\r\n'), is: true },
    { title: 'SSH', bytes: Buffer.from('SSH-2.0-x\r\n'), is: true },
    { title: 'MySQL', bytes: Buffer.from('4a0000000a382e30', 'hex'), is: true },
    { title: 'MySQL: too many connections', bytes: Buffer.from('17000000ff1004', 'hex'), is: true },
    { title: 'VNC', bytes: Buffer.from('RFB 003.008\n'), is: true },
    { title: 'a prompt', bytes: Buffer.from('>'), is: true },
    { title: 'one that begins as HTTP', bytes: Buffer.from('HTTX'), is: true },
    { title: 'an answer to silence', bytes: Buffer.from('HTTP/1.1 408 Request Timeout\r\n'), is: false },
    { title: 'its beginning', bytes: Buffer.from('HTTP'), is: 'more' },
    // RFC 9113 §6.5: length, type 4, no flags, stream 0.
    { title: 'empty SETTINGS', bytes: Buffer.from('000000040000000000', 'hex'), is: false },
    { title: 'SETTINGS', bytes: Buffer.from('0000120400000000000003000000640004', 'hex'), is: false },
    { title: 'their beginning', bytes: Buffer.from('0000120400', 'hex'), is: 'more' },
    { title: 'their acknowledgement', bytes: Buffer.from('000000040100000000', 'hex'), is: true },
    { title: 'another frame', bytes: Buffer.from('0000080600000000000000000000000000', 'hex'), is: true },
  ];
  for (const { title, bytes, is } of rows) t.equal(isGreeting(bytes), is, title);
});
