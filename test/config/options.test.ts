/** Flags of `run`: exactly one source of credentials, whole; what beats what; limits and their bounds. */
import t from 'tap';
import { type CredentialOptions, readCredentialOptions } from '../../config/credential-options.ts';
import { readRunOptions, runCommandOptions } from '../../config/options.ts';

/** What `run` would be told by these words and environment names. */
async function parse(
  words: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Record<string, unknown>> {
  const before = { ...process.env };
  Object.assign(process.env, environment);
  try {
    let parsed: Record<string, unknown> = {};
    const command = runCommandOptions()
      .exitOverride()
      .configureOutput({ writeErr: () => {} });
    command.action((options: Record<string, unknown>) => {
      parsed = options;
    });
    await command.parseAsync([...words], { from: 'user' });
    return parsed;
  } finally {
    for (const name of Object.keys(environment)) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}

const CA = ['--ca-address', 'istiod:15012', '--ca-root', 'root.pem', '--token', 'token'];
const ca: CredentialOptions = {
  kind: 'ca',
  address: 'istiod:15012',
  rootFile: 'root.pem',
  tokenFile: 'token',
  keyType: 'EC-P256',
  ttlMs: 86_400_000,
};
const spiffe = { kind: 'spiffe', hint: null, spiffeId: null } as const;

t.test('each source', async (t) => {
  const cases: readonly (readonly [readonly string[], Readonly<Record<string, string>>, object])[] = [
    [CA, {}, ca],
    [
      [...CA, '--key-type', 'RSA-4096', '--certificate-ttl', '90m'],
      {},
      { ...ca, keyType: 'RSA-4096', ttlMs: 5_400_000 },
    ],
    // Go's way to write it, as Istio's agent reads it.
    [
      CA,
      { SECRET_TTL: '1h0m0s', OARLOCK_KEY_TYPE: 'EC-P384' },
      { ...ca, keyType: 'EC-P384', ttlMs: 3_600_000 },
    ],
    [[], { CA_ADDR: 'istiod:15012', CA_ROOT_CA: 'root.pem', OARLOCK_TOKEN: 'token' }, ca],
    [['--cert-dir', '/certs'], {}, { kind: 'files', dir: '/certs' }],
    [[], { OARLOCK_CERT_DIR: '/certs' }, { kind: 'files', dir: '/certs' }],
    [['--spiffe-socket', '/run/agent.sock'], {}, { ...spiffe, socket: '/run/agent.sock' }],
    [[], { SPIFFE_ENDPOINT_SOCKET: 'unix:///run/a.sock' }, { ...spiffe, socket: 'unix:///run/a.sock' }],
    [[], { OARLOCK_SPIFFE_SOCKET: '/run/b.sock' }, { ...spiffe, socket: '/run/b.sock' }],
    [
      [],
      { OARLOCK_SPIFFE_SOCKET: '/run/b.sock', SPIFFE_ENDPOINT_SOCKET: 'unix:///run/a.sock' },
      { ...spiffe, socket: '/run/b.sock' },
    ],
    [
      ['--spiffe-socket', '/a', '--spiffe-hint', 'internal'],
      {},
      { ...spiffe, socket: '/a', hint: 'internal' },
    ],
    ...['/ns/a/sa/b', 'spiffe://td.example/ns/a/sa/b', 'spiffe://td/x'].map(
      (spiffeId) =>
        [
          ['--spiffe-socket', '/a', '--spiffe-id', spiffeId],
          {},
          { ...spiffe, socket: '/a', spiffeId },
        ] as const,
    ),
    // A flag beats what the environment says to the same question.
    [
      ['--spiffe-socket', '/a', '--spiffe-id', '/x'],
      { OARLOCK_SPIFFE_HINT: 'internal' },
      { ...spiffe, socket: '/a', spiffeId: '/x' },
    ],
    // What the app beside us is told, or what a pod was injected with, is no second source.
    [
      ['--cert-dir', '/certs'],
      { SPIFFE_ENDPOINT_SOCKET: 'unix:///run/a.sock' },
      { kind: 'files', dir: '/certs' },
    ],
    [['--spiffe-socket', '/a'], { CA_ADDR: 'istiod:15012' }, { ...spiffe, socket: '/a' }],
    [CA, { OARLOCK_CERT_DIR: '/certs', OARLOCK_SPIFFE_SOCKET: '/b' }, ca],
    [
      ['--cert-dir', '/certs'],
      {
        CA_ADDR: 'istiod:15012',
        CA_ROOT_CA: 'root.pem',
        OARLOCK_TOKEN: 'token',
        SECRET_TTL: '1h',
        OARLOCK_KEY_TYPE: 'RSA-2048',
        OARLOCK_SPIFFE_HINT: 'a',
        OARLOCK_SPIFFE_ID: 'none',
      },
      { kind: 'files', dir: '/certs' },
    ],
  ];
  for (const [words, environment, expected] of cases) {
    const label = [...words, ...Object.keys(environment)].join(' ');
    t.same(readCredentialOptions(await parse(words, environment)), expected, label);
  }
});

t.test('what is no source, or more than one', async (t) => {
  const cases: readonly (readonly [readonly string[], Readonly<Record<string, string>>, RegExp])[] = [
    [[], {}, /^credentials are needed: --ca-address, --cert-dir or --spiffe-socket$/],
    [['--cert-dir', '/a', ...CA], {}, /^--cert-dir and --ca-address exclude each other/],
    [['--cert-dir', '/a', '--spiffe-socket', '/b'], {}, /^--spiffe-socket and --cert-dir exclude each other/],
    [
      [],
      { CA_ADDR: 'a:1', SPIFFE_ENDPOINT_SOCKET: '/b' },
      /^--spiffe-socket and --ca-address exclude each other/,
    ],
    [['--ca-address', 'istiod'], {}, /^--ca-address \(CA_ADDR\) must be HOST:PORT, not "istiod"$/],
    [['--ca-address', 'istiod:15012', '--token', 'x'], {}, /^--ca-address needs --ca-root and --token$/],
    ...['spiffe://Bad/x', 'spiffe://td', 'ns/a/sa/b', '/ns/../sa', '/', 'https://td/x'].map(
      (id) =>
        [
          ['--spiffe-socket', '/a', '--spiffe-id', id],
          {},
          new RegExp(`^--spiffe-id \\(OARLOCK_SPIFFE_ID\\) must be a SPIFFE ID, .* not "${id}"$`),
        ] as const,
    ),
    [[], { OARLOCK_SPIFFE_SOCKET: '/a', OARLOCK_SPIFFE_ID: 'x' }, /^--spiffe-id .* not "x"$/],
    [['--spiffe-socket', 'http://a/b'], {}, /^--spiffe-socket: .*unknown scheme http/],
    [['--spiffe-socket', 'unix://a/b'], {}, /^--spiffe-socket: .*names a host/],
    [['--spiffe-socket', `/${'x'.repeat(200)}`], {}, /^--spiffe-socket: .*longer than 107 bytes/],
  ];
  for (const [words, environment, message] of cases) {
    const parsed = await parse(words, environment);
    t.throws(() => readCredentialOptions(parsed), { message }, words.join(' '));
  }
});

t.test('a flag that the source does not heed', async (t) => {
  const dir = ['--cert-dir', '/certs'];
  const socket = ['--spiffe-socket', '/a'];
  const cases: readonly (readonly [readonly string[], Readonly<Record<string, string>>, RegExp])[] = [
    [[...dir, '--ca-root', 'a'], {}, /^--ca-root is for --ca-address, and says nothing to --cert-dir: /],
    [[...dir, '--token', 'a'], {}, /^--token is for --ca-address, and says nothing to --cert-dir: /],
    [[...dir, '--key-type', 'EC-P256'], {}, /^--key-type is for --ca-address, .* --cert-dir/],
    [[...dir, '--certificate-ttl', '1h'], {}, /^--certificate-ttl is for --ca-address, .* --cert-dir/],
    [[...dir, '--spiffe-hint', 'a'], {}, /^--spiffe-hint is for --spiffe-socket, .* --cert-dir/],
    [[...dir, '--spiffe-id', '/a'], {}, /^--spiffe-id is for --spiffe-socket, .* --cert-dir/],
    [[...CA, '--spiffe-hint', 'a'], {}, /^--spiffe-hint is for --spiffe-socket, .* --ca-address/],
    [[...socket, '--key-type', 'RSA-2048'], {}, /^--key-type is for --ca-address, .* --spiffe-socket/],
    [['--token', 'a'], { OARLOCK_CERT_DIR: '/certs' }, /^--token is for --ca-address, .* --cert-dir/],
    [[...socket, '--spiffe-hint', 'a', '--spiffe-id', '/a'], {}, /^--spiffe-hint and --spiffe-id exclude/],
  ];
  for (const [words, environment, message] of cases) {
    await t.rejects(parse(words, environment), { message }, words.join(' '));
  }
});

t.test('values that are none', async (t) => {
  for (const words of [
    ['--key-type', 'RSA-1024'],
    ['--key-type', 'ed25519'],
    ['--certificate-ttl', '24'],
    ['--certificate-ttl', '0s'],
    ['--certificate-ttl', '-1h'],
  ]) {
    await t.rejects(parse(words), { code: 'commander.invalidArgument' }, words.join(' '));
  }
});

t.test('limits are above 0, but for the one where 0 means at once', async (t) => {
  const base = ['--config', 'mesh', '--intercept', 'none', '--cert-dir', '/certs'];
  t.equal(readRunOptions(await parse([...base, '--mode-grace', '0s'])).limits.modeGrace, 0);
  t.equal(readRunOptions(await parse([...base, '--mode-grace', '1s'])).limits.modeGrace, 1_000);
  // As gRPC's metadata has it.
  await t.rejects(parse([...base, '--cluster-id', 'c-ü1']), /must be printable ASCII/);
  await t.rejects(parse([...base, '--drain', '0s']), { code: 'commander.invalidArgument' });
  await t.rejects(parse([...base, '--mode-grace', '-1s']), { code: 'commander.invalidArgument' });
});

t.test('--crl goes with every source', async (t) => {
  const base = ['--config', 'mesh', '--intercept', 'none', '--cert-dir', '/certs'];
  t.equal(readRunOptions(await parse(base)).crlFile, null);
  t.equal(readRunOptions(await parse([...base, '--crl', 'crl.pem'])).crlFile, 'crl.pem');
  t.equal(readRunOptions(await parse(base, { OARLOCK_CRL: 'crl.pem' })).crlFile, 'crl.pem');
});

t.test('what a pod says of itself', async (t) => {
  const base = ['--config', 'mesh', '--intercept', 'none', '--cert-dir', '/certs'];
  const ports =
    '[\n{"name":"http","containerPort":8080,"protocol":"TCP"},{"containerPort":9090},{"name":"dns","containerPort":53,"protocol":"UDP"}]';
  const cases: readonly (readonly [
    Readonly<Record<string, string>>,
    readonly string[],
    readonly (readonly [string, number])[],
  ])[] = [
    [{}, [], []],
    [{ INSTANCE_IP: '10.1.0.7' }, ['10.1.0.7'], []],
    [{ INSTANCE_IP: '10.1.0.7', INSTANCE_IPS: '10.1.0.7,fd00::7' }, ['10.1.0.7', 'fd00::7'], []],
    [{ INSTANCE_IP: '', ISTIO_META_POD_PORTS: '' }, [], []],
    [{ ISTIO_META_POD_PORTS: ports }, [], [['http', 8080]]],
  ];
  for (const [environment, addresses, named] of cases) {
    const { workload } = readRunOptions(await parse(base, environment));
    if (workload.kind !== 'pod') throw new Error('no pod');
    t.same(workload.addresses, addresses, JSON.stringify(environment));
    t.same([...workload.ports], named);
  }
  await t.rejects(parse(base, { INSTANCE_IP: 'pod-7' }), /pod-7 is no IP address/);
  await t.rejects(parse(base, { ISTIO_META_POD_PORTS: '{}' }), /must be a JSON list of container ports/);
});

const notHere = process.platform === 'linux' ? false : 'capture is Linux alone';
t.test('root is not to be the sidecar that the rules of capture exempt', { skip: notHere }, async (t) => {
  const base = ['--config', 'mesh', '--intercept', 'redirect', '--cert-dir', '/certs'];
  if (process.getuid?.() === 0) {
    const parsed = await parse(base);
    t.throws(() => readRunOptions(parsed), /as uid 0 with --intercept redirect/);
  } else t.equal(readRunOptions(await parse(base)).intercept, 'redirect');
  const allowed = readRunOptions(await parse([...base, '--allow-root']));
  t.match(allowed, { intercept: 'redirect', outboundPort: 15001, inboundPort: 15006, allowRoot: true });
  const off = readRunOptions(await parse([...base, '--allow-root', '--inbound-port', 'off']));
  t.equal(off.inboundPort, null);
  const unset = await parse(base, { OARLOCK_ALLOW_ROOT: 'false' });
  if (process.getuid?.() === 0) t.throws(() => readRunOptions(unset), /as uid 0/);
});

t.test('when the app ends', async (t) => {
  const base = ['--config', 'mesh', '--intercept', 'none', '--cert-dir', '/certs'];
  const cases: readonly (readonly [
    readonly string[],
    Readonly<Record<string, string>>,
    number | 'all' | null,
  ])[] = [
    [[], {}, null],
    [['--exit-with-app'], {}, 'all'],
    [['--exit-with-app', '4711'], {}, 4711],
    [[], { OARLOCK_EXIT_WITH_APP: 'true' }, 'all'],
    [[], { OARLOCK_EXIT_WITH_APP: 'all' }, 'all'],
    [[], { OARLOCK_EXIT_WITH_APP: 'false' }, null],
  ];
  for (const [words, environment, expected] of cases)
    t.equal(readRunOptions(await parse([...base, ...words], environment)).exitWithApp, expected);
  await t.rejects(parse([...base, '--exit-with-app', '1']), /must be the id of a process group/);
});
