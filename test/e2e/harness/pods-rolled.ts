/** A pod that is brought up and taken out as Kubernetes does it, with its sidecar and an app that calls and is called. */
import type { ChildProcess } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { APP_UID, type Pod } from './pods.ts';
import type { PodMesh, PodSidecar, SidecarOptions } from './pods-mesh.ts';
import type { RolledOptions } from './pods-rolled-app.ts';
import { type Line, Lines, type Match } from './processes.ts';
import { until, within } from './wait.ts';

export class RolledPod {
  readonly pod: Pod;
  readonly sidecar: PodSidecar;
  readonly #app: ChildProcess;
  readonly #said: Lines;
  readonly #exited: Promise<number | null>;

  private constructor(sidecar: PodSidecar, app: ChildProcess) {
    if (app.stdout === null) throw new Error('no pipe');
    this.pod = sidecar.pod;
    this.sidecar = sidecar;
    this.#app = app;
    this.#said = new Lines(app.stdout);
    app.stderr?.pipe(process.stderr);
    this.#exited = new Promise((resolve) => {
      app.once('close', (code) => resolve(code));
    });
  }

  /** Rules, sidecar, and behind its startup probe the app; up once that serves too. */
  static async up(
    mesh: PodMesh,
    pod: Pod,
    app: Omit<RolledOptions, 'name'>,
    options: SidecarOptions,
  ): Promise<RolledPod> {
    await mesh.rules(pod);
    const sidecar = mesh.start(pod, options);
    const probe = ['curl', '--silent', '--fail', `http://${pod.ipv4}:15021/healthz/ready`];
    await until(`${pod.name} to be ready`, async () => (await mesh.network.bridge.run(probe)).status === 0);
    const script = join(mesh.dir, 'app.ts');
    copyFileSync(join(import.meta.dirname, 'pods-rolled-app.ts'), script);
    const argument: RolledOptions = { name: pod.name, ...app };
    const argv = [join(mesh.image.dir, 'node'), script, JSON.stringify(argument)];
    const rolled = new RolledPod(sidecar, pod.spawn(argv, { uid: APP_UID }));
    mesh.t.teardown(() => rolled.#kill());
    await rolled.#said.next({ listening: true });
    return rolled;
  }

  /** What went wrong, in the words of whoever it happened to. */
  get failures(): readonly unknown[] {
    return this.#said.matching({ failed: /./ }).map(({ failed }) => failed);
  }

  /** Has its app make one download and one conversation with a replica, that last until both are told to finish. */
  async hold(replica: RolledPod): Promise<void> {
    await this.#ask(`hold ${replica.pod.name}`, { held: replica.pod.name });
  }

  /** Has its app begin so many more conversations with it at once, at its own address, where nobody else is. */
  async crowd({ pod }: RolledPod, size: number): Promise<void> {
    await this.#ask(`crowd ${pod.name} ${pod.ipv4} ${size}`, { crowded: pod.name });
  }

  /** Has its sidecar do nothing until it is thawed, as on a node that is too busy. */
  freeze(): void {
    this.sidecar.child.kill('SIGSTOP');
  }

  thaw(): void {
    this.sidecar.child.kill('SIGCONT');
  }

  /** Connections that the kernel has accepted for the sidecar's inbound port, and the sidecar not yet. */
  async queued(): Promise<number> {
    const listening = await this.pod.must([
      'ss',
      '--no-header',
      '--listening',
      '--tcp',
      'sport',
      '=',
      ':15006',
    ]);
    const sizes = listening.split('\n').map((line) => Number(line.split(/\s+/)[1] ?? 0));
    return sizes.reduce((sum, size) => sum + size, 0);
  }

  /** Waits until more of each kind of its calls went well. */
  async goesOn(): Promise<void> {
    await this.#ask('more', { more: true });
  }

  /** Has the long calls that it serves come to their end, and waits for that of those that it makes. */
  async finish(): Promise<void> {
    await this.#ask('finish', { finished: true });
  }

  /** How many of its long calls ended whole. */
  get whole(): number {
    return this.#said.matching({ whole: /./ }).length;
  }

  /** The kubelet's signal, to both containers at once. */
  terminate(): void {
    this.#app.kill('SIGTERM');
    this.sidecar.child.kill('SIGTERM');
  }

  /** Ends the app, which had its time. @returns the error of its last call; '': it was answered */
  async leave(): Promise<string> {
    const { error } = await this.#ask('leave', { left: true });
    await within(`the app of ${this.pod.name} to end`, this.#exited);
    return String(error);
  }

  async #ask(command: string, answer: Match): Promise<Line> {
    const { mark } = this.#said;
    this.#app.stdin?.write(`${command}\n`);
    return this.#said.next(answer, mark).catch((error: Error) => {
      throw new Error(
        `${command} in ${this.pod.name}: ${error.message}; failures: ${this.failures.join('; ')}`,
      );
    });
  }

  async #kill(): Promise<void> {
    this.#app.kill('SIGKILL');
    await this.#exited;
  }
}
