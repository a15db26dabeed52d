/** The flags that say where our credentials come from, and which of them hold together. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseHostPort } from '../ca-client/address.ts';
import { KEY_TYPES, type KeyType } from '../ca-client/keys.ts';
import { parseWorkloadEndpoint } from '../ca-client/workload-api-endpoint.ts';
import { parseDuration } from '../mesh/duration.ts';
import { parseIdentity } from '../mesh/identity.ts';
import { UsageError } from './usage-error.ts';

/** The one source of credentials. */
export type CredentialOptions =
  | {
      readonly kind: 'ca';
      readonly address: string;
      readonly rootFile: string;
      readonly tokenFile: string;
      readonly keyType: KeyType;
      /** Asked for, in milliseconds; the CA may give less. */
      readonly ttlMs: number;
    }
  | { readonly kind: 'files'; readonly dir: string }
  | {
      readonly kind: 'spiffe';
      readonly socket: string;
      /** Of several SVIDs, the one with this hint; null: not told by it. */
      readonly hint: string | null;
      /** Of several SVIDs, the one with this SPIFFE ID, or with this path of it; null: not told by it. */
      readonly spiffeId: string | null;
    };

/** Istio's agent asks for as much (SECRET_TTL). */
const DEFAULT_TTL_MS = 24 * 3_600_000;
const LEAST_TTL_MS = 1_000;

/** Their flags, and the names commander gives them. */
const SOURCES = {
  caAddress: '--ca-address',
  certDir: '--cert-dir',
  spiffeSocket: '--spiffe-socket',
} as const;
type SourceName = keyof typeof SOURCES;
const SOURCE_NAMES = Object.keys(SOURCES) as readonly SourceName[];

/** The flags that say something to one source alone. */
const OWNERS: Readonly<Record<string, SourceName>> = {
  caRoot: 'caAddress',
  token: 'caAddress',
  keyType: 'caAddress',
  certificateTtl: 'caAddress',
  spiffeHint: 'spiffeSocket',
  spiffeId: 'spiffeSocket',
};
/** Flags that answer one question: a flag makes those forgotten that only the environment names. */
const CHOICES: readonly (readonly string[])[] = [SOURCE_NAMES, ['spiffeHint', 'spiffeId']];

/**
 * Adds the flags. A source given by flag makes those forgotten that only the environment names.
 * @param spiffeEnv the environment name of `--spiffe-socket`
 */
export function addCredentialOptions(command: Command, spiffeEnv: string): Command {
  return command
    .addOption(option('--ca-address <host:port>', "a CA that speaks Istio's CreateCertificate", 'CA_ADDR'))
    .addOption(option('--ca-root <file>', 'root the CA is checked against', 'CA_ROOT_CA'))
    .addOption(
      option('--token <file>', 'bearer token for the CA, read anew for every request', 'OARLOCK_TOKEN'),
    )
    .addOption(
      option('--key-type <type>', 'of the key made for a CA to certify', 'OARLOCK_KEY_TYPE')
        .choices(KEY_TYPES)
        .default('EC-P256'),
    )
    .addOption(
      option(
        '--certificate-ttl <duration>',
        'validity asked of the CA, which may give less (default 24h)',
        'SECRET_TTL',
      ).argParser(ttl),
    )
    .addOption(
      option(
        '--cert-dir <dir>',
        'credentials from cert-chain.pem, key.pem, root-cert.pem (or tls.crt …); watched',
        'OARLOCK_CERT_DIR',
      ),
    )
    .addOption(option('--spiffe-socket <path>', "a SPIFFE Workload API, such as SPIRE's agent", spiffeEnv))
    .addOption(
      option('--spiffe-hint <text>', 'of several SVIDs, the one with this hint', 'OARLOCK_SPIFFE_HINT'),
    )
    .addOption(
      option(
        '--spiffe-id <id>',
        'of several SVIDs, the one with this SPIFFE ID, or this path of it',
        'OARLOCK_SPIFFE_ID',
      ),
    )
    .addOption(option('--crl <file>', 'certificate revocation lists in PEM; watched', 'OARLOCK_CRL'))
    .hook('preAction', (_, action) => {
      preferFlags(action);
      checkFlags(action);
    });
}

function option(flags: string, text: string, env: string): Option {
  return new Option(flags, text).env(env);
}

function ttl(value: string): number {
  const ms = parseDuration(value);
  if (ms !== null && ms >= LEAST_TTL_MS) return ms;
  throw new InvalidArgumentError('must be a duration of at least 1s, such as 24h.');
}

/** "A flag beats its environment name": so does another flag that answers the same question. */
function preferFlags(command: Command): void {
  const from = (name: string) => command.getOptionValueSource(name);
  for (const names of CHOICES) {
    if (!names.some((name) => from(name) === 'cli')) continue;
    for (const name of names) if (from(name) === 'env') command.setOptionValue(name, undefined);
  }
}

/**
 * Flags that would go unheard. What only the environment names may stay: a pod is injected with more than one source's.
 * @throws UsageError naming both
 */
function checkFlags(command: Command): void {
  const given = (name: string) => command.getOptionValueSource(name) === 'cli';
  if (given('spiffeHint') && given('spiffeId')) {
    throw new UsageError('--spiffe-hint and --spiffe-id exclude each other: give one of them');
  }
  const [source, ...others] = SOURCE_NAMES.filter((name) => command.getOptionValue(name));
  if (source === undefined || others.length > 0) return;
  for (const option of command.options) {
    const name = option.attributeName();
    const owner = OWNERS[name];
    if (owner === undefined || owner === source || !given(name)) continue;
    throw new UsageError(
      `${option.long} is for ${SOURCES[owner]}, and says nothing to ${SOURCES[source]}: leave it out`,
    );
  }
}

/**
 * @param parsed what commander read
 * @throws UsageError where there is no source, more than one, or half of one
 */
export function readCredentialOptions(parsed: Readonly<Record<string, unknown>>): CredentialOptions {
  const text = (name: string): string | null => {
    const value = parsed[name];
    return typeof value === 'string' && value !== '' ? value : null;
  };
  const given = SOURCE_NAMES.filter((name) => text(name) !== null);
  if (given.length === 0) {
    throw new UsageError('credentials are needed: --ca-address, --cert-dir or --spiffe-socket');
  }
  if (given.length > 1) {
    const flags = given.map((name) => SOURCES[name]);
    throw new UsageError(`${flags.toReversed().join(' and ')} exclude each other: give one of them`);
  }
  const dir = text('certDir');
  if (dir !== null) return { kind: 'files', dir };
  const socket = text('spiffeSocket');
  if (socket !== null) {
    return {
      kind: 'spiffe',
      socket: checkedSocket(socket),
      hint: text('spiffeHint'),
      spiffeId: checkedSpiffeId(text('spiffeId')),
    };
  }
  const address = text('caAddress') ?? '';
  if (parseHostPort(address) === null) {
    throw new UsageError(`--ca-address (CA_ADDR) must be HOST:PORT, not ${JSON.stringify(address)}`);
  }
  const rootFile = text('caRoot');
  const tokenFile = text('token');
  if (rootFile === null || tokenFile === null) {
    throw new UsageError('--ca-address needs --ca-root and --token');
  }
  return {
    kind: 'ca',
    address,
    rootFile,
    tokenFile,
    keyType: (parsed.keyType as KeyType | undefined) ?? 'EC-P256',
    ttlMs: (parsed.certificateTtl as number | undefined) ?? DEFAULT_TTL_MS,
  };
}

function checkedSocket(socket: string): string {
  try {
    parseWorkloadEndpoint(socket);
  } catch (error) {
    throw new UsageError(`--spiffe-socket: ${(error as Error).message}`);
  }
  return socket;
}

/** What it asks for could never be offered else. */
function checkedSpiffeId(id: string | null): string | null {
  if (id === null || parseIdentity(id.startsWith('/') ? `spiffe://any${id}` : id) !== null) return id;
  throw new UsageError(
    '--spiffe-id (OARLOCK_SPIFFE_ID) must be a SPIFFE ID, such as spiffe://cluster.local/ns/shop/sa/web, ' +
      `or the path of one, such as /ns/shop/sa/web, not ${JSON.stringify(id)}`,
  );
}
