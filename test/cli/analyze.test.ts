/** `oarlock analyze`: its JSON to the letter, its table, exit status, the namespace filter, files as they were given. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import t from 'tap';
import { authz, folder, oarlock } from './helper.ts';

t.setTimeout(240_000);

const ROOT = join(import.meta.dirname, '..', '..');

const VALID = authz('fine', '{rules: [{from: [{source: {principals: ["*"]}}]}]}');
const ODD = authz('odd', '{rules: [{from: [{source: {principals: [spiffe://cluster.local/ns/a/sa/b]}}]}]}');
const WRONG = authz('wrong', '{rules: [{from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]}');

function analyze(...args: readonly string[]) {
  return oarlock(['analyze', ...args]);
}

t.test('nothing wrong: an empty list and exit 0', async (t) => {
  const dir = folder(t, { 'a.yaml': VALID });
  const { code, stdout } = await analyze('--config', dir, '-o', 'json');
  t.equal(stdout, '{"messages":[]}\n');
  t.equal(code, 0);
});

t.test('an Error: exit 1, and each message has these fields and no others', async (t) => {
  const dir = folder(t, { 'a.yaml': ODD + WRONG });
  const { code, stdout, stderr } = await analyze('--config', dir, '-o', 'json');
  t.equal(code, 1);
  t.equal(stderr, '');
  t.equal(stdout.split('\n').length, 2, 'one line');
  const { messages } = JSON.parse(stdout);
  t.same(
    messages.map((one: object) => Object.keys(one)),
    [1, 2].map(() => ['code', 'severity', 'resource', 'file', 'line', 'message']),
  );
  t.match(messages, [
    {
      code: 'OLK0222',
      severity: 'Warning',
      resource: 'AuthorizationPolicy/foo/odd',
      file: join(dir, 'a.yaml'),
      message: /^spec\.rules\[0\]\.from\[0\]\.source\.principals\[0\]: /,
    },
    {
      code: 'OLK0108',
      severity: 'Error',
      resource: 'AuthorizationPolicy/foo/wrong',
      file: join(dir, 'a.yaml'),
      message: /^spec\.rules\[0\]\.from\[0\]\.source\.ipBlocks\[0\]: .*10\.0\.0\.0\/99/,
    },
  ]);
});

t.test('Warnings alone: exit 0', async (t) => {
  const { code, stdout } = await analyze('--config', folder(t, { 'a.yaml': ODD }), '-o', 'json');
  t.equal(code, 0);
  t.equal(JSON.parse(stdout).messages.length, 1);
});

t.test('one bad file spoils nothing else and is no exit 2', async (t) => {
  const dir = folder(t, { 'a.yaml': 'a: [\n', 'b.yaml': ODD, 'c.json': '{', 'd.yaml': '' });
  writeFileSync(join(dir, 'e.yaml'), Buffer.from([0xff, 0xfe, 0x00]));
  const { code, stdout } = await analyze('--config', dir, '-o', 'json');
  t.equal(code, 1);
  const { messages } = JSON.parse(stdout);
  const of = (name: string) => messages.filter(({ file }: { file: string }) => file === join(dir, name));
  for (const name of ['a.yaml', 'c.json', 'e.yaml']) {
    t.match(of(name)[0], { code: 'OLK0101', severity: 'Error', resource: '', line: Number }, name);
  }
  t.match(of('b.yaml'), [{ code: 'OLK0222' }]);
});

t.test('--namespace only filters what is reported', async (t) => {
  const dir = folder(t, {
    'a.yaml': ODD,
    'b.yaml': WRONG.replace('namespace: foo', 'namespace: bar'),
  });
  const of = async (namespace: string) => {
    const { code, stdout } = await analyze('--config', dir, '-o', 'json', '--namespace', namespace);
    return { code, names: JSON.parse(stdout).messages.map(({ resource }: { resource: string }) => resource) };
  };
  t.same(await of('foo'), { code: 0, names: ['AuthorizationPolicy/foo/odd'] });
  t.same(await of('bar'), { code: 1, names: ['AuthorizationPolicy/bar/wrong'] });
  t.same(await of('default'), { code: 0, names: [] });
});

t.test('what is in another namespace counts all the same', async (t) => {
  const mesh = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`;
  const deny = authz('deny', '{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}');
  const codes = async (files: Readonly<Record<string, string>>) => {
    const { stdout } = await analyze('--config', folder(t, files), '-o', 'json', '--namespace', 'foo');
    return JSON.parse(stdout).messages.map(({ code }: { code: string }) => code);
  };
  t.same(await codes({ 'a.yaml': deny }), ['OLK0228'], 'PERMISSIVE by default');
  t.same(await codes({ 'a.yaml': deny, 'b.yaml': mesh }), []);
});

t.test('files are named as they were given', async (t) => {
  const dir = folder(t);
  mkdirSync(join(dir, 'deep'));
  writeFileSync(join(dir, 'deep', 'a.yaml'), ODD);
  const short = relative(ROOT, dir);
  const fileOf = async (config: string) => {
    const { stdout } = await analyze('--config', config, '-o', 'json');
    return JSON.parse(stdout).messages[0].file;
  };
  t.equal(await fileOf(dir), `${dir}/deep/a.yaml`);
  t.equal(await fileOf(`${dir}/deep/`), `${dir}/deep/a.yaml`);
  t.equal(await fileOf(short), `${short}/deep/a.yaml`);
  t.equal(await fileOf(`./${short}`), `./${short}/deep/a.yaml`);
  t.equal(await fileOf(`./${short}/deep/a.yaml`), `./${short}/deep/a.yaml`);
});

t.test('several folders are one set', async (t) => {
  const one = folder(t, { 'a.yaml': VALID });
  const other = folder(t, { 'a.yaml': VALID });
  const { code, stdout } = await analyze('--config', one, '--config', other, '-o', 'json');
  t.equal(code, 1);
  t.match(JSON.parse(stdout).messages, [{ code: 'OLK0109', file: join(other, 'a.yaml') }]);
});

t.test('for people', async (t) => {
  const dir = folder(t, { 'a.yaml': 'a: [\n', 'b.yaml': ODD });
  const { code, stdout } = await analyze('--config', dir);
  t.equal(code, 1);
  const lines = stdout.trimEnd().split('\n');
  t.ok(
    lines.some((line) =>
      line.startsWith(`Warning [OLK0222] (AuthorizationPolicy/foo/odd ${join(dir, 'b.yaml')}:`),
    ),
  );
  t.ok(lines.some((line) => line.startsWith(`Error [OLK0101] (${join(dir, 'a.yaml')}:`)));
  t.match(lines.at(-1), /^1 resource: \d errors?, 1 warning, 0 infos$/);
});

t.test('a reader that has had enough ends it quietly', async (t) => {
  const many = Array.from({ length: 2000 }, (_, i) => ODD.replace('name: odd', `name: odd${i}`)).join('');
  const dir = folder(t, { 'a.yaml': many });
  const child = spawn(process.execPath, [join(ROOT, 'cli/main.ts'), 'analyze', '--config', dir], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.once('data', () => child.stdout.destroy());
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const [code] = await once(child, 'close');
  t.equal(stderr, '');
  t.equal(code, 0);
});

t.test('flags', async (t) => {
  const dir = folder(t, {
    'a.yaml': authz('p', '{rules: [{from: [{source: {principals: [td1/ns/a/sa/b]}}]}]}'),
  });
  const count = async (...args: readonly string[]) => {
    const { stdout } = await analyze('--config', dir, '-o', 'json', ...args);
    return JSON.parse(stdout).messages.length;
  };
  t.equal(await count(), 1);
  t.equal(await count('--trust-domain', 'td1'), 0);
  t.equal(await count('--trust-domain-alias', 'td1'), 0);
});

t.test('bad usage: exit 2 and one line on stderr', async (t) => {
  for (const args of [[], ['--config', join(folder(t), 'nothing')], ['--config', ROOT, '-o', 'xml']]) {
    const { code, stdout, stderr } = await analyze(...args);
    t.equal(code, 2, args.join(' '));
    t.equal(stdout, '');
    t.match(stderr, /^[^\n]+\n$/);
  }
});
