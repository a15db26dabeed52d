/** `micro`: nanoseconds a call of the hot path's small functions. */
import { Duplex } from 'node:stream';
import { connect } from 'node:tls';
import { limitsWith } from '../mesh/limits.ts';
import { normalizeTarget } from '../policy/path.ts';
import { detect, looksLikeHttp } from '../proxy/detect.ts';
import { bodyReader } from '../proxy/http1/body.ts';
import { Http1Request, LastRequest } from '../proxy/http1/request-head.ts';
import { type AnswerOptions, Http1Response } from '../proxy/http1/response-head.ts';
import { HeadScan } from '../proxy/http1/scan.ts';
import type { Figures } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { type Timed, timeAll } from './rounds.ts';

const limits = limitsWith({});
const AS_IT_CAME: AnswerOptions = { close: false, plain: false, tunnel: false, changes: null };
const PROTO = { name: 'x-forwarded-proto', key: 'x-forwarded-proto', value: 'http' };

const small = ['GET /orders/7 HTTP/1.1', 'Host: orders.bench.svc.cluster.local', 'Accept: */*'].join('\r\n');

const browser = [
  'GET /catalogue/items?page=2&sort=price HTTP/1.1',
  'Host: shop.example.com',
  'Connection: keep-alive',
  'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"',
  'sec-ch-ua-mobile: ?0',
  'sec-ch-ua-platform: "Linux"',
  'Upgrade-Insecure-Requests: 1',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8',
  'Sec-Fetch-Site: same-origin',
  'Sec-Fetch-Mode: navigate',
  'Sec-Fetch-Dest: document',
  'Accept-Encoding: gzip, deflate, br, zstd',
  'Accept-Language: en-GB,en;q=0.9',
  'Cookie: session=0123456789abcdef0123456789abcdef; theme=dark',
].join('\r\n');

const answer = [
  'HTTP/1.1 200 OK',
  'Content-Type: application/json',
  'Date: Sat, 21 Nov 2026 04:00:00 GMT',
  'Connection: keep-alive',
  'Content-Length: 1024',
].join('\r\n');

/** The first bytes a Node client sends: groups and ALPN as a sidecar offers them. */
function clientHello(): Promise<Buffer> {
  return new Promise((resolve) => {
    const wire = new Duplex({
      read: () => {},
      write: (chunk: Buffer) => resolve(chunk),
    });
    connect({
      socket: wire,
      servername: 'outbound_.9080_._.orders.bench.svc.cluster.local',
      ALPNProtocols: ['istio-http/1.1', 'istio', 'http/1.1'],
      minVersion: 'TLSv1.3',
      ecdhCurve: 'X25519MLKEM768:X25519:P-256:P-384',
    });
  });
}

export async function benchMicro(options: BenchOptions, figures: Figures): Promise<void> {
  const normalize = (target: string): string | null => normalizeTarget(target, 'BASE');
  const hello = await clientHello();
  if (detect(hello).kind !== 'tls') throw new Error('that was no ClientHello');
  const plain = Buffer.from(`${small}\r\n\r\n`);
  const page = Buffer.from(`${browser}\r\n\r\n`);
  const told = Buffer.from(`${answer}\r\n\r\n`);
  const chunks = Buffer.from(`${`400\r\n${'x'.repeat(1024)}\r\n`.repeat(15)}0\r\n\r\n`);
  const scan = new HeadScan('request', limits);
  const last = new LastRequest();
  const read = (bytes: Buffer): Http1Request => {
    scan.reset();
    scan.scan(bytes);
    return new Http1Request(bytes, scan, normalize, last);
  };
  const forward = (bytes: Buffer): Buffer => {
    const request = read(bytes);
    request.add(PROTO);
    return request.write(null);
  };
  const answerScan = new HeadScan('response', limits);
  const readAnswer = (): Http1Response => {
    answerScan.reset();
    answerScan.scan(told);
    return new Http1Response(told, answerScan, 'GET');
  };
  const functions: readonly Timed[] = [
    { name: 'request head read, 2 fields', run: () => read(plain) },
    { name: 'request head read, 14 fields', run: () => read(page) },
    { name: 'request head read and written with a field more, 2 fields', run: () => forward(plain) },
    { name: 'request head read and written with a field more, 14 fields', run: () => forward(page) },
    { name: 'answer head read, 4 fields', run: readAnswer },
    { name: 'answer head read and written, 4 fields', run: () => readAnswer().write(AS_IT_CAME, null) },
    { name: 'chunked body of 15 KiB', run: () => bodyReader({ kind: 'chunked' }).feed(chunks, () => {}) },
    { name: `detect, ClientHello of ${hello.length} bytes`, run: () => detect(hello) },
    { name: 'looksLikeHttp', run: () => looksLikeHttp(plain) },
    { name: 'normalizeTarget, nothing to do', run: () => normalize('/catalogue/items?page=2&sort=price') },
    { name: 'normalizeTarget, dots and escapes', run: () => normalize('/a/./b/../%63atalogue\\items%2f?x') },
  ];
  timeAll('micro', functions, options.rounds, figures);
}
