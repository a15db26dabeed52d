/** What Linux tells of processes and of bytes under way in the kernel; null where there is no /proc. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { Socket } from 'node:net';

export interface Proc {
  /** Megabytes resident. */
  rss(): number;
  /** Open descriptors. */
  fds(): number;
}

/** @returns null where the system does not tell */
export function procOf(pid: number): Proc | null {
  const dir = `/proc/${pid}`;
  if (!existsSync(`${dir}/fd`)) return null;
  return {
    rss: () =>
      Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`${dir}/status`, 'utf8'))?.[1]) / 1024),
    fds: () => readdirSync(`${dir}/fd`).length,
  };
}

const TCP_TABLE = '/proc/net/tcp';
export const hasTcpTable = existsSync(TCP_TABLE);
/** `TCP_LISTEN`: its queues count connections, not bytes. */
const LISTENS = '0A';

/**
 * Bytes that wait in the kernel, sent and not yet taken in or arrived and not yet read, of all IPv4 connections of
 * this machine with one of these ports at either end.
 */
export function bytesInKernel(ports: readonly number[]): number {
  const chosen = new Set(ports);
  let sum = 0;
  for (const line of readFileSync(TCP_TABLE, 'latin1').split('\n').slice(1)) {
    const [, local = '', remote = '', state, queues = ''] = line.trim().split(/\s+/);
    if (state === LISTENS || !(chosen.has(portOf(local)) || chosen.has(portOf(remote)))) continue;
    const [sending = '0', receiving = '0'] = queues.split(':');
    sum += Number.parseInt(sending, 16) + Number.parseInt(receiving, 16);
  }
  return sum;
}

function portOf(address: string): number {
  return Number.parseInt(address.slice(address.indexOf(':') + 1), 16);
}

/** Bytes that the kernel took from a socket's writer; of the write under way it may have taken more. */
export function written(socket: Socket): number {
  return socket.bytesWritten - socket.writableLength;
}
