/** Credentials for all peers alike, from our own CA. */
import { spawnSync } from 'node:child_process';
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
