/**
 * Sockets bound to an address and to no port yet, made by way of koffi. libuv binds address and port at once, and the
 * kernel then looks for a port that is free whoever is called: behind some 28,000 connections that have just ended it
 * finds none, or looks for long. Left to connect, it takes any port that is not in use between these two addresses.
 */
import { isIPv6 } from 'node:net';

/**
 * @param from an address of this machine
 * @returns the descriptor of a TCP socket that is bound to it; null where the kernel makes none
 */
export type BindFrom = (from: string) => number | null;

/** From linux/in.h and bits/socket.h. */
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_IP = 0;
const IP_BIND_ADDRESS_NO_PORT = 24;
const SOCKADDR_IN_BYTES = 16;
const SOCKADDR_IN6_BYTES = 28;

/** @throws Error where the library cannot be loaded on this machine */
export async function loadBindFrom(): Promise<BindFrom> {
  const { default: koffi } = await import('koffi');
  const libc = koffi.load(null);
  const socket = libc.func('int socket(int, int, int)');
  const setsockopt = libc.func('int setsockopt(int, int, int, const uint32_t *, uint32_t)');
  const bind = libc.func('int bind(int, const uint8_t *, uint32_t)');
  const close = libc.func('int close(int)');
  const inetPton = libc.func('int inet_pton(int, const char *, _Out_ uint8_t *)');
  const yes = new Uint32Array([1]);
  /** A few, and always the same. */
  const known = new Map<string, Buffer>();

  function sockaddrOf(from: string): Buffer {
    const found = known.get(from);
    if (found !== undefined) return found;
    const family = isIPv6(from) ? AF_INET6 : AF_INET;
    const made = Buffer.alloc(family === AF_INET6 ? SOCKADDR_IN6_BYTES : SOCKADDR_IN_BYTES);
    inetPton(family, from, family === AF_INET6 ? made.subarray(8, 24) : made.subarray(4, 8));
    new Uint16Array(made.buffer, made.byteOffset, 1)[0] = family;
    known.set(from, made);
    return made;
  }

  return (from) => {
    const address = sockaddrOf(from);
    const family = address.length === SOCKADDR_IN6_BYTES ? AF_INET6 : AF_INET;
    const fd: number = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return null;
    // A kernel that does not know it binds a port: no worse than libuv.
    setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, yes, yes.byteLength);
    if (bind(fd, address, address.length) === 0) return fd;
    close(fd);
    return null;
  };
}
