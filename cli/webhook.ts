/** `oarlock webhook`: injects pods as they are created, as a MutatingAdmissionWebhook over TLS. */
import { Command, Option } from 'commander';
import type { HostPort } from '../ca-client/address.ts';
import { UsageError } from '../config/usage-error.ts';
import type { InjectConfig } from '../inject/inject-config.ts';
import { hostPort } from '../mesh/text.ts';
import type { Logger } from '../telemetry/log.ts';
import { listenAddress, stopSignal } from './ca-flags.ts';
import { giveBackWhenQuiet } from './give-back.ts';
import { addInjectOptions, readInjectOptions } from './inject-flags.ts';
import type { Keeping } from './keep.ts';
import { addKubernetesOptions, type KubernetesAccess, kubernetesAccess } from './kubernetes-flags.ts';
import type { WebhookServer } from './webhook-server.ts';

/** Istiod's injector listens there too, behind its Service's 443. */
const PORT = 15017;
/** How soon a new namespace has its config maps, and a lost caBundle is back. */
const KEEP_MS = 5_000;
const DEFAULT_NAME = 'oarlock-sidecar-injector';

/** The `webhook` command. What goes wrong is thrown, for the caller to say. */
export function webhookCommand(): Command {
  const command = new Command('webhook')
    .description('inject pods as they are created: a MutatingAdmissionWebhook over TLS')
    .addOption(
      new Option('--listen <host:port>', 'address to serve on')
        .argParser(listenAddress)
        .default({ host: '::', port: PORT }, `[::]:${PORT}`),
    )
    .option('--tls-cert <file>', 'its certificate, PEM; watched')
    .option('--tls-key <file>', 'the key of it')
    .option('--self-signed', 'make both in memory, and put their CA into the configuration of --webhook-name')
    .option('--server-name <name>', 'name in the certificate that is made (repeatable)', collect)
    .option('--webhook-name <name>', 'the MutatingWebhookConfiguration', DEFAULT_NAME)
    .option('--copy-config-map <name>', 'keep copies of it in all namespaces (repeatable)', collect);
  addInjectOptions(addKubernetesOptions(command));
  return command.action((parsed: Record<string, unknown>) => run(parsed));
}

function collect(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), value];
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const config = readInjectOptions(parsed);
  const source = certificateSource(parsed);
  const copied = (parsed.copyConfigMap ?? []) as readonly string[];
  const kubernetes = source.kind === 'self' || copied.length > 0 ? kubernetesAccess(parsed) : null;
  const { createLogger } = await import('../telemetry/log.ts');
  const log = createLogger('info');
  const common = { listen: parsed.listen as HostPort, config, log };
  const { server, keeping } =
    source.kind === 'files'
      ? await fromFiles(common, source)
      : await fromMemory(common, source, kubernetes as KubernetesAccess);
  const copies = kubernetes === null ? [] : await startCopies(kubernetes, copied, log);
  const address = hostPort(server.address.host, server.address.port);
  process.stdout.write(`${JSON.stringify({ ready: true, address })}\n`);
  void giveBackWhenQuiet(log);
  await stopSignal();
  await Promise.all([server.close(), ...[...keeping, ...copies].map((one) => one.stop())]);
  await kubernetes?.api.close();
}

interface Common {
  readonly listen: HostPort;
  readonly config: InjectConfig;
  readonly log: Logger;
}

interface Started {
  readonly server: WebhookServer;
  readonly keeping: readonly Keeping[];
}

type CertificateSource =
  | { readonly kind: 'files'; readonly cert: string; readonly key: string }
  | { readonly kind: 'self'; readonly names: readonly string[]; readonly webhook: string };

function certificateSource(parsed: Readonly<Record<string, unknown>>): CertificateSource {
  const { tlsCert: cert, tlsKey: key, selfSigned, serverName, webhookName } = parsed;
  if (selfSigned === true) {
    if (cert !== undefined || key !== undefined) {
      throw new UsageError('--self-signed and --tls-cert exclude each other: give one of them');
    }
    const names = (serverName ?? []) as readonly string[];
    if (names.length === 0)
      throw new UsageError('--self-signed needs --server-name: the Service, as NAME.NAMESPACE.svc');
    return { kind: 'self', names, webhook: String(webhookName) };
  }
  if (typeof cert === 'string' && typeof key === 'string') return { kind: 'files', cert, key };
  throw new UsageError('a certificate is needed: --tls-cert and --tls-key, or --self-signed');
}

async function fromFiles(
  { listen, config, log }: Common,
  { cert, key }: Extract<CertificateSource, { kind: 'files' }>,
): Promise<Started> {
  const [{ keyFiles }, { startWebhookServer }] = await Promise.all([
    import('./webhook-certificate.ts'),
    import('./webhook-server.ts'),
  ]);
  let server: WebhookServer | null = null;
  const files = keyFiles(cert, key, log, (keys) => {
    try {
      server?.use(keys);
      log.info({ event: 'own-certificate' }, 'certificate replaced');
    } catch (error) {
      const { message } = error as Error;
      log.warn(
        { event: 'own-certificate', error: message },
        'the certificate does not fit; the old one stays',
      );
    }
  });
  server = await startWebhookServer({
    listen,
    keys: await files.read(),
    config: () => config,
    ready: () => true,
    log,
  });
  return { server, keeping: [{ stop: async () => files.stop() }] };
}

async function fromMemory(
  { listen, config, log }: Common,
  { names, webhook }: Extract<CertificateSource, { kind: 'self' }>,
  { api }: KubernetesAccess,
): Promise<Started> {
  const [{ selfSigned }, { startWebhookServer }, { keepCaBundle }, { keep }] = await Promise.all([
    import('./webhook-certificate.ts'),
    import('./webhook-server.ts'),
    import('./webhook-ca-bundle.ts'),
    import('./keep.ts'),
  ]);
  let keys = await selfSigned(names, Date.now());
  let ready = false;
  const server = await startWebhookServer({ listen, keys, config: () => config, ready: () => ready, log });
  const keeping = keep('caBundle', KEEP_MS, log, async () => {
    const now = Date.now();
    const next = now < keys.renewAt ? keys : await selfSigned(names, now);
    const changed = await keepCaBundle(api, webhook, next.caPem, now);
    // Shown only once it is trusted.
    if (next !== keys) server.use(next);
    keys = next;
    ready = true;
    if (changed) log.info({ event: 'ca-bundle', webhook }, 'our CA is in the caBundle');
  });
  return { server, keeping: [keeping] };
}

async function startCopies(
  { api, namespace }: KubernetesAccess,
  copied: readonly string[],
  log: Logger,
): Promise<readonly Keeping[]> {
  if (copied.length === 0) return [];
  const [{ ConfigMapCopies }, { keep }] = await Promise.all([
    import('./copied-config-maps.ts'),
    import('./keep.ts'),
  ]);
  const copies = new ConfigMapCopies(api, namespace, log);
  return copied.map((name) => keep(`config map ${name}`, KEEP_MS, log, () => copies.copy(name)));
}
