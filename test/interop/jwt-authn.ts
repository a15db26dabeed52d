/** A real Envoy whose jwt_authn filter is configured as istiod does for sets of token rules, one listener a set. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { JwtRule } from '../../mesh/tokens.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { until } from '../e2e/harness/wait.ts';
import type { TokenCase } from '../providers/token-cases.ts';
import { HOST, type Outcome } from '../providers/token-run.ts';

const TYPE = 'type.googleapis.com/envoy.extensions.filters';

function provider(rule: JwtRule): unknown {
  return {
    issuer: rule.issuer,
    audiences: rule.audiences,
    forward: rule.forwardOriginalToken,
    forward_payload_header: rule.outputPayloadToHeader ?? '',
    payload_in_metadata: 'payload',
    normalize_payload_in_metadata: {
      space_delimited_claims: [...new Set([...rule.spaceDelimitedClaims, 'permission', 'scope'])].sort(),
    },
    claim_to_headers: rule.outputClaimToHeaders.map(({ header, claim }) => ({
      header_name: header,
      claim_name: claim,
    })),
    from_headers: rule.fromHeaders.map(({ name, prefix }) => ({ name, value_prefix: prefix })),
    from_params: rule.fromParams,
    from_cookies: rule.fromCookies,
    local_jwks: { inline_string: rule.jwks },
  };
}

/** The requirement istiod builds of rules: see `convertToEnvoyJwtConfig`, and its successor for `presence`. */
function requirement(rules: readonly JwtRule[]): unknown {
  const strict = rules.map((_, i) => ({ provider_name: `origins-${i}` }));
  const lenient = strict.map((one) => ({ requires_any: { requirements: [one, { allow_missing: {} }] } }));
  if (rules.some((rule) => rule.required)) {
    const each = rules.map((rule, i) => (rule.required ? strict[i] : lenient[i]));
    return each.length === 1 ? each[0] : { requires_all: { requirements: each } };
  }
  if (rules.length === 1) return lenient[0];
  return { requires_any: { requirements: [...strict, { requires_all: { requirements: lenient } }] } };
}

function listener(port: number, rules: readonly JwtRule[]): unknown {
  const jwt = {
    '@type': `${TYPE}.http.jwt_authn.v3.JwtAuthentication`,
    providers: Object.fromEntries(rules.map((rule, i) => [`origins-${i}`, provider(rule)])),
    rules: [{ match: { prefix: '/' }, requires: requirement(rules) }],
    bypass_cors_preflight: true,
  };
  const claims = { key: 'x-claims', value: '%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload)%' };
  const hcm = {
    '@type': `${TYPE}.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'jwt',
    normalize_path: true,
    route_config: {
      virtual_hosts: [
        {
          name: 'app',
          domains: ['*'],
          request_headers_to_add: [{ header: claims }],
          routes: [{ match: { prefix: '/' }, route: { cluster: 'app' } }],
        },
      ],
    },
    http_filters: [
      { name: 'jwt', typed_config: jwt },
      { name: 'router', typed_config: { '@type': `${TYPE}.http.router.v3.Router` } },
    ],
  };
  return { address: address(port), filter_chains: [{ filters: [{ name: 'hcm', typed_config: hcm }] }] };
}

function address(port: number): unknown {
  return { socket_address: { address: '127.0.0.1', port_value: port } };
}

/** An Envoy that verifies tokens before an app. It tells the app the claims in `x-claims`. */
function config(appPort: number, listeners: readonly unknown[]): string {
  const endpoints = [{ lb_endpoints: [{ endpoint: { address: address(appPort) } }] }];
  const app = { name: 'app', type: 'STATIC', load_assignment: { cluster_name: 'app', endpoints } };
  return JSON.stringify({ static_resources: { listeners, clusters: [app] } });
}

/** Asks the listener of a set. */
export type AskEnvoy = (
  set: string,
  request: Pick<TokenCase, 'method' | 'path' | 'headers'>,
) => Promise<Outcome>;

/** Starts Envoy before an app that tells the target and the header fields it got; both end with the test. */
export async function startJwtEnvoy(
  t: Test,
  binary: string,
  sets: ReadonlyMap<string, readonly JwtRule[]>,
): Promise<AskEnvoy> {
  const app = createServer((request, answer) => {
    answer.end(JSON.stringify({ path: request.url, fields: request.rawHeaders }));
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  const free = await freePorts(sets.size);
  const ports = new Map([...sets.keys()].map((name, i) => [name, free[i] ?? 0]));
  const file = join(t.testdir(), 'envoy.json');
  const listeners = [...sets].map(([name, rules]) => listener(ports.get(name) ?? 0, rules));
  writeFileSync(file, config((app.address() as AddressInfo).port, listeners));
  const envoy = spawn(binary, ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'error'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  t.teardown(() => {
    envoy.kill('SIGKILL');
    app.close();
    app.closeAllConnections();
  });
  const ask: AskEnvoy = (set, request) => askPort(ports.get(set) ?? 0, request);
  const [first = ''] = sets.keys();
  await until('Envoy to listen', async () => {
    try {
      return (await ask(first, {})).status > 0;
    } catch {
      return false;
    }
  });
  return ask;
}

async function askPort(
  port: number,
  { method = 'GET', path = '/', headers = [] }: Parameters<AskEnvoy>[1],
): Promise<Outcome> {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const fields = ['Host', HOST, ...headers.flat()];
    httpRequest({ host: '127.0.0.1', port, method, path, headers: fields, agent: false })
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
  const got = new Map<string, string[]>();
  for (let i = 0; i < told.fields.length; i += 2) {
    const name = (told.fields[i] ?? '').toLowerCase();
    got.set(name, [...(got.get(name) ?? []), told.fields[i + 1] ?? '']);
  }
  const text = got.get('x-claims')?.[0];
  const claims = text === undefined ? null : JSON.parse(Buffer.from(text, 'latin1').toString());
  return { status, body: '', challenge, path: told.path, headers: got, claims };
}
