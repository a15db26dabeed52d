/** `docker compose up` without Docker: the commands of a compose file in network namespaces, in the order it asks for. */
import { chmodSync, chownSync, cpSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Test } from 'tap';
import { tempDir } from '../e2e/harness/mesh.ts';
import { type Pod, type PodCommand, PodNetwork, PROXY_UID } from '../e2e/harness/pods.ts';
import type { Image } from '../e2e/harness/pods-image.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { type ComposeFile, networkOf, type Service } from './compose-file.ts';

const OURS = /^oarlock:/;
/** What the image's Dockerfile says, for services that do not. */
const USER = `${PROXY_UID}:${PROXY_UID}`;

interface Started {
  readonly pod: Pod;
  readonly said: () => string;
}

export class ComposeUp {
  readonly #t: Test;
  readonly #compose: ComposeFile;
  readonly #image: Image;
  readonly #folder: string;
  readonly #state: string;
  readonly #pods: ReadonlyMap<string, Pod>;
  readonly #starting = new Map<string, Promise<Started>>();
  readonly network: PodNetwork;

  /** @param file the compose file's path: what it mounts of the host is found from there */
  constructor(t: Test, compose: ComposeFile, image: Image, file: string) {
    this.#t = t;
    this.#compose = compose;
    this.#image = image;
    this.#state = tempDir(t);
    chmodSync(this.#state, 0o755);
    // Its users are not root, whose folder the checkout may be.
    this.#folder = join(this.#state, 'compose');
    cpSync(dirname(file), this.#folder, { recursive: true });
    for (const volume of Object.keys(compose.volumes)) {
      // A new volume has the owner of the image's folder.
      mkdirSync(join(this.#state, volume));
      chownSync(join(this.#state, volume), PROXY_UID, PROXY_UID);
    }
    const addressed = Object.entries(compose.services)
      .flatMap(([name, { networks }]) =>
        networks?.mesh === undefined ? [] : [{ name, at: networks.mesh.ipv4_address }],
      )
      .sort((a, b) => Number(a.at.split('.')[3]) - Number(b.at.split('.')[3]));
    // `PodNetwork` gives addresses in turn: the file's are of the same order.
    this.network = PodNetwork.create(
      t,
      addressed.map(({ name }) => shortName(name)),
    );
    this.#pods = new Map(addressed.map(({ name }) => [name, this.network.pod(shortName(name))]));
    for (const { name, at } of addressed) {
      const pod = this.pod(name);
      if (pod.ipv4 !== at)
        throw new Error(`${name} is to be at ${at}, and this network has it at ${pod.ipv4}`);
      const extra = compose.services[name]?.extra_hosts ?? [];
      const hosts = [
        ['127.0.0.1', 'localhost'],
        // Docker's own DNS, in its stead.
        ...addressed.map((one) => [one.at, one.name]),
        ...extra.map((line) => [line.slice(line.indexOf(':') + 1), line.slice(0, line.indexOf(':'))]),
      ];
      pod.etc('hosts', hosts.map((line) => `${line.join(' ')}\n`).join(''));
    }
  }

  pod(service: string): Pod {
    const pod = this.#pods.get(service);
    if (pod === undefined) throw new Error(`${service} has no network of its own`);
    return pod;
  }

  /** Starts them all; resolves when each has what the file wants of it. */
  async up(): Promise<void> {
    await Promise.all(Object.keys(this.#compose.services).map((name) => this.#started(name)));
  }

  #started(name: string): Promise<Started> {
    let starting = this.#starting.get(name);
    if (starting === undefined) {
      starting = this.#start(name);
      this.#starting.set(name, starting);
    }
    return starting;
  }

  async #start(name: string): Promise<Started> {
    const service = this.#compose.services[name];
    if (service === undefined) throw new Error(`no service ${name}`);
    for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
      await this.#started(other);
      if (condition === 'service_healthy') await this.#healthy(other);
    }
    const network = networkOf(name, service);
    // Without any network: nothing that it does needs one, so that this machine's own may stand in.
    const pod = network === null ? this.network.bridge : this.pod(network);
    return this.#spawn(name, service, pod);
  }

  #spawn(name: string, service: Service, pod: Pod): Started {
    const argv = this.#argvOf(service, service.command ?? []);
    const child = pod.spawn(argv, { ...this.#commandOf(service), env: this.#envOf(service) });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
    }
    const ended = new Promise<number | null>((resolve) => {
      child.once('close', (status) => resolve(status));
    });
    this.#t.teardown(async () => {
      child.kill('SIGKILL');
      await within(`${name} to end`, ended);
    });
    return { pod, said: () => said };
  }

  /** By its health check, or its image's. */
  async #healthy(name: string): Promise<void> {
    const service = this.#compose.services[name];
    if (service === undefined) throw new Error(`no service ${name}`);
    const [kind, ...test] = service.healthcheck?.test ?? [
      ...['CMD', '/usr/local/bin/oarlock', 'probe', 'http://127.0.0.1:15021/healthz/ready'],
    ];
    if (kind !== 'CMD') throw new Error(`a health check by shell: ${name}`);
    const argv = test[0] === '/usr/local/bin/oarlock' ? [...this.#image.oarlock, ...test.slice(1)] : test;
    const { pod, said } = await this.#started(name);
    const healthy = async (): Promise<boolean> =>
      (await pod.run(argv, this.#commandOf(service))).status === 0;
    await until(`${name} to be healthy`, healthy).catch((error: Error) => {
      throw new Error(`${error.message}: ${said()}`);
    });
  }

  /** With what is mounted into the container in the place where it is here. */
  #argvOf(service: Service, command: readonly string[]): readonly string[] {
    const whole = OURS.test(service.image) ? [...this.#image.oarlock, ...command] : command;
    return whole.map((word) => this.#here(service, word));
  }

  #envOf(service: Service): Record<string, string> {
    const { environment = {} } = service;
    return Object.fromEntries(
      Object.entries(environment).map(([key, value]) => [key, this.#here(service, value)]),
    );
  }

  #here({ volumes = [] }: Service, text: string): string {
    for (const volume of volumes) {
      const [source = '', target = ''] = volume.split(':');
      const at = source.startsWith('./') ? join(this.#folder, source) : join(this.#state, source);
      if (text.includes(target)) return text.replace(target, at);
    }
    return text;
  }

  /** Who may set rules is root with all rights here: harness and namespaces know no other. */
  #commandOf({ image, user = OURS.test(image) ? USER : '0:0' }: Service): PodCommand {
    const uid = Number(user.split(':')[0]);
    return uid === 0 ? {} : { uid };
  }
}

/** Of names of network namespaces and their files. */
function shortName(service: string): string {
  return service.replace(/-pod$/, '');
}
