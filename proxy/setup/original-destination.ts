/** Where a connection that rules of capture redirected to us was going: the kernel is asked, by way of koffi. */
import type { Socket } from 'node:net';

/** An address as `net.Socket` writes them, IPv4 never mapped, and a port. */
export interface OriginalDestination {
  readonly address: string;
  readonly port: number;
}

/**
 * Asks where an accepted connection was going.
 * @returns null where the kernel knows of no redirection: nothing on this machine translates addresses, or not this one's
 * @throws Error naming what the kernel said: a socket that is gone, an option it does not have
 */
export type AskOriginalDestination = (socket: Socket) => OriginalDestination | null;

/** From linux/in.h, netinet/in.h, linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h; the same on every machine. */
const SOL_IP = 0;
const SOL_IPV6 = 41;
const SO_ORIGINAL_DST = 80;
const IP6T_SO_ORIGINAL_DST = 80;
const AF_INET = 2;
const AF_INET6 = 10;
/** Of sockaddr_in6, the longer of both. */
const SOCKADDR_BYTES = 28;
/** INET6_ADDRSTRLEN. */
const ADDRESS_TEXT_BYTES = 46;

/**
 * Makes the function that asks. It takes some 25 ms, the loading of a native library, which nobody pays who captures
 * nothing; a call of what it makes takes a microsecond.
 * @throws Error where the library cannot be loaded on this machine
 */
export async function loadOriginalDestination(): Promise<AskOriginalDestination> {
  const { default: koffi } = await import('koffi');
  // The program itself: libc, of whichever make, is in it.
  const libc = koffi.load(null);
  const getsockopt = libc.func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)');
  const inetNtop = libc.func('const char *inet_ntop(int, const uint8_t *, _Out_ uint8_t *, uint32_t)');
  const { errno } = koffi.os;
  // One thread, one call at a time: these are read before anybody asks again.
  const found = Buffer.alloc(SOCKADDR_BYTES);
  const ipv4 = found.subarray(4, 8);
  const ipv6 = found.subarray(8, 24);
  const length = new Uint32Array(1);
  const text = Buffer.alloc(ADDRESS_TEXT_BYTES);

  return (socket) => {
    const fd = descriptorOf(socket);
    if (fd === null) throw new Error('original destination: the socket is closed');
    // A dual-stack listener's IPv4 connections are IPv6 sockets, of which the kernel tells by IPv4's option.
    const isIpv6 = socket.remoteFamily === 'IPv6' && !(socket.remoteAddress ?? '').startsWith('::ffff:');
    length[0] = SOCKADDR_BYTES;
    const failed = isIpv6
      ? getsockopt(fd, SOL_IPV6, IP6T_SO_ORIGINAL_DST, found, length)
      : getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, found, length);
    if (failed !== 0) {
      const code = koffi.errno();
      // Not in the table of translations; or there is no such table, for no rule was ever set.
      if (code === errno.ENOENT || code === errno.ENOPROTOOPT) return null;
      throw new Error(`original destination: ${nameOf(errno, code)}`);
    }
    const address = inetNtop(isIpv6 ? AF_INET6 : AF_INET, isIpv6 ? ipv6 : ipv4, text, ADDRESS_TEXT_BYTES);
    return { address, port: found.readUInt16BE(2) };
  };
}

/** Node keeps it under a name of its own; hidden here, null where it is gone. */
function descriptorOf(socket: Socket): number | null {
  const handle: unknown = Reflect.get(socket, '_handle');
  if (handle === null || typeof handle !== 'object') return null;
  const fd: unknown = Reflect.get(handle, 'fd');
  return typeof fd === 'number' && fd >= 0 ? fd : null;
}

function nameOf(errno: Readonly<Record<string, number>>, code: number): string {
  return Object.keys(errno).find((name) => errno[name] === code) ?? `errno ${code}`;
}
