/** Point 6: policy judges what the app will see. Denied are `/admin*`, PURGE, the host denied.test, and `X-Denied: yes`. */
import {
  type Case,
  chunked,
  type Expected,
  get,
  HEAD,
  HOST,
  post,
  type SeenRequest,
  served,
} from './case.ts';

/** Where policy holds: at the inbound sidecar. */
const ON = ['inbound', 'pair'] as const;

const DENIED: Expected = { answers: [403], end: 'open', app: [] };

function denied(name: string, send: string): Case {
  return { name, send, on: ON, expect: DENIED };
}

function allowed(name: string, send: string, app: string | SeenRequest): Case {
  return { name, send, on: ON, expect: served(app) };
}

const paths: readonly Case[] = [
  ...[
    '/admin',
    '/admin/',
    '/admin/x',
    '/administrator',
    '/admin?x',
    '/./admin',
    '/.//../admin',
    '/x/../admin',
    '/x/..\\admin',
    '/x\\..\\admin',
    '/%61dmin',
    '/%61%64%6d%69%6e',
    '/a%64min',
    '/admi%6e',
    '/%2e/admin',
    '/%2E/admin',
    '/x/%2e%2e/admin',
    '/x/%2e%2E/admin',
    '/x/.%2e/admin',
    '/x/%2e./admin',
    '/../admin',
    '/../../admin',
    '/x/y/../../admin',
    '/x/..;/admin',
    '/x/..;a=b/admin',
    '/x/%2e%2e;/admin',
    '/.;/admin',
    '/admin;x',
    '/admin/../admin',
    '/\\../admin',
    '/x/.././admin',
    '/./././admin',
    '/admin%2f',
    '/admin%2Fx',
    '/admin%5cx',
    '/admin%23',
    '/admin%3f',
    '/admin\\x',
    '/admin//',
  ].map((path) => denied(path, get('', path))),
  denied('absolute form', get('', `http://${HOST}/admin`)),
  denied('absolute form with dot segments', get('', `http://${HOST}/x/../admin`)),
  denied('absolute form with an escape', get('', `http://${HOST}/%61dmin`)),
  denied('absolute form with a backslash', get('', `http://${HOST}/x\\..\\admin`)),
  allowed('/Admin is another', get('', '/Admin'), 'GET /Admin HTTP/1.1'),
  allowed('//admin is another', get('', '//admin'), 'GET //admin HTTP/1.1'),
  allowed('/%2Fadmin is another', get('', '/%2Fadmin'), 'GET /%2Fadmin HTTP/1.1'),
  allowed('/x/..%2fadmin is another', get('', '/x/..%2fadmin'), 'GET /x/..%2fadmin HTTP/1.1'),
  allowed('/%2561dmin is decoded once', get('', '/%2561dmin'), 'GET /%2561dmin HTTP/1.1'),
  allowed('/x?/../admin: a query is no path', get('', '/x?/../admin'), 'GET /x?/../admin HTTP/1.1'),
  allowed('/admin/../x is not there', get('', '/admin/../x'), 'GET /x HTTP/1.1'),
  allowed('/adm', get('', '/adm'), 'GET /adm HTTP/1.1'),
];

const hosts: readonly Case[] = [
  ...['denied.test', 'DENIED.test', 'Denied.Test', 'denied.test:80', 'denied.test:8080'].map((host) =>
    denied(`Host: ${host}`, `GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`),
  ),
  denied('by the authority of an absolute form', `GET http://denied.test/ HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  denied(
    'by the authority of an absolute form in capitals',
    `GET HTTP://DENIED.TEST/ HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`,
  ),
  denied(
    'by the authority of an absolute form with a port',
    `GET http://denied.test:80/ HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`,
  ),
  allowed(
    'Host does not count beside an authority',
    `GET http://${HOST}/ HTTP/1.1\r\nHost: denied.test\r\n\r\n`,
    { has: [`host: ${HOST}`] },
  ),
  allowed('X-Forwarded-Host does not count', get('X-Forwarded-Host: denied.test\r\n'), 'GET / HTTP/1.1'),
];

const methods: readonly Case[] = [
  denied('PURGE', `PURGE / ${HEAD}\r\n`),
  denied('PURGE of an absolute form', `PURGE http://${HOST}/ ${HEAD}\r\n`),
  allowed('purge is another', `purge / ${HEAD}\r\n`, 'purge / HTTP/1.1'),
  allowed('PURGEX is another', `PURGEX / ${HEAD}\r\n`, 'PURGEX / HTTP/1.1'),
  allowed(
    'a method to override it is a field like others',
    get('X-HTTP-Method-Override: PURGE\r\n'),
    'GET / HTTP/1.1',
  ),
];

const fields: readonly Case[] = [
  ...['X-Denied: yes', 'x-denied: yes', 'X-DENIED: yes', 'X-Denied:yes', 'X-Denied:\t yes \t'].map((line) =>
    denied(JSON.stringify(line), get(`${line}\r\n`)),
  ),
  denied('the second of two', get('X-Denied: no\r\nX-Denied: yes\r\n')),
  denied('the first of two', get('X-Denied: yes\r\nX-Denied: no\r\n')),
  denied(
    'as the last of many',
    get(`${Array.from({ length: 80 }, (_, i) => `X-${i}: 1\r\n`).join('')}X-Denied: yes\r\n`),
  ),
  allowed('an underscore makes another name', get('X_Denied: yes\r\n'), 'GET / HTTP/1.1'),
  allowed('another case of the value', get('X-Denied: YES\r\n'), { has: ['x-denied: YES'] }),
  {
    name: 'what Connection nominates the app does not see, so it does not count',
    send: get('Connection: x-denied\r\nX-Denied: yes\r\n'),
    on: ON,
    expect: served({ line: 'GET / HTTP/1.1', lacks: ['x-denied'] }),
  },
  {
    name: 'a trailer is no field',
    send: chunked('5\r\nhello\r\n0\r\nX-Denied: yes\r\n\r\n'),
    on: ON,
    expect: served({ body: 'hello', lacks: ['x-denied'] }),
  },
  allowed('a comma joins to another value', get('X-Denied: no, yes\r\n'), { has: ['x-denied: no, yes'] }),
];

/** Each request of a connection alone, whatever went before. */
const everyRequest: readonly Case[] = [
  {
    name: 'allowed, denied, allowed',
    send: get('', '/a') + get('', '/admin') + get('', '/b'),
    on: ON,
    expect: { answers: [200, 403, 200], end: 'open', app: ['GET /a HTTP/1.1', 'GET /b HTTP/1.1'] },
  },
  {
    name: 'denied, allowed, denied',
    send: get('', '/admin') + get('', '/a') + get('', '/admin/x'),
    on: ON,
    expect: { answers: [403, 200, 403], end: 'open', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'ten denied',
    send: get('', '/admin').repeat(10),
    on: ON,
    expect: { ...DENIED, answers: Array(10).fill(403) },
  },
  {
    name: 'behind a body',
    send: post('Content-Length: 5\r\n', 'hello') + get('', '/admin'),
    on: ON,
    expect: { answers: [200, 403], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: 'behind chunks',
    send: chunked('5\r\nhello\r\n0\r\n\r\n') + get('', '/admin'),
    on: ON,
    expect: { answers: [200, 403], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: 'behind chunks and trailers',
    send: chunked('5\r\nhello\r\n0\r\nX: 1\r\n\r\n') + get('', '/admin'),
    on: ON,
    expect: { answers: [200, 403], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: 'behind HEAD',
    send: `HEAD /a ${HEAD}\r\n${get('', '/admin')}`,
    app: 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n',
    on: ON,
    expect: { answers: [{ status: 200, toHead: true }, 403], end: 'open', app: ['HEAD /a HTTP/1.1'] },
  },
  {
    name: 'a HEAD that is denied has no body',
    send: `HEAD /admin ${HEAD}\r\n`,
    on: ON,
    expect: { answers: [{ status: 403, toHead: true }], end: 'open', app: [] },
  },
  {
    name: 'behind an empty line',
    send: `${get('', '/a')}\r\n${get('', '/admin')}`,
    on: ON,
    expect: { answers: [200, 403], end: 'open', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'in 1.0',
    send: `GET /admin HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`,
    on: ON,
    expect: { answers: [403], end: 'closed', app: [] },
  },
];

export const policy = { paths, hosts, methods, fields, everyRequest };
