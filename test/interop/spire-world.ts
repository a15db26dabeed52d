/** Real SPIRE servers and agents of the tests' own: started, given entries, rotated, federated, stopped. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Test } from 'tap';
import { freePorts } from '../e2e/harness/ports.ts';
import { Lines } from '../e2e/harness/processes.ts';
import { until, within } from '../e2e/harness/wait.ts';

const run = promisify(execFile);

/** The folder that OARLOCK_SPIRE names; a test file ends here, and says why, where it cannot run. */
export function needSpire(t: Test): string {
  const dir = process.env.OARLOCK_SPIRE ?? '';
  try {
    if (dir !== '') {
      for (const name of ['spire-server', 'spire-agent']) accessSync(join(dir, name), constants.X_OK);
      return dir;
    }
  } catch {
    t.comment(`OARLOCK_SPIRE=${dir} has no spire-server and spire-agent that can be run`);
  }
  t.plan(0, 'SKIPPED: it needs OARLOCK_SPIRE, a folder with spire-server and spire-agent');
  process.exit(0);
}

/** A test file that dies of an error has no teardown: what it started and wrote must not outlive it all the same. */
const living = new Set<ChildProcess>();
const folders = new Set<string>();
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A running server or agent. */
class SpireProcess {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly log: Lines;

  constructor(t: Test, binary: string, args: readonly string[]) {
    this.#child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const { stdout, stderr } = this.#child;
    if (stdout === null || stderr === null) throw new Error('no pipes');
    this.log = new Lines(stdout);
    stderr.resume();
    this.#exited = new Promise((resolve) => {
      this.#child.once('close', () => resolve());
    });
    living.add(this.#child);
    this.#child.once('close', () => living.delete(this.#child));
    t.teardown(() => this.kill());
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await within('SPIRE to be gone', this.#exited);
  }

  /** Waits for its health check to pass, or its end. */
  async healthy(binary: string, socket: string): Promise<void> {
    const gone = this.#exited.then(() => {
      throw new Error(`${binary} ended:\n${this.log.text}`);
    });
    gone.catch(() => {});
    const check = () => run(binary, ['healthcheck', '-socketPath', socket]);
    await Promise.race([gone, until(`${binary} to be healthy`, check)]);
  }
}

export interface EntryWish {
  /** After the trust domain, with `/`. */
  readonly path: string;
  readonly hint?: string;
  /** Names of trust domains whose bundles come with it. */
  readonly federatesWith?: readonly string[];
  readonly ttlSeconds?: number;
}

/** One trust domain: its server, whose keys live in memory, and agents on this machine. */
export class SpireServer {
  readonly trustDomain: string;
  readonly bundleEndpoint: string;
  readonly #t: Test;
  readonly #bin: string;
  readonly #dir: string;
  readonly #port: number;
  readonly #process: SpireProcess;

  private constructor(t: Test, bin: string, trustDomain: string, ports: readonly number[]) {
    const [port = 0, bundlePort = 0] = ports;
    this.trustDomain = trustDomain;
    this.bundleEndpoint = `https://127.0.0.1:${bundlePort}`;
    this.#t = t;
    this.#bin = bin;
    this.#port = port;
    this.#dir = mkdtempSync(join(tmpdir(), 'oarlock-spire-'));
    folders.add(this.#dir);
    t.teardown(() => rmSync(this.#dir, { recursive: true, force: true }));
    const config = join(this.#dir, 'server.conf');
    writeFileSync(config, serverConfig(trustDomain, this.#dir, port, bundlePort));
    this.#process = new SpireProcess(t, this.#server, ['run', '-config', config]);
  }

  static async start(t: Test, trustDomain: string): Promise<SpireServer> {
    const server = new SpireServer(t, needSpire(t), trustDomain, await freePorts(2));
    await server.#process.healthy(server.#server, server.#socket);
    return server;
  }

  get #server(): string {
    return join(this.#bin, 'spire-server');
  }

  get #socket(): string {
    return join(this.#dir, 'server.sock');
  }

  /** Runs a command of spire-server and answers its JSON. */
  async #ask(...args: readonly string[]): Promise<Record<string, unknown>> {
    const { stdout } = await run(this.#server, [...args, '-socketPath', this.#socket, '-output', 'json']);
    return JSON.parse(stdout) as Record<string, unknown>;
  }

  /** A path for an agent's socket. */
  newSocket(): string {
    return join(mkdtempSync(join(this.#dir, 'api-')), 'agent.sock');
  }

  /** A fresh agent: it joins by a token, and has the SPIFFE ID that is every entry's parent. */
  async startAgent(socket = this.newSocket()): Promise<SpireAgent> {
    const { value: token } = await this.#ask('token', 'generate', '-spiffeID', this.#node);
    const dir = mkdtempSync(join(this.#dir, 'agent-'));
    const config = join(dir, 'agent.conf');
    writeFileSync(config, agentConfig(this.trustDomain, dir, this.#port, socket));
    const binary = join(this.#bin, 'spire-agent');
    const args = ['run', '-config', config, '-joinToken', String(token)];
    const agent = new SpireAgent(new SpireProcess(this.#t, binary, args), socket);
    await agent.process.healthy(binary, socket);
    return agent;
  }

  get #node(): string {
    return `spiffe://${this.trustDomain}/node`;
  }

  /** An entry for every process of this user. @returns its ID */
  async createEntry({ path, hint, federatesWith = [], ttlSeconds = 12 }: EntryWish): Promise<string> {
    const { results } = await this.#ask(
      ...['entry', 'create', '-parentID', this.#node],
      ...['-spiffeID', `spiffe://${this.trustDomain}${path}`],
      ...['-selector', `unix:uid:${process.getuid?.()}`, '-x509SVIDTTL', String(ttlSeconds)],
      ...(hint === undefined ? [] : ['-hint', hint]),
      ...federatesWith.flatMap((name) => ['-federatesWith', `spiffe://${name}`]),
    );
    const [result] = results as { entry: { id: string } }[];
    if (result === undefined) throw new Error('no entry');
    return result.entry.id;
  }

  async deleteEntry(id: string): Promise<void> {
    await this.#ask('entry', 'delete', '-entryID', id);
  }

  /** The bundle in SPIFFE's format. */
  async bundle(): Promise<string> {
    const args = ['bundle', 'show', '-format', 'spiffe', '-socketPath', this.#socket];
    return (await run(this.#server, args)).stdout;
  }

  /** Trusts another server's bundle as it is now; where it is to be followed, its endpoint is asked for new ones. */
  async trust(other: SpireServer, follow = false): Promise<void> {
    const file = join(this.#dir, `${other.trustDomain}.json`);
    writeFileSync(file, await other.bundle());
    const id = `spiffe://${other.trustDomain}`;
    await this.#ask('bundle', 'set', '-format', 'spiffe', '-id', id, '-path', file);
    if (!follow) return;
    await this.#ask(
      ...['federation', 'create', '-bundleEndpointProfile', 'https_spiffe'],
      ...['-bundleEndpointURL', other.bundleEndpoint, '-endpointSpiffeID', `${id}/spire/server`],
      ...['-trustDomain', other.trustDomain],
    );
  }

  /** Asks the other's endpoint for its bundle now. */
  async refreshBundle(other: SpireServer): Promise<void> {
    await this.#ask('federation', 'refresh', '-id', other.trustDomain);
  }

  /** First step of a new root: it is trusted. @returns its authority's ID */
  async prepareRoot(): Promise<string> {
    return authorityId(await this.#ask('localauthority', 'x509', 'prepare'));
  }

  /** Second step: it issues. @returns the old one's ID */
  async activateRoot(id: string): Promise<string> {
    const state = await this.#ask('localauthority', 'x509', 'show');
    const { active } = state as { active: { authority_id: string } };
    await this.#ask('localauthority', 'x509', 'activate', '-authorityID', id);
    return active.authority_id;
  }

  /** Third step: what the old one issued is replaced, then it is no longer trusted. */
  async retireRoot(id: string): Promise<void> {
    await this.#ask('localauthority', 'x509', 'taint', '-authorityID', id);
    await this.#ask('localauthority', 'x509', 'revoke', '-authorityID', id);
  }

  kill(): Promise<void> {
    return this.#process.kill();
  }
}

export class SpireAgent {
  readonly process: SpireProcess;
  /** Of its Workload API. */
  readonly socket: string;

  constructor(process: SpireProcess, socket: string) {
    this.process = process;
    this.socket = socket;
  }

  kill(): Promise<void> {
    return this.process.kill();
  }
}

function authorityId(answer: Record<string, unknown>): string {
  const { prepared_authority } = answer as { prepared_authority?: { authority_id: string } };
  if (prepared_authority === undefined) throw new Error(`no authority in ${JSON.stringify(answer)}`);
  return prepared_authority.authority_id;
}

function serverConfig(trustDomain: string, dir: string, port: number, bundlePort: number): string {
  return `server {
  bind_address = "127.0.0.1"
  bind_port = "${port}"
  socket_path = "${dir}/server.sock"
  trust_domain = "${trustDomain}"
  data_dir = "${dir}"
  log_level = "DEBUG"
  log_format = "json"
  ca_ttl = "1h"
  default_x509_svid_ttl = "1m"
  experimental { cache_reload_interval = "1s" }
  federation {
    bundle_endpoint {
      address = "127.0.0.1"
      port = ${bundlePort}
      profile "https_spiffe" {}
    }
  }
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "${dir}/datastore.sqlite3"
    }
  }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
}
`;
}

function agentConfig(trustDomain: string, dir: string, port: number, socket: string): string {
  const data = join(dir, 'data');
  mkdirSync(data);
  return `agent {
  server_address = "127.0.0.1"
  server_port = "${port}"
  socket_path = "${socket}"
  trust_domain = "${trustDomain}"
  data_dir = "${data}"
  insecure_bootstrap = true
  log_level = "DEBUG"
  log_format = "json"
  experimental { sync_interval = "1s" }
}
plugins {
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`;
}
