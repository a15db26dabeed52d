/**
 * The real control plane tests run against. OARLOCK_CONTROL_PLANE_DIR names a folder whose `env` file tells of it
 * (KUBE_API, KUBE_TOKEN, ISTIOD_SECURE, ISTIOD_ROOT), with its istiod's process in `istiod.pid` and the key its
 * service account tokens are signed by in `sa.key`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createPrivateKey } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { SignJWT } from 'jose';
import type { Test } from 'tap';
import { call } from '../e2e/harness/clients.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { until } from '../e2e/harness/wait.ts';

/** Null where there is none: then these tests have nothing to ask. */
export function controlPlane(): ControlPlane | null {
  const dir = process.env.OARLOCK_CONTROL_PLANE_DIR;
  return dir === undefined ? null : new ControlPlane(dir);
}

export class ControlPlane {
  readonly dir: string;
  readonly #env: string;

  constructor(dir: string) {
    this.dir = dir;
    this.#env = readFileSync(join(dir, 'env'), 'utf8');
  }

  /** `HOST:PORT` of its istiod's CA, and the file with that CA's root. */
  get address(): string {
    return this.env('ISTIOD_SECURE');
  }

  get rootFile(): string {
    return this.env('ISTIOD_ROOT');
  }

  /** From lines of `export NAME=value NAME=value`. */
  env(name: string): string {
    const value = new RegExp(`\\b${name}=(\\S+)`).exec(this.#env)?.[1];
    if (value === undefined) throw new Error(`${this.dir}/env does not tell ${name}`);
    return value;
  }

  /** A projected token as the kubelet gets it, from the TokenRequest API; namespace and account are made first. */
  async token(namespace: string, serviceAccount: string, audience = 'istio-ca'): Promise<string> {
    const accounts = `/api/v1/namespaces/${namespace}/serviceaccounts`;
    await this.#post('/api/v1/namespaces', { metadata: { name: namespace } });
    await this.#post(accounts, { metadata: { name: serviceAccount } });
    const spec = { audiences: [audience], expirationSeconds: 3600 };
    const answer = await this.#post(`${accounts}/${serviceAccount}/token`, { spec });
    return JSON.parse(answer).status.token;
  }

  /** The same token an hour and a minute later, signed by the same key: the API grants none for under ten minutes. */
  async expired(token: string): Promise<string> {
    const [header, claims] = token
      .split('.', 2)
      .map((part) => JSON.parse(Buffer.from(part, 'base64url').toString('utf8')));
    const key = createPrivateKey(readFileSync(join(this.dir, 'sa.key')));
    const past = Math.floor(Date.now() / 1000) - 60;
    const old = { ...claims, iat: past - 3600, nbf: past - 3600, exp: past };
    return new SignJWT(old).setProtectedHeader(header).sign(key);
  }

  #post(path: string, body: object): Promise<string> {
    return new Promise((resolve, reject) => {
      const headers = {
        authorization: `Bearer ${this.env('KUBE_TOKEN')}`,
        'content-type': 'application/json',
      };
      // the test API server's certificate is its own
      const options = { method: 'POST', headers, rejectUnauthorized: false };
      const asked = request(new URL(path, this.env('KUBE_API')), options, (response) => {
        let text = '';
        response.on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => resolve(text));
      });
      asked.on('error', reject);
      asked.end(JSON.stringify(body));
    });
  }
}

/** Istiod's flags for its listeners; each gets a port of ours. */
const LISTENERS = ['--httpAddr', '--grpcAddr', '--secureGRPCAddr', '--httpsAddr', '--monitoringAddr'];

/** A second istiod of the same control plane, which a test may kill and start again. */
export class Istiod {
  readonly address: string;
  readonly #program: string;
  readonly #args: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  readonly #httpPort: number;
  #child: ChildProcess | null = null;
  /** The end of what it logged. */
  log = '';

  private constructor(plane: ControlPlane, ports: readonly number[], env: Readonly<Record<string, string>>) {
    const pid = readFileSync(join(plane.dir, 'istiod.pid'), 'utf8').trim();
    const words = (file: string) => readFileSync(`/proc/${pid}/${file}`, 'utf8').split('\0').slice(0, -1);
    const args = words('cmdline').slice(1);
    this.#program = readlinkSync(`/proc/${pid}/exe`);
    this.#args = args.map((word, i) => {
      const at = LISTENERS.indexOf(args[i - 1] ?? '');
      return at < 0 ? word : `127.0.0.1:${ports[at]}`;
    });
    const inherited = words('environ').map((pair) => pair.split(/=(.*)/s).slice(0, 2));
    this.#env = { ...Object.fromEntries(inherited), ...env };
    this.#httpPort = ports[0] ?? 0;
    this.address = `localhost:${ports[2]}`;
  }

  /**
   * Starts one as the control plane's own runs, and waits until it is ready.
   * @param env beside the inherited one: ROOT_CA_DIR, ISTIO_MULTIROOT_MESH
   */
  static async start(
    t: Test,
    plane: ControlPlane,
    env: Readonly<Record<string, string>> = {},
  ): Promise<Istiod> {
    const istiod = new Istiod(plane, await freePorts(LISTENERS.length), env);
    t.teardown(() => istiod.kill());
    await istiod.up();
    return istiod;
  }

  /** Starts it, again after `kill`, on the same ports. */
  async up(): Promise<void> {
    const child = spawn(this.#program, this.#args, { env: this.#env, stdio: ['ignore', 'pipe', 'ignore'] });
    this.#child = child;
    child.stdout.on('data', (chunk) => {
      this.log = (this.log + chunk).slice(-200_000);
    });
    await until('istiod to be ready', async () => (await call(this.#httpPort, '/ready')).status === 200);
  }

  /** Lets it hang: connections are taken, and nothing is said. */
  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }
}
