/** What the first bytes say must not depend on how they are cut, and no bytes may make the reader throw. */
import t from 'tap';
import { detect, firstByteClass, looksLikeHttp, offersIstio } from '../../proxy/detect.ts';
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

t.test('HTTP or not, byte by byte', async (t) => {
  const rows = [
    { text: 'GET / HTTP/1.1\r\n', is: 'http' },
    { text: 'OPTIONS * HTTP/1.1\r\n', is: 'http' },
    { text: 'GET http://a/ HTTP/1.1\r\n', is: 'http' },
    { text: 'M-SEARCH /x', is: 'http' },
    { text: 'EHLO mail.example\r\n', is: 'tcp' },
    { text: 'USER root\r\n', is: 'tcp' },
    { text: 'SSH-2.0-x', is: 'tcp' },
    { text: 'get / HTTP/1.1', is: 'tcp' },
    { text: '\0\0\0\x4a\x0a8.0', is: 'tcp' },
    { text: '*1\r\n$4\r\nPING\r\n', is: 'tcp' },
    { text: 'A'.repeat(100), is: 'tcp' },
  ];
  for (const { text, is } of rows) {
    t.equal(looksLikeHttp(Buffer.from(text, 'latin1')), is, text);
    let answer = 'more';
    for (let end = 1; end <= text.length && answer === 'more'; end++)
      answer = looksLikeHttp(Buffer.from(text.slice(0, end), 'latin1'));
    t.equal(answer, is, `${text}, byte by byte`);
  }
});
