/** Gives up what rights the daemon was started with: it needs none. */
import { readFileSync } from 'node:fs';

/** From linux/prctl.h and linux/capability.h; the same on every machine. */
const PR_CAPBSET_DROP = 24;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
const CAPABILITY_VERSION_3 = 0x20080522;
const CAP_SETPCAP = 8n;
const MOST_CAPABILITIES = 64n;

/** What /proc tells of the main thread, a bit each capability. */
interface Rights {
  /** Those it has, may take, or would pass on. */
  readonly held: bigint;
  readonly effective: bigint;
  /** What a program started from here could get at most. */
  readonly bounding: bigint;
  readonly noNewPrivileges: boolean;
}

/**
 * Drops every capability for good: of all threads, and whatever is started from here. To be called at the very start.
 *
 * The kernel keeps capabilities by thread, and Node has seven before its first line of ours. So this thread drops its
 * own and sets no_new_privs, and then this process executes itself: the others are gone, and the new ones have what
 * this one had. Process id and standard streams stay. Root is no exception: with no_new_privs, execve(2) gives it
 * nothing that it had not before (capabilities(7)). Whoever has no capability pays for a look at /proc.
 * @throws Error that says why they could not be dropped: better not to run than to run with them
 */
export async function dropPrivileges(): Promise<void> {
  if (process.platform !== 'linux') return;
  const before = rights();
  if (before.held === 0n) return;
  await dropOwn(before);
  const after = rights();
  if (after.held !== 0n || !after.noNewPrivileges || process.execve === undefined) {
    throw new Error(`capabilities are left (${after.held.toString(16)}), ${INSTEAD}`);
  }
  process.execve(process.execPath, [process.argv0, ...process.execArgv, ...process.argv.slice(1)]);
}

const INSTEAD =
  'so start it without any: as another user than root, in Kubernetes with capabilities: { drop: [ALL] }';

/** Of this thread. */
async function dropOwn({ effective, bounding }: Rights): Promise<void> {
  try {
    const { default: koffi } = await import('koffi');
    // The program itself: libc, of whichever make, is in it.
    const libc = koffi.load(null);
    const prctl = libc.func('int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)');
    const capset = libc.func('int capset(const uint32_t *, const uint32_t *)');
    const mayBound = has(effective, CAP_SETPCAP);
    for (let number = 0n; number < MOST_CAPABILITIES; number++) {
      if (mayBound && has(bounding, number)) prctl(PR_CAPBSET_DROP, Number(number), 0, 0, 0);
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    // Effective, permitted and inheritable, twice 32 bits each.
    capset(new Uint32Array([CAPABILITY_VERSION_3, 0]), new Uint32Array(6));
  } catch (error) {
    throw new Error(`capabilities cannot be dropped: ${(error as Error).message}, ${INSTEAD}`);
  }
}

function has(set: bigint, number: bigint): boolean {
  return ((set >> number) & 1n) === 1n;
}

function rights(): Rights {
  const status = readFileSync('/proc/self/status', 'utf8');
  const set = (name: string) =>
    BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)$`, 'm').exec(status)?.[1] ?? '0'}`);
  const effective = set('CapEff');
  return {
    held: effective | set('CapPrm') | set('CapInh') | set('CapAmb'),
    effective,
    bounding: set('CapBnd'),
    noNewPrivileges: /^NoNewPrivs:\s*1$/m.test(status),
  };
}
