/** `oarlock ca`: the embedded CA's server, its tokens, and credentials as files. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import type { HostPort } from '../ca-client/address.ts';
import type { Rate } from '../ca-client/ca-rates.ts';
import type { EmbeddedCa } from '../ca-client/embedded-ca.ts';
import type { TokenReview } from '../ca-client/token-review.ts';
import { hostPort } from '../mesh/text.ts';
import type { Logger } from '../telemetry/log.ts';
import { addAuthorityCommands } from './ca-authority.ts';
import {
  answer,
  listenAddress,
  type OutputOption,
  rate,
  stopSignal,
  trustDomain,
  ttl,
  withOutput,
} from './ca-flags.ts';
import { giveBackWhenQuiet } from './give-back.ts';
import { addKubernetesOptions, kubernetesAccess } from './kubernetes-flags.ts';

interface DirOption {
  readonly dir: string;
}

interface ServeOptions extends DirOption {
  readonly listen: HostPort;
  readonly trustDomain?: string;
  readonly rootDir?: string;
  readonly ttl: number;
  readonly maxRate: Rate;
  readonly maxTotalRate: Rate;
  readonly serverName?: readonly string[];
  readonly kubernetes?: boolean;
  readonly rootConfigMap: string;
}

interface AccountOptions extends DirOption {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly ttl: number;
}

interface TokenOptions extends AccountOptions {
  readonly out?: string;
  readonly rootOut?: string;
  readonly renew?: boolean;
}

interface IssueOptions extends AccountOptions, OutputOption {
  readonly out: string;
  readonly trustDomain?: string;
  readonly rootDir?: string;
}

/** How soon a new root is in the config map. */
const ROOT_KEEP_MS = 5_000;

/** The `ca` command with its subcommands, as docs/CLI.md has them. What goes wrong is thrown, for the caller to say. */
export function caCommand(): Command {
  const ca = new Command('ca').description('the embedded CA, for one machine, compose and tests');
  addKubernetesOptions(ca.command('serve'))
    .description("serve Istio's CreateCertificate over gRPC and TLS")
    .requiredOption('--dir <dir>', 'where the root is kept; made at the first start')
    .addOption(
      new Option('--listen <host:port>', 'address to serve on; port 0 lets the kernel choose')
        .argParser(listenAddress)
        .default({ host: '127.0.0.1', port: 15012 }, '127.0.0.1:15012'),
    )
    .option('--trust-domain <td>', "default: the root's own, cluster.local for a new one", trustDomain)
    .addOption(
      new Option('--ttl <duration>', 'validity of what it issues, and the most a request may ask for')
        .argParser(ttl)
        .default(86_400_000, '24h'),
    )
    .option('--root-dir <dir>', 'folder of the root that issues this CA an intermediate, and renews it')
    .option(
      '--server-name <name>',
      'more names in its own certificate, by which it is dialled (repeatable)',
      collect,
    )
    .option('--kubernetes', 'take projected tokens too, which the Kubernetes API checks')
    .option(
      '--root-config-map <name>',
      "with --kubernetes: config map of this namespace that holds the CA's roots",
      'istio-ca-root-cert',
    )
    .addOption(
      new Option('--max-rate <n/duration>', 'certificates an identity gets; more are asked to wait')
        .argParser(rate)
        .default({ count: 10, periodMs: 1_000 }, '10/1s'),
    )
    .addOption(
      new Option('--max-total-rate <n/duration>', 'certificates all get together')
        .argParser(rate)
        .default({ count: 100, periodMs: 1_000 }, '100/1s'),
    )
    .action((options: ServeOptions) => serve(options));
  account(ca.command('token').description('print a token that the CA takes for a service account'))
    .addOption(
      new Option('--ttl <duration>', 'how long the token is good').argParser(ttl).default(43_200_000, '12h'),
    )
    .option('--out <file>', 'write it to FILE instead')
    .option('--root-out <file>', "write the CA's roots there too, for who may not see its folder")
    .option('--renew', 'keep these files fresh until stopped')
    .action((options: TokenOptions) => token(options));
  withOutput(account(ca.command('issue').description('write credentials as the files --cert-dir reads')))
    .requiredOption('--out <dir>', 'where cert-chain.pem, key.pem and root-cert.pem go')
    .option('--trust-domain <td>', "default: the root's own, cluster.local for a new one", trustDomain)
    .addOption(
      new Option('--ttl <duration>', 'validity of the certificate').argParser(ttl).default(86_400_000, '24h'),
    )
    .option(
      '--root-dir <dir>',
      'folder of the root, where the CA is to have an intermediate and has none yet',
    )
    .action((options: IssueOptions) => issue(options));
  addAuthorityCommands(ca);
  return ca;
}

function collect(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), value];
}

function account(command: Command): Command {
  return command
    .requiredOption('--dir <dir>', 'where the CA keeps its root and token key')
    .requiredOption('--namespace <ns>', 'namespace of the service account')
    .requiredOption('--service-account <sa>', 'name of the service account');
}

async function serve(options: ServeOptions): Promise<void> {
  const { dir, listen, trustDomain: wanted = null, rootDir = null, ttl: ttlMs } = options;
  const [{ openEmbeddedCa, ROOT_TTL_MS }, { openTokenKey }, { startCaServer }, { createLogger }] =
    await Promise.all([
      import('../ca-client/embedded-ca.ts'),
      import('../ca-client/ca-token.ts'),
      import('../ca-client/ca-server.ts'),
      import('../telemetry/log.ts'),
    ]);
  const log = createLogger('info');
  const [ca, tokenKeys] = await Promise.all([
    openEmbeddedCa({ dir, trustDomain: wanted, rootDir }),
    openTokenKey(dir),
  ]);
  const root = rootDir === null ? null : { dir: rootDir, trustDomain: wanted, ttlMs: ROOT_TTL_MS };
  const { maxRate, maxTotalRate, serverName: serverNames = [] } = options;
  const kubernetes = options.kubernetes ? await startKubernetes(options, ca, log) : null;
  const reviewToken = kubernetes?.reviewToken ?? null;
  const common = { ca, tokenKeys, listen, ttlMs, log, root, maxRate, maxTotalRate };
  const server = await startCaServer({ ...common, serverNames, reviewToken });
  const stopped = stopSignal();
  void giveBackWhenQuiet(log);
  const address = hostPort(server.address.host, server.address.port);
  process.stdout.write(`${JSON.stringify({ ready: true, address, root: ca.rootFile })}\n`);
  await stopped;
  await Promise.all([server.close(), kubernetes?.stop()]);
}

/** Who checks projected tokens, and the config map with our roots, which is kept up with them. */
async function startKubernetes(
  options: ServeOptions,
  ca: EmbeddedCa,
  log: Logger,
): Promise<{ readonly reviewToken: TokenReview; stop(): Promise<void> }> {
  const [{ tokenReview }, { holds, readConfigMap, writeConfigMap }, { keep }] = await Promise.all([
    import('../ca-client/token-review.ts'),
    import('../ca-client/config-maps.ts'),
    import('./keep.ts'),
  ]);
  const { api, namespace } = kubernetesAccess({ ...options });
  const name = options.rootConfigMap;
  const keeping = keep(`config map ${name}`, ROOT_KEEP_MS, log, async () => {
    const data = { 'root-cert.pem': ca.rootPem };
    const there = await readConfigMap(api, namespace, name);
    if (there?.ours === false) throw new Error(`${namespace}/${name} is there, and not ours: take it away`);
    if (there === null || !holds(there, data)) await writeConfigMap(api, there, { namespace, name, data });
  });
  return {
    reviewToken: tokenReview(api),
    stop: async () => {
      await keeping.stop();
      await api.close();
    },
  };
}

async function token(options: TokenOptions): Promise<void> {
  const { dir, out, rootOut, renew, ttl: ttlMs, namespace, serviceAccount } = options;
  if (renew && out === undefined) throw new Error('--renew needs --out FILE to keep fresh');
  const [{ openTokenKey, signToken }, { replaceFile, readIfThere, SECRET, PUBLIC }, { CA_FILES }] =
    await Promise.all([
      import('../ca-client/ca-token.ts'),
      import('../ca-client/file-store.ts'),
      import('../ca-client/ca-folder.ts'),
    ]);
  if (!existsSync(dir)) throw new Error(`${dir} is not there: --dir names the folder of the CA that serves`);
  const keys = await openTokenKey(dir);
  const sign = () => signToken(keys, { namespace, serviceAccount }, ttlMs, Date.now());
  let told = '';
  const tellRoots = async () => {
    if (rootOut === undefined) return;
    const roots = await readIfThere(join(dir, CA_FILES.roots));
    if (roots === null) throw new Error(`${dir} has no ${CA_FILES.roots} yet: start its CA first`);
    if (roots === told) return;
    await replaceFile(rootOut, roots, PUBLIC);
    told = roots;
  };
  await tellRoots();
  if (out === undefined) {
    process.stdout.write(`${await sign()}\n`);
    return;
  }
  const write = async () => replaceFile(out, `${await sign()}\n`, SECRET);
  await write();
  if (!renew) return;
  let renewed = Date.now();
  // looked at often, by the wall clock: a machine may have slept past any timer
  const timer = setInterval(
    () => {
      tellRoots().catch((error: Error) => complain('roots', error));
      if (Date.now() - renewed < ttlMs / 2) return;
      const before = renewed;
      renewed = Date.now();
      write().catch((error: Error) => {
        renewed = before;
        complain('token', error);
      });
    },
    Math.min(ttlMs / 8, 10_000),
  );
  void giveBackWhenQuiet();
  await stopSignal();
  clearInterval(timer);
}

function complain(what: string, { message }: Error): void {
  process.stderr.write(`oarlock: the ${what} could not be renewed, will try again: ${message}\n`);
}

async function issue(options: IssueOptions): Promise<void> {
  const { dir, out, ttl: ttlMs, namespace, serviceAccount } = options;
  const [
    { openEmbeddedCa },
    { subjectOf },
    { replaceFile, PUBLIC, SECRET },
    { identityOf },
    { access, constants, mkdir },
  ] = await Promise.all([
    import('../ca-client/embedded-ca.ts'),
    import('../ca-client/ca-token.ts'),
    import('../ca-client/file-store.ts'),
    import('../mesh/identity.ts'),
    import('node:fs/promises'),
  ]);
  const { trustDomain: wanted = null, rootDir = null } = options;
  // throws: a slash in a name would make another account's identity
  subjectOf({ namespace, serviceAccount });
  const ca = await openEmbeddedCa({ dir, trustDomain: wanted, rootDir });
  const identity = identityOf(ca.trustDomain, namespace, serviceAccount);
  // first: what is issued and cannot be written down counts as handed out, and nobody has it
  await mkdir(out, { recursive: true });
  await access(out, constants.W_OK);
  const issued = await ca.issueWithKey(identity, ttlMs);
  // roots first: whoever reads in between sees a key that does not fit, and waits
  await replaceFile(join(out, 'root-cert.pem'), issued.roots.join(''), PUBLIC);
  await replaceFile(join(out, 'key.pem'), issued.keyPem, SECRET);
  await replaceFile(join(out, 'cert-chain.pem'), issued.chain.join(''), PUBLIC);
  if (options.output !== 'json') return;
  const notAfter = new Date(issued.notAfter).toISOString();
  answer(options, { identity: identity.uri, serial: issued.serial, notAfter, dir: out }, []);
}
