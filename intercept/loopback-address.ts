/** `::6/128` on the loopback interface: connections to the app come from there, and no rule sends them round again. */
import { readFileSync } from 'node:fs';
import type { Step } from './tools.ts';

/** As the kernel lists it in /proc/net/if_inet6. */
const LISTED = '00000000000000000000000000000006';

// IPv4 needs no such thing: all of 127.0.0.0/8 is on lo.
export const loopbackAddress = '::6/128';
export const addStep: Step = {
  tool: 'ip',
  args: ['-6', 'address', 'add', loopbackAddress, 'dev', 'lo'],
  input: '',
};
export const removeStep: Step = {
  tool: 'ip',
  args: ['-6', 'address', 'delete', loopbackAddress, 'dev', 'lo'],
  input: '',
};

/**
 * - `present`: it is there
 * - `absent`: it can be added
 * - `disabled`: a sysctl says that lo has no IPv6, and then nothing needs the address
 * - `unsupported`: the kernel has no IPv6 at all
 */
export type AddressState = 'present' | 'absent' | 'disabled' | 'unsupported';

/** Looks; that needs no privilege. */
export function addressState(): AddressState {
  const listed = readOrNull('/proc/net/if_inet6');
  if (listed === null) return 'unsupported';
  if (listed.split('\n').some((line) => line.startsWith(LISTED) && line.endsWith(' lo'))) return 'present';
  return readOrNull('/proc/sys/net/ipv6/conf/lo/disable_ipv6')?.trim() === '1' ? 'disabled' : 'absent';
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
