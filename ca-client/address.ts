/** Takes `HOST:PORT` apart, IPv6 in brackets. */
import { isIP } from 'node:net';

export interface HostPort {
  /** A name or an address; IPv6 without its brackets. */
  readonly host: string;
  readonly port: number;
}

const NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;

/** @returns null where the text is not `HOST:PORT` or `[IPV6]:PORT` with a port from 0 to 65535. */
export function parseHostPort(text: string): HostPort | null {
  const parts = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const [, ipv6, host = ipv6 ?? '', port] = parts ?? [];
  if (Number(port) > 65_535 || parts === null) return null;
  const good = ipv6 === undefined ? isIP(host) === 4 || NAME.test(host) : isIP(host) === 6;
  return good ? { host, port: Number(port) } : null;
}

/** True for this machine's own addresses and its name for itself. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}
