/** Path normalization: rows `target → what is matched and forwarded`, from Istio's and Envoy's own tests where there are any. */
import t from 'tap';
import type { PathNormalization } from '../../mesh/snapshot.ts';
import { normalizeTarget, pathOfTarget } from '../../policy/path.ts';

type Row = readonly [target: string, expected: string | null, reason: string];

function run(name: string, mode: PathNormalization, rows: readonly Row[]): void {
  t.test(name, async (t) => {
    for (const [target, expected, reason] of rows) {
      t.equal(normalizeTarget(target, mode), expected, `${target}: ${reason}`);
    }
  });
}

const ISTIO = "Istio's integration test of normalization";
const ENVOY = "Envoy's path_utility_test";

run('NONE passes what came', 'NONE', [
  ['/', '/', ISTIO],
  ['/app/', '/app/', ISTIO],
  ['/app/../admin', '/app/../admin', ISTIO],
  ['/app//', '/app//', ISTIO],
  ['/app/%2f', '/app/%2f', ISTIO],
  ['/xyz%30..//abc', '/xyz%30..//abc', ISTIO],
  ['/app/%2E./admin', '/app/%2E./admin', ISTIO],
  ['/app\\admin', '/app\\admin', ISTIO],
  ['/app/..;/admin', '/app/..;/admin', 'parameters of dot segments are for normalize_path alone'],
  ['/a#b', null, 'a fragment is refused in every mode'],
]);

run('BASE is RFC 3986 normalization', 'BASE', [
  ['/', '/', ISTIO],
  ['/app/', '/app/', ISTIO],
  ['/app/../admin', '/admin', ISTIO],
  ['/app', '/app', ISTIO],
  ['/app//', '/app//', ISTIO],
  ['/app/%2f', '/app/%2f', ISTIO],
  ['/app%2f/', '/app%2f/', ISTIO],
  ['/xyz%30..//abc', '/xyz0..//abc', ISTIO],
  ['/app/%2E./admin', '/admin', ISTIO],
  ['/app\\admin', '/app/admin', ISTIO],
  ['/app/\\/\\/\\admin', '/app//////admin', ISTIO],
  ['/%2Fapp%5cadmin%5Cabc', '/%2Fapp%5cadmin%5Cabc', ISTIO],
  ['/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc', '/%5Capp%2f%5c%2F..%2fadmin%5c/abc', ISTIO],
  ['/app//../admin', '/app/admin', ISTIO],
  ['/app//../../admin', '/admin', ISTIO],
  ['/a/b/../c', '/a/c', ENVOY],
  ['/a/b/./c', '/a/b/c', ENVOY],
  ['/a/b/../../../../c', '/c', ENVOY],
  ['/a/..\\c', '/c', ENVOY],
  ['/%c0%af', '/%c0%af', ENVOY],
  ['/%5c%25', '/%5c%25', ENVOY],
  ['/a/b/%2E%2E/c', '/a/c', ENVOY],
  ['/a/b/%2e%2e/c', '/a/c', ENVOY],
  ['/a/b/%2E./c', '/a/c', ENVOY],
  ['/a/b/%2E/c', '/a/b/c', ENVOY],
  ['/../a/b', '/a/b', ENVOY],
  ['/./a/b', '/a/b', ENVOY],
  ['/A/B/C', '/A/B/C', ENVOY],
  ['/a/%2F%2f/c', '/a/%2F%2f/c', ENVOY],
  ['/xyz/.%00../abc', null, ENVOY],
  ['/xyz/%00.%00./abc', null, ENVOY],
  ['/xyz/AAAAA%%0000/abc', null, ENVOY],
  ['/admin%00', null, ISTIO],
  ['/%61%62%7e%2D%5f%39', '/ab~-_9', 'RFC 3986 §6.2.2.2: escaped unreserved characters are decoded'],
  ['/a/.', '/a/', 'RFC 3986 §5.2.4: a last dot segment leaves its slash'],
  ['/a/..', '/', 'RFC 3986 §5.2.4'],
  ['/..', '/', 'nothing is above the root'],
  ['/a/b/%2e%2e', '/a/', 'the same, escaped'],
  ['/a/...', '/a/...', 'three dots are a name'],
  ['/a/..b', '/a/..b', 'a name that begins with dots'],
  ['/a/b..', '/a/b..', 'a name that ends with dots'],
  ['/.well-known/x', '/.well-known/x', 'a name that begins with a dot'],
  ['/a/%2ex', '/a/.x', 'an escaped dot of a name is decoded too'],
  ['/%252e%252e/admin', '/%252e%252e/admin', 'decoded once, never twice'],
  ['/%3B%40%26', '/%3B%40%26', 'escaped reserved characters stay, and their hex digits keep their case'],
  ['/%zz%2', '/%zz%2', 'what is no escape stays'],
  [
    '/%%300',
    '/%2500',
    'a decoded digit must not complete an escape: Chromium escapes the stray percent sign',
  ],
  ['/%%30%30', '/%2500', 'the same, both digits decoded'],
  ['/%%41', '/%A', 'a stray percent sign that no escape grows behind'],
  ['/%%41g', '/%Ag', 'the same'],
  ['/a"<>^`{|}', '/a%22%3C%3E%5E%60%7B%7C%7D', 'unsafe characters are escaped, upper case'],
  ['/caf\u00c3\u00a9', '/caf%C3%A9', 'bytes above 127 are escaped'],
  ["/!$&'()*+,:;=@[]", "/!$&'()*+,:;=@[]", 'reserved characters pass'],
  ['/a?b=/../c&d=%61//\\', '/a?b=/../c&d=%61//\\', 'the query is untouched'],
  ['/x/../a?b=/../c', '/a?b=/../c', 'the query is untouched, the path is not'],
  ['/a?', '/a?', 'an empty query stays'],
  ['/a/../?x', '/?x', 'a path that becomes the root'],
  ['//a', '//a', 'no host is read into it'],
  ['/a/..;/b', '/b', "Envoy's CVE-2026-73551: a dot segment's parameters go with it"],
  ['/a/.;x=1/b', '/a/b', 'the same for one dot'],
  ['/a/..;x', '/', 'the same at the end'],
  ['/a/%2e%2e;/b', '/b', 'the same escaped, so that one reading is the last one'],
  ['/a\\..;x/b', '/b', 'the same behind a backslash'],
  ['/admin;a=b/xyz', '/admin;a=b/xyz', ISTIO],
  ['/;/admin', '/;/admin', ISTIO],
  ['/a;..;/b', '/a;..;/b', 'dots inside a name'],
]);

run('MERGE_SLASHES then merges', 'MERGE_SLASHES', [
  ['/app//', '/app/', ISTIO],
  ['/app/%2f', '/app/%2f', ISTIO],
  ['/xyz%30..//abc', '/xyz0../abc', ISTIO],
  ['/app/\\/\\/\\admin', '/app/admin', ISTIO],
  ['/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc', '/%5Capp%2f%5c%2F..%2fadmin%5c/abc', ISTIO],
  ['/app//../admin', '/app/admin', ISTIO],
  ['/app//../../admin', '/admin', ISTIO],
  ['/a//b/c/', '/a/b/c/', ENVOY],
  ['//a/b/c', '/a/b/c', ENVOY],
  ['/a/b/c//', '/a/b/c/', ENVOY],
  ['/a////b/c', '/a/b/c', ENVOY],
  ['/a//b?a=///c', '/a/b?a=///c', ENVOY],
  ['/a//b?', '/a/b?', ENVOY],
  ['//a/?b', '/a/?b', ENVOY],
  ['//', '//', "Envoy's mergeSlashes joins nothing between the first and the last slash"],
]);

run('DECODE_AND_MERGE_SLASHES decodes first', 'DECODE_AND_MERGE_SLASHES', [
  ['/app/%2f', '/app/', ISTIO],
  ['/app%2f/', '/app/', ISTIO],
  ['/%2Fapp%5cadmin%5Cabc', '/app/admin/abc', ISTIO],
  ['/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc', '/app/admin/abc', ISTIO],
  ['/%c0%2e%c0%2e/admin', '/%c0.%c0./admin', ISTIO],
  ['/%c0%2fadmin', '/%c0/admin', ISTIO],
  ['/%252e%252e%252fadmin', '/%252e%252e%252fadmin', ISTIO],
  ['/%c0%ae%c0%ae/admin', '/%c0%ae%c0%ae/admin', ISTIO],
  ['/.../admin', '/.../admin', ISTIO],
  ['/admin%00', null, ISTIO],
  ['/a%2f..%2fb', '/b', 'a decoded slash ends a dot segment'],
  ['/a?x=%2f%5c', '/a?x=%2f%5c', 'the query is untouched'],
]);

t.test('every escape, as Istio tests them', async (t) => {
  for (let byte = 1; byte <= 0xff; byte++) {
    const escaped = `%${byte.toString(16).padStart(2, '0')}`;
    const char = String.fromCharCode(byte);
    const expected = /[0-9A-Za-z._~/-]/.test(char) ? char : char === '\\' ? '/' : escaped;
    t.equal(normalizeTarget(`/admin${escaped}`, 'DECODE_AND_MERGE_SLASHES'), `/admin${expected}`, escaped);
  }
});

t.test('refused in every mode', async (t) => {
  for (const mode of ['NONE', 'BASE', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'] as const) {
    for (const target of ['', 'a', 'http://h/', '*x', '/a b', '/a?b c', '/\t', '/a\r\n', '/\x7f', '/\x00']) {
      t.equal(normalizeTarget(target, mode), null, `${mode}: ${JSON.stringify(target)}`);
    }
    for (const target of ['/a#b', '/a?b#c', '/#', '/\u0100']) {
      t.equal(normalizeTarget(target, mode), null, `${mode}: ${JSON.stringify(target)}`);
    }
    t.equal(normalizeTarget('*', mode), null, 'no path');
  }
});

t.test('normal form is normal: a second reading changes nothing', async (t) => {
  const pieces = [
    '/',
    '/',
    '.',
    '..',
    '%2e',
    '%2F',
    '%5c',
    '\\',
    ';',
    'a',
    '%61',
    '%',
    '3',
    '0',
    '//',
    '?',
    '"',
    '%25',
  ];
  let seed = 7;
  const next = (n: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >>> 8) % n;
  };
  const wrong: string[] = [];
  for (let round = 0; round < 20_000; round++) {
    let target = '/';
    for (let n = next(9); n >= 0; n--) target += pieces[next(pieces.length)];
    for (const mode of ['BASE', 'MERGE_SLASHES'] as const) {
      const once = normalizeTarget(target, mode);
      if (once === null) continue;
      const twice = normalizeTarget(once, mode);
      if (twice !== once) wrong.push(`${mode}: ${target} → ${once} → ${twice}`);
      if (/\/\.\.?(\/|$)/.test(pathOfTarget(once)))
        wrong.push(`${mode}: ${target} → ${once} has a dot segment`);
    }
  }
  t.same(wrong, []);
});

t.test('the query takes no part in matching', async (t) => {
  t.equal(pathOfTarget('/a?b?c'), '/a');
  t.equal(pathOfTarget('/a'), '/a');
});

t.test('a long head does not exhaust the stack', async (t) => {
  t.equal(normalizeTarget(`/${'%61'.repeat(20_000)}`, 'BASE')?.length, 20_001);
});
