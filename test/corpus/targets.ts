/** Point 1, targets and Host: one resource and one authority, the same for policy and app (RFC 9112 §3.2, §3.3; RFC 3986). */
import { type Case, get, HEAD, HOST, refused, SMUGGLED, served } from './case.ts';

const char = String.fromCharCode;
const hex = (byte: number): string => `\\x${byte.toString(16).padStart(2, '0')}`;

function bad(name: string, target: string, status: number | readonly number[] = 400): Case {
  return { name, send: `GET ${target} ${HEAD}\r\n${SMUGGLED}`, expect: refused(status) };
}

/** A target as it is sent, and as the app gets it. */
function to(target: string, path: string, name = target): Case {
  return { name, send: get('', target), expect: served(`GET ${path} HTTP/1.1`) };
}

const bytes: readonly Case[] = [
  ...Array.from({ length: 33 }, (_, i) => i)
    .filter((byte) => byte !== 0x0a && byte !== 0x0d && byte !== 0x20)
    .map((byte) => bad(`a path with ${hex(byte)}`, `/a${char(byte)}b`)),
  ...[0x7f, 0x80, 0xa0, 0xc3, 0xff].map((byte) => bad(`a path with ${hex(byte)}`, `/a${char(byte)}b`)),
  ...[0, 9, 0x7f, 0xe9].map((byte) => bad(`a query with ${hex(byte)}`, `/a?b${char(byte)}c`)),
  bad('UTF-8 in a path', '/caf\xc3\xa9'),
  bad('UTF-8 in a query', '/?q=caf\xc3\xa9'),
  bad('a space in a path', '/a b'),
  bad('a space in a query', '/a?b c'),
  bad('a fragment', '/a#b'),
  bad('an empty fragment', '/a#'),
  bad('a fragment behind a query', '/a?b#c'),
  bad('a fragment that hides a path', '/public#/../admin'),
  bad('a fragment in an absolute form', `http://${HOST}/a#b`),
  bad('a fragment behind an authority', `http://${HOST}#/a`),
  to('/%23', '/%23'),
  to('/a?b=%20&c=%0d%0a', '/a?b=%20&c=%0d%0a'),
  to("/a-._~!$&'()*+,;=:@/b", "/a-._~!$&'()*+,;=:@/b", 'every character a path may have'),
  to("/a?b/c?d=e-._~!$&'()*+,;=:@", "/a?b/c?d=e-._~!$&'()*+,;=:@", 'every character a query may have'),
  to('/?', '/?', 'an empty query'),
  to('/??', '/??', 'two question marks'),
];

const paths: readonly Case[] = [
  to('/', '/'),
  to('/a/./b', '/a/b'),
  to('/a/../b', '/b'),
  to('/a/b/../../c', '/c'),
  to('/../a', '/a'),
  to('/../../../a', '/a'),
  to('/a/..', '/'),
  to('/a/.', '/a/'),
  to('/a/%2e%2e/b', '/b'),
  to('/a/%2E%2E/b', '/b'),
  to('/a/%2e./b', '/b'),
  to('/a/.%2E/b', '/b'),
  to('/a/%2e/b', '/a/b'),
  to('/a\\b', '/a/b'),
  to('/a\\..\\b', '/b'),
  to('/a/..\\b', '/b'),
  bad('a target that begins with a backslash', '\\a'),
  to('/a%5cb', '/a%5cb', 'an escaped backslash stays'),
  to('/a%2Fb', '/a%2Fb', 'an escaped slash stays'),
  to('//', '//'),
  to('//a', '//a'),
  to('/a//b', '/a//b'),
  to('///a', '///a'),
  to('/...', '/...'),
  to('/..a', '/..a'),
  to('/a..', '/a..'),
  to('/%61%64', '/ad', 'escaped letters become letters'),
  to('/%7E%2d%5F', '/~-_', 'escaped unreserved characters become themselves'),
  to('/a?b=/../c', '/a?b=/../c', 'dot segments of a query stay'),
  to('/a?b=\\c', '/a?b=\\c', 'a backslash of a query stays'),
  to('/a?%61', '/a?%61', 'escapes of a query stay'),
  bad('an escaped NUL', '/a%00b'),
];

const forms: readonly Case[] = [
  bad('authority form for GET', `${HOST}:80`),
  bad('authority form without a port', HOST),
  bad('a path without a slash', 'a/b'),
  bad('an asterisk for GET', '*'),
  bad('an asterisk and more', '*/a'),
  bad('a query alone', '?a'),
  bad('a fragment alone', '#'),
  bad('a scheme alone', 'http:'),
  bad('a scheme with one slash', `http:/${HOST}/`),
  bad('a scheme without slashes', `http:${HOST}`),
  bad('no authority', 'http://'),
  bad('no authority and a path', 'http:///a'),
  bad('no authority and a query', 'http://?a'),
  bad('ftp', `ftp://${HOST}/`),
  bad('file', 'file:///etc/passwd'),
  bad('javascript', 'javascript:alert(1)'),
  bad('unknown scheme', `x://${HOST}/`),
  bad('no scheme', `://${HOST}/`),
  bad('user info', `http://user@${HOST}/`),
  bad('user info with a password', `http://user:pass@${HOST}/`),
  bad('empty user info', `http://@${HOST}/`),
  bad('user info that looks like a host', `http://${HOST}@other.test/`),
  bad('a port that is none', `http://${HOST}:x/`),
  bad('a port with a sign', `http://${HOST}:-80/`),
  bad('a port too big', `http://${HOST}:65536/`),
  bad('two ports', `http://${HOST}:80:80/`),
  bad('a backslash in the authority', `http://${HOST}\\@other.test/`),
  bad('a backslash for slashes', `http:\\\\${HOST}\\a`),
  bad('an open bracket', 'http://[::1/'),
  bad('no address in brackets', 'http://[app]/'),
  bad('a space in the authority', 'http://app .test/'),
  bad('a comma in the authority', `http://${HOST},other.test/`),
  {
    name: 'CONNECT',
    send: `CONNECT ${HOST}:80 HTTP/1.1\r\nHost: ${HOST}:80\r\n\r\n${SMUGGLED}`,
    expect: refused([405]),
  },
  { name: 'CONNECT of a path', send: `CONNECT / ${HEAD}\r\n${SMUGGLED}`, expect: refused([400, 405]) },
  {
    name: 'CONNECT without Host',
    send: `CONNECT ${HOST}:80 HTTP/1.1\r\n\r\n${SMUGGLED}`,
    expect: refused([400, 405]),
  },
  { name: 'CONNECT in 1.0', send: `CONNECT ${HOST}:80 HTTP/1.0\r\n\r\n`, expect: refused([400, 405]) },
  {
    name: 'CONNECT with a body',
    send: `CONNECT ${HOST}:80 ${HEAD}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    expect: refused([405]),
  },
  {
    name: 'CONNECT with chunks',
    send: `CONNECT ${HOST}:80 ${HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`,
    expect: refused([405]),
  },
  {
    name: 'absolute form',
    send: get('', `http://${HOST}/a?b`),
    expect: served({ line: 'GET /a?b HTTP/1.1', has: [`host: ${HOST}`] }),
  },
  {
    name: 'absolute form, scheme in capitals',
    send: get('', `HTTP://${HOST}/a`),
    expect: served({ line: 'GET /a HTTP/1.1', has: [`host: ${HOST}`] }),
  },
  {
    name: 'absolute form without a path',
    send: get('', `http://${HOST}`),
    expect: served({ line: 'GET / HTTP/1.1', has: [`host: ${HOST}`] }),
  },
  {
    name: 'absolute form with a query behind the authority',
    send: get('', `http://${HOST}?a=b`),
    expect: served({ line: 'GET /?a=b HTTP/1.1', has: [`host: ${HOST}`] }),
  },
  {
    name: 'an absolute authority beats Host',
    send: `GET http://real.test/a HTTP/1.1\r\nHost: other.test\r\n\r\n`,
    expect: served({ line: 'GET /a HTTP/1.1', has: ['host: real.test'] }),
  },
  {
    name: 'an absolute authority with a port beats Host',
    send: `GET http://real.test:8080/a HTTP/1.1\r\nHost: other.test\r\n\r\n`,
    expect: served({ line: 'GET /a HTTP/1.1', has: ['host: real.test:8080'] }),
  },
  {
    name: 'an absolute authority that is an IPv6 address',
    send: `GET http://[::1]:80/a HTTP/1.1\r\nHost: other.test\r\n\r\n`,
    expect: served({ line: 'GET /a HTTP/1.1', has: ['host: [::1]:80'] }),
  },
  {
    name: 'an absolute form with dot segments',
    send: get('', `http://${HOST}/a/../b`),
    expect: served('GET /b HTTP/1.1'),
  },
  {
    name: 'an absolute form without Host',
    send: `GET http://${HOST}/ HTTP/1.1\r\n\r\n${SMUGGLED}`,
    expect: refused(),
  },
  {
    name: 'an absolute form with two Hosts',
    send: `GET http://${HOST}/ ${HEAD}Host: ${HOST}\r\n\r\n${SMUGGLED}`,
    expect: refused(),
  },
  {
    name: 'an absolute form with a bad Host',
    send: `GET http://${HOST}/ HTTP/1.1\r\nHost: a b\r\n\r\n${SMUGGLED}`,
    expect: refused(),
  },
  {
    name: 'an absolute form within a path',
    send: get('', `/http://${HOST}/admin`),
    expect: served(`GET /http://${HOST}/admin HTTP/1.1`),
  },
  {
    name: 'OPTIONS *',
    send: `OPTIONS * ${HEAD}\r\n`,
    expect: { answers: [{ status: [200, 400, 404] }], end: 'gone', app: [] },
  },
];

function host(name: string, lines: string): Case {
  return { name, send: `GET / HTTP/1.1\r\n${lines}\r\n${SMUGGLED}`, expect: refused() };
}

function hosted(value: string, seen = value, name = `Host: ${value}`): Case {
  return {
    name,
    send: `GET / HTTP/1.1\r\nHost: ${value}\r\n\r\n`,
    expect: served({ has: [`host: ${seen}`] }),
  };
}

const hosts: readonly Case[] = [
  host('no Host', 'X: 1\r\n'),
  host('no field at all', ''),
  host('two Hosts', `Host: ${HOST}\r\nHost: other.test\r\n`),
  host('two Hosts that are one', `Host: ${HOST}\r\nHost: ${HOST}\r\n`),
  host('two Hosts, another case', `Host: ${HOST}\r\nhOST: ${HOST}\r\n`),
  host('two Hosts, one of them empty', `Host: ${HOST}\r\nHost:\r\n`),
  host('three Hosts', `Host: ${HOST}\r\nX: 1\r\nHost: ${HOST}\r\nHost: ${HOST}\r\n`),
  host('a list', `Host: ${HOST}, other.test\r\n`),
  host('a list without a space', `Host: ${HOST},other.test\r\n`),
  host('a list of one twice', `Host: ${HOST}, ${HOST}\r\n`),
  host('a comma behind', `Host: ${HOST},\r\n`),
  host('an empty one', 'Host:\r\n'),
  host('white space alone', 'Host:  \t \r\n'),
  host('a space within', 'Host: app .test\r\n'),
  host('a tab within', 'Host: app\t.test\r\n'),
  host('two words', `Host: ${HOST} other.test\r\n`),
  host('user info', `Host: user@${HOST}\r\n`),
  host('user info with a password', `Host: user:pass@${HOST}\r\n`),
  host('a path', `Host: ${HOST}/a\r\n`),
  host('a slash', `Host: ${HOST}/\r\n`),
  host('a query', `Host: ${HOST}?a\r\n`),
  host('a fragment', `Host: ${HOST}#a\r\n`),
  host('a backslash', `Host: ${HOST}\\a\r\n`),
  host('a URL', `Host: http://${HOST}\r\n`),
  host('a URL with a path', `Host: http://${HOST}/\r\n`),
  host('a port that is none', `Host: ${HOST}:http\r\n`),
  host('a port with letters behind', `Host: ${HOST}:80x\r\n`),
  host('a port with a sign', `Host: ${HOST}:+80\r\n`),
  host('a negative port', `Host: ${HOST}:-80\r\n`),
  host('a port too big', `Host: ${HOST}:65536\r\n`),
  host('a port much too big', `Host: ${HOST}:4294967376\r\n`),
  host('two ports', `Host: ${HOST}:80:81\r\n`),
  host('a space before the port', `Host: ${HOST}: 80\r\n`),
  host('a space behind the host', `Host: ${HOST} :80\r\n`),
  host('a port alone', 'Host: :80\r\n'),
  host('IPv6 without brackets', 'Host: ::1\r\n'),
  host('IPv6 without brackets and with a port', 'Host: fe80::1:80\r\n'),
  host('IPv6 with an open bracket', 'Host: [::1\r\n'),
  host('IPv6 with a bracket too many', 'Host: [::1]]\r\n'),
  host('something behind the bracket', 'Host: [::1]x\r\n'),
  host('a name in brackets', 'Host: [app]\r\n'),
  host('empty brackets', 'Host: []\r\n'),
  host('a zone', 'Host: [fe80::1%25eth0]\r\n'),
  host('a bracket within', 'Host: a[b\r\n'),
  host('quotes', 'Host: "app.test"\r\n'),
  host('angle brackets', 'Host: <app.test>\r\n'),
  host('a pipe', 'Host: app|test\r\n'),
  host('a caret', 'Host: app^test\r\n'),
  host('a backtick', 'Host: app`test\r\n'),
  host('braces', 'Host: {app}\r\n'),
  host('obs-text', 'Host: caf\xe9.test\r\n'),
  host('UTF-8', 'Host: caf\xc3\xa9.test\r\n'),
  host('a NUL', 'Host: app.test\0other.test\r\n'),
  host('an open escape', 'Host: app%2\r\n'),
  hosted('app.test'),
  hosted('app.test:80'),
  hosted('app.test:8080'),
  hosted('app.test:65535'),
  hosted('APP.Test'),
  hosted('app.test.'),
  hosted('127.0.0.1'),
  hosted('127.0.0.1:80'),
  hosted('[::1]'),
  hosted('[::1]:8080'),
  hosted('[2001:db8::1]'),
  hosted('[::ffff:127.0.0.1]:80'),
  hosted('under_score.test'),
  hosted('a-b.test'),
  hosted('x'),
  hosted('xn--caf-dma.test'),
  {
    name: 'Host is not the first field',
    send: `GET / HTTP/1.1\r\nX: 1\r\nhoST: ${HOST}\r\n\r\n`,
    expect: served({ has: [`host: ${HOST}`] }),
  },
  {
    name: 'X-Forwarded-Host is no Host',
    send: get('X-Forwarded-Host: other.test\r\n'),
    expect: served({ has: [`host: ${HOST}`, 'x-forwarded-host: other.test'] }),
  },
  // RFC 9112 §3.2: required of 1.1 clients only; a field that is there must be good all the same.
  {
    name: 'two Hosts in 1.0',
    send: `GET / HTTP/1.0\r\nHost: ${HOST}\r\nHost: ${HOST}\r\n\r\n`,
    expect: refused(),
  },
  { name: 'a bad Host in 1.0', send: 'GET / HTTP/1.0\r\nHost: a b\r\n\r\n', expect: refused() },
];

export const targets = { bytes, paths, forms, hosts };
