/** Whether anyone but us has a TCP socket in our network namespace: under capture that is the app, for it is a pod's own. */
import { readdir, readFile, readlink } from 'node:fs/promises';

/** Where a line of `/proc/net/tcp` has its own address and its inode, proc(5). */
const LOCAL_ADDRESS = 1;
const INODE = 9;
/** 127.0.0.11, as this machine writes it: Docker's own name server listens there in a container's network, also on TCP. */
const DOCKER_DNS = Buffer.from([127, 0, 0, 11]).readUInt32LE().toString(16).toUpperCase().padStart(8, '0');

export class AppSockets {
  readonly #proc: string;

  /** @param proc where procfs is */
  constructor(proc = '/proc') {
    this.#proc = proc;
  }

  /**
   * True while a process other than ours listens or has a connection. The kubelet's ends are in another namespace, and
   * ours are told by the socket, not by the user: an app that runs as our user is seen all the same.
   */
  async sees(): Promise<boolean> {
    const held = [...(await this.#held('tcp')), ...(await this.#held('tcp6'))];
    if (held.length === 0) return false;
    const ours = await this.#ours();
    return held.some((inode) => !ours.has(inode));
  }

  /** Inodes of the sockets that some process holds. */
  async #held(table: 'tcp' | 'tcp6'): Promise<string[]> {
    const text = await readFile(`${this.#proc}/self/net/${table}`, 'latin1').catch((error: Error) => {
      // A kernel without IPv6 has no such table.
      if (table === 'tcp6') return '';
      throw error;
    });
    return (
      text
        .split('\n')
        .map((line) => line.trim().split(/\s+/))
        .filter((fields) => !fields[LOCAL_ADDRESS]?.startsWith(`${DOCKER_DNS}:`))
        .map((fields) => fields[INODE] ?? '')
        // 0: no process holds the socket (TIME_WAIT, half-made ones).
        .filter((inode) => /^[1-9][0-9]*$/.test(inode))
    );
  }

  async #ours(): Promise<Set<string>> {
    const folder = `${this.#proc}/self/fd`;
    const ours = new Set<string>();
    for (const fd of await readdir(folder)) {
      // It may be closed meanwhile.
      const target = await readlink(`${folder}/${fd}`).catch(() => '');
      const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
      if (inode !== undefined) ours.add(inode);
    }
    return ours;
  }
}
