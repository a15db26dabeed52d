/** Credentials for all peers alike, from our own CA. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { runOarlock } from '../children.ts';
import { type AllCredentials, type Credentials, SERVICE } from './peer.ts';

/** @param dir where the CA's folder and one for each identity are made */
export async function issueCredentials(dir: string): Promise<AllCredentials> {
  const issue = async (account: string): Promise<Credentials> => {
    const out = join(dir, account);
    const names = ['--namespace', 'bench', '--service-account', account, '--out', out];
    await runOarlock(['ca', 'issue', '--dir', join(dir, 'ca'), ...names]);
    const files = {
      cert: join(out, 'cert-chain.pem'),
      key: join(out, 'key.pem'),
      root: join(out, 'root-cert.pem'),
    };
    return { ...files, certWithName: account === 'orders' ? withName(dir, out) : files.cert };
  };
  // One after the other: each would make the CA's root.
  const orders = await issue('orders');
  const web = await issue('web');
  return { orders, web, stranger: await issue('stranger') };
}

/**
 * nginx and HAProxy cannot check a server by URI: they get one more certificate of the same key, URI and root,
 * with a DNS name beside the URI. Without `openssl` it is missing, and they will not start.
 */
function withName(dir: string, out: string): string {
  const file = join(out, 'cert-with-name.pem');
  const names = `subjectAltName=critical,URI:spiffe://cluster.local/ns/bench/sa/orders,DNS:${SERVICE}`;
  const ca = ['-CA', join(dir, 'ca', 'root-cert.pem'), '-CAkey', join(dir, 'ca', 'root-key.pem')];
  const request = ['req', '-x509', '-new', '-key', join(out, 'key.pem'), '-subj', '/O=bench', '-days', '1'];
  const extensions = [
    ...['-addext', names, '-addext', 'basicConstraints=critical,CA:FALSE'],
    ...['-addext', 'extendedKeyUsage=serverAuth,clientAuth'],
  ];
  spawnSync('openssl', [...request, ...ca, ...extensions, '-out', file], { stdio: 'ignore' });
  return file;
}

/**
 * The same identities with RSA keys, as Istio's agents have them by default, from a root of such a key.
 * @throws where there is no `openssl`
 */
export function issueRsaCredentials(dir: string): AllCredentials {
  mkdirSync(dir, { recursive: true });
  const ca = { cert: join(dir, 'root-cert.pem'), key: join(dir, 'root-key.pem') };
  openssl([...newRsa(ca.key), '-subj', '/O=cluster.local', '-out', ca.cert, ...ROOT_EXTENSIONS]);
  const issue = (account: string): Credentials => {
    const out = join(dir, account);
    mkdirSync(out);
    const files = {
      cert: join(out, 'cert-chain.pem'),
      key: join(out, 'key.pem'),
      root: join(out, 'root-cert.pem'),
      certWithName: join(out, 'cert-with-name.pem'),
    };
    copyFileSync(ca.cert, files.root);
    const uri = `URI:spiffe://cluster.local/ns/bench/sa/${account}`;
    const signed = ['-CA', ca.cert, '-CAkey', ca.key, ...LEAF_EXTENSIONS];
    const names = (all: string): readonly string[] => ['-addext', `subjectAltName=critical,${all}`];
    openssl([...newRsa(files.key), '-subj', '/', ...signed, ...names(uri), '-out', files.cert]);
    const again = ['req', '-x509', '-new', '-key', files.key, '-days', '1', '-subj', '/O=bench'];
    openssl([...again, ...signed, ...names(`${uri},DNS:${SERVICE}`), '-out', files.certWithName]);
    return files;
  };
  return { orders: issue('orders'), web: issue('web'), stranger: issue('stranger') };
}

const ROOT_EXTENSIONS = [
  ...['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
];
const LEAF_EXTENSIONS = [
  ...['-addext', 'basicConstraints=critical,CA:FALSE'],
  ...['-addext', 'keyUsage=critical,digitalSignature,keyEncipherment'],
  ...['-addext', 'extendedKeyUsage=serverAuth,clientAuth'],
];

function newRsa(key: string): readonly string[] {
  return ['req', '-x509', '-newkey', 'rsa:2048', '-sha256', '-nodes', '-keyout', key, '-days', '1'];
}

function openssl(args: readonly string[]): void {
  const { status, error, stderr } = spawnSync('openssl', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`openssl ${args[0]}: ${error?.message ?? stderr.trim()}`);
}
