/** h2spec, the conformance test of HTTP/2 servers, against the HBONE port. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { connect } from 'node:tls';
import t, { type Test } from 'tap';
import { listen } from '../e2e/harness/apps.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import { type Leaf, spiffe } from '../e2e/harness/test-ca.ts';
import { within } from '../e2e/harness/wait.ts';
import { hboneSidecar } from '../proxy/hbone-sidecar.ts';

t.setTimeout(120_000);

const binary = process.env.OARLOCK_H2SPEC;
if (binary === undefined) {
  t.plan(
    0,
    'SKIPPED: set OARLOCK_H2SPEC to h2spec (go install github.com/summerwind/h2spec/cmd/h2spec@latest)',
  );
  process.exit(0);
}

const BODY = 'it wants DATA in the answer to GET, and ours is 400 with END_STREAM in HEADERS';
const ANSWERED =
  'it breaks its request behind the head, when 400 and RST_STREAM NO_ERROR have ended the stream already';
const LENGTH = `${ANSWERED}; Content-Length means nothing to a CONNECT`;

/**
 * What does not apply to a server of CONNECT alone, which answers h2spec's GET and POST with 400 as soon as their head is
 * there. What these cases hold other servers to is asked of ours with CONNECT in test/proxy/hbone-frames.test.ts.
 */
const inapplicable: readonly (readonly [section: string, title: string, why: string])[] = [
  ['generic/2', 'Sends a WINDOW_UPDATE frame on half-closed (remote) stream', BODY],
  ['generic/2', 'Sends a PRIORITY frame on half-closed (remote) stream', BODY],
  [
    'http2/5.1.2',
    'Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded',
    'each stream is answered and over before the next one: there are never so many',
  ],
  ['http2/6.5.3', 'Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE', BODY],
  ['http2/6.9.1', 'Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame', BODY],
  ['http2/6.9.2', 'Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame', BODY],
  ['http2/6.9.2', 'Sends a SETTINGS frame for window size to be negative', BODY],
  [
    'http2/6.9.1',
    'Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream',
    ANSWERED,
  ],
  ['http2/8.1', 'Sends a second HEADERS frame without the END_STREAM flag', ANSWERED],
  ['http2/8.1.2.1', 'Sends a HEADERS frame that contains a pseudo-header field as trailers', ANSWERED],
  [
    'http2/8.1.2.6',
    'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length',
    LENGTH,
  ],
  [
    'http2/8.1.2.6',
    'Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the multiple DATA frames payload length',
    LENGTH,
  ],
];

/** h2spec has no client certificate: its bytes go on as they are, inside mutual TLS. */
async function forwarder(t: Test, to: number, { cert, key }: Leaf): Promise<number> {
  const server = createServer((plain) => {
    const tls = connect({
      port: to,
      host: '127.0.0.1',
      cert,
      key,
      ALPNProtocols: ['h2'],
      // What is asked here is how it speaks, not who it is.
      rejectUnauthorized: false,
    });
    for (const [one, other] of [
      [plain, tls],
      [tls, plain],
    ] as const) {
      one.on('error', () => {});
      one.on('close', () => other.destroy());
      one.pipe(other);
    }
  });
  return (await listen(t, server)).port;
}

interface Case {
  readonly section: string;
  readonly title: string;
  readonly outcome: 'passed' | 'skipped' | 'failed';
}

/** Reads what h2spec writes as JUnit XML. */
function casesOf(xml: string): readonly Case[] {
  const found = xml.matchAll(/<testcase package="([^"]*)" classname="([^"]*)"[^>]*>([\s\S]*?)<\/testcase>/g);
  return [...found].map(([, section = '', title = '', inside = '']) => ({
    section,
    title: title.replaceAll('&#34;', '"').replaceAll('&#39;', "'").replaceAll('&amp;', '&'),
    outcome: inside.includes('<skipped') ? 'skipped' : inside.trim() === '' ? 'passed' : 'failed',
  }));
}

t.test('all that applies to a server of CONNECT', async (t) => {
  const sidecar = await hboneSidecar(t);
  const port = await forwarder(t, sidecar.port, await sidecar.ca.leaf(spiffe('shop', 'web')));
  const report = `${tempDir(t)}/report.xml`;
  const child = spawn(binary, ['-h', '127.0.0.1', '-p', String(port), '-j', report], { stdio: 'ignore' });
  const ended = new Promise((resolve, reject) => child.once('error', reject).once('close', resolve));
  t.teardown(() => child.kill('SIGKILL'));
  await within('h2spec to end', ended, 100_000);
  const cases = casesOf(readFileSync(report, 'utf8'));
  t.ok(cases.length >= 145, `${cases.length} cases`);
  for (const { section, title, outcome } of cases) {
    const exception = inapplicable.find(([where, what]) => where === section && what === title);
    if (exception === undefined) t.equal(outcome, 'passed', `${section}: ${title}`);
    else t.not(outcome, 'passed', `${section}: ${title}: ${exception[2]}`);
  }
  const known = (one: readonly [string, string, string]): boolean =>
    cases.some(({ section, title }) => section === one[0] && title === one[1]);
  t.strictSame(
    inapplicable.filter((one) => !known(one)),
    [],
    'each exception is a case of its',
  );
});
