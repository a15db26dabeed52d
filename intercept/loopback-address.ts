/** `::6/128` on the loopback interface: connections to the app come from there, and no rule sends them round again. */
import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { appSource } from '../mesh/app-source.ts';
import type { Step } from './tools.ts';

/** As the kernel lists it in /proc/net/if_inet6. */
const LISTED = '00000000000000000000000000000006';

// IPv4 needs no such thing: all of 127.0.0.0/8 is on lo.
export const loopbackAddress = `${appSource[6]}/128`;
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

/** On lo alone, and nobody else's way in: `::1`, and ours. */
const OF_LOOPBACK = new Set(['00000000000000000000000000000001', LISTED]);

/**
 * How neighbours can speak IPv6 with this network namespace, or the app with them; null: they cannot.
 * A link-local address is one too, and an interface that has none yet but may is as good as one that has.
 */
export function ipv6Way(): string | null {
  for (const line of readOrNull('/proc/net/if_inet6')?.trim().split('\n') ?? []) {
    const [address = '', , , , , name = ''] = line.trim().split(/\s+/);
    if (address !== '' && (name !== 'lo' || !OF_LOOPBACK.has(address))) {
      return `${name} has the address ${address.replace(/(....)(?=.)/g, '$1:')}`;
    }
  }
  const open = Object.keys(networkInterfaces()).find(
    (name) => name !== 'lo' && readOrNull(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`)?.trim() === '0',
  );
  return open === undefined ? null : `${open} may get an address (net.ipv6.conf.${open}.disable_ipv6 is 0)`;
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
