/** What a CA's answer says besides its certificate: its time, how long to wait, what is wrong with our token. */
import t from 'tap';
import { tokenAdvice } from '../../ca-client/bearer-token.ts';
import { clockSkew, httpDate } from '../../ca-client/clock-skew.ts';
import { loadGrpc } from '../../ca-client/grpc.ts';
import { retryAfterMs } from '../../ca-client/retry-after.ts';

const DAY = 86_400_000;
const NOON = Date.UTC(2026, 0, 15, 12);
const at = (seconds: number) => NOON + seconds * 1000;

t.test('our clock against the answer', (t) => {
  const nothing = { date: null, leaf: null, issuer: null, askedMs: DAY };
  /** Istio: from two minutes ago, until the asked-for time from now. */
  const istio = { notBefore: at(-120), notAfter: NOON + DAY };
  const year = { notBefore: at(-DAY / 1000), notAfter: NOON + 365 * DAY };
  const rows: readonly (readonly [string, Partial<typeof nothing> | object, number, number | null])[] = [
    ['a date tells', { date: 'Thu, 15 Jan 2026 12:00:00 GMT' }, at(0.5), 0],
    ['ahead', { date: 'Thu, 15 Jan 2026 12:00:00 GMT' }, at(95.5), 95_000],
    ['behind', { date: 'Thu, 15 Jan 2026 12:00:00 GMT' }, at(-59.5), -60_000],
    ['before the certificate', { date: 'Thu, 15 Jan 2026 12:00:00 GMT', leaf: year }, at(0.5), 0],
    ['no HTTP date', { date: '15.1.2026 12:00' }, NOON, null],
    ['no such date', { date: 'Thu, 99 Xxx 2026 12:00:00 GMT' }, NOON, null],
    ['Istio', { leaf: istio, issuer: year }, at(0.5), 0],
    ['Istio, we are ahead', { leaf: istio, issuer: year }, at(7_200.5), 7_200_000],
    ['Istio, we are behind', { leaf: istio, issuer: year }, at(-300.5), -301_000],
    ['not dated back', { leaf: { notBefore: NOON, notAfter: NOON + DAY } }, at(1.5), 1_000],
    ['the CA gave less', { leaf: { notBefore: NOON, notAfter: NOON + DAY / 2 } }, at(40), null],
    ['the CA gave more', { leaf: { notBefore: NOON, notAfter: NOON + 2 * DAY } }, at(40), null],
    ['cut to the issuer', { leaf: istio, issuer: istio }, at(40), null],
    ['only from when', { leaf: { notBefore: NOON, notAfter: NOON + 2 * DAY } }, at(-40), -40_000],
    ['nothing', {}, NOON, null],
  ];
  for (const [title, answer, ourTime, skew] of rows) {
    t.equal(clockSkew({ ...nothing, ...answer }, ourTime), skew, title);
  }
  t.equal(httpDate('Sun, 06 Nov 1994 08:49:37 GMT'), 784_111_777_000, 'the example of RFC 9110 §5.6.7');
  t.end();
});

t.test('how long to wait', async (t) => {
  const { Metadata } = await loadGrpc();
  const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
  // google.rpc.Status { code: 14, details: [Any { type_url, value: RetryInfo { retry_delay } }] }
  const typeUrl = Buffer.from('type.googleapis.com/google.rpc.RetryInfo');
  const status = (duration: string, type = typeUrl) => {
    const seconds = hex(duration);
    const info = Buffer.concat([hex('0a'), Buffer.from([seconds.length]), seconds]);
    const any = Buffer.concat([
      hex('0a'),
      Buffer.from([type.length]),
      type,
      hex('12'),
      Buffer.from([info.length]),
      info,
    ]);
    return Buffer.concat([hex('080e 1a'), Buffer.from([any.length]), any]);
  };
  const rows: readonly (readonly [string, readonly (readonly [string, string | Buffer])[], number | null])[] =
    [
      ['nothing', [], null],
      ['pushback', [['grpc-retry-pushback-ms', '1500']], 1_500],
      ['at once', [['grpc-retry-pushback-ms', '0']], 0],
      ['never: as late as we dare', [['grpc-retry-pushback-ms', '-1']], 300_000],
      ['no number', [['grpc-retry-pushback-ms', 'soon']], 300_000],
      ['a day', [['grpc-retry-pushback-ms', '86400000']], 300_000],
      ['RetryInfo, 7 s', [['grpc-status-details-bin', status('0807')]], 7_000],
      ['RetryInfo, 1.25 s', [['grpc-status-details-bin', status('0801 1080e59a77')]], 1_250],
      ['RetryInfo, below 0', [['grpc-status-details-bin', status('08ffffffffffffffffff01')]], 0],
      [
        'other details',
        [['grpc-status-details-bin', status('0807', Buffer.from('x/google.rpc.Help'))]],
        null,
      ],
      ['details cut off', [['grpc-status-details-bin', status('0807').subarray(0, 20)]], null],
      ['garbage', [['grpc-status-details-bin', Buffer.alloc(40, 0xff)]], null],
      ['retry-after', [['retry-after', '12']], 12_000],
      ['retry-after, a date', [['retry-after', 'Thu, 15 Jan 2026 12:00:30 GMT']], 30_000],
      ['retry-after, past', [['retry-after', 'Thu, 15 Jan 2026 11:00:00 GMT']], 0],
      ['retry-after, words', [['retry-after', 'tomorrow']], null],
      [
        'the server before a proxy',
        [
          ['retry-after', '12'],
          ['grpc-retry-pushback-ms', '500'],
        ],
        500,
      ],
    ];
  for (const [title, entries, wait] of rows) {
    for (const inTrailers of [false, true]) {
      const [headers, trailers] = [new Metadata(), new Metadata()];
      for (const [name, value] of entries) (inTrailers ? trailers : headers).set(name, value);
      t.equal(
        retryAfterMs([headers, trailers], NOON),
        wait,
        `${title}, ${inTrailers ? 'trailers' : 'headers'}`,
      );
    }
  }
});

t.test('what a refused token says of itself', (t) => {
  const jwt = (claims: unknown) =>
    `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.c2lnbmF0dXJl`;
  const [past, future] = [NOON / 1000 - 60, NOON / 1000 + 60];
  const rows: readonly (readonly [string, string, RegExp])[] = [
    [
      'expired',
      jwt({ exp: past, aud: ['istio-ca'] }),
      /^the token in F expired at 2026-01-15T11:59:00.000Z and it is 2026-01-15T12:00:00.000Z: have it renewed$/,
    ],
    [
      'not yet',
      jwt({ nbf: future, exp: future + 60 }),
      /is not valid before 2026-01-15T12:01:00.000Z.*compare both clocks/,
    ],
    [
      'another audience',
      jwt({ exp: future, aud: ['vault', 'x'] }),
      /is for the audience "vault, x"; Istio's CA takes istio-ca$/,
    ],
    [
      'another audience, alone',
      jwt({ exp: future, aud: 'https://kubernetes.default.svc' }),
      /audience "https:\/\/kubernetes/,
    ],
    ['all well', jwt({ exp: future, aud: ['vault', 'istio-ca'] }), /^check that F holds a fresh token/],
    ['no audience', jwt({ exp: future }), /^check that F/],
    ['a time past all dates', jwt({ nbf: 1e300, aud: 'istio-ca' }), /is not valid before second 1e\+300/],
    ['odd claims', jwt({ exp: 'x', nbf: {}, aud: [7, null] }), /^check that F/],
    ['no object', jwt(null), /^check that F/],
    ['no JWT', 'opaque', /^check that F/],
    ['broken', 'a.%%%.c', /^check that F/],
  ];
  for (const [title, token, words] of rows) {
    const advice = tokenAdvice(token, { file: 'F', clusterId: null, now: NOON });
    t.match(advice, words, title);
    t.notMatch(advice, 'c2lnbmF0dXJl');
  }
  t.match(
    tokenAdvice('opaque', { file: 'F', clusterId: 'east', now: NOON }),
    /^check that F holds .*, and that the CA knows a cluster "east"$/,
  );
  t.ok(
    tokenAdvice(jwt({ aud: new Array(1_000).fill('x'.repeat(1_000)) }), {
      file: 'F',
      clusterId: null,
      now: NOON,
    }).length < 400,
    'shortened',
  );
  t.end();
});
