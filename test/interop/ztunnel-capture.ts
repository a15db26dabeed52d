/** Everything that crosses the wire to a namespace, by tcpdump, and what a test wants to know of it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { tempDir } from '../e2e/harness/mesh.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { type Namespace, works } from './ztunnel-net.ts';

export interface Captured {
  /** Of TCP payload, by the lower of a segment's two ports: the server's, as the kernel's own are high. */
  readonly bytes: ReadonlyMap<number, number>;
  /** True where these bytes are in one packet. */
  contains(text: string): boolean;
}

export interface Wire {
  stop(): Promise<Captured>;
}

/** Starts to capture; null where there is no tcpdump. */
export async function captureWire(t: Test, { device }: Namespace): Promise<Wire | null> {
  if (!works('tcpdump', ['--version'])) return null;
  const file = join(tempDir(t), 'wire.pcap');
  // As root, and packet by packet: whatever has crossed is in the file.
  const args = ['-i', device, '-w', file, '-U', '-s', '0', '-B', '65536', '-Z', 'root', 'tcp'];
  const child = spawn('tcpdump', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await until('tcpdump to listen', () => said.includes('listening on'));
  return {
    async stop() {
      const ended = once(child, 'close');
      child.kill('SIGINT');
      await within('tcpdump to end', ended);
      if (!/\b0 packets dropped by kernel/.test(said)) throw new Error(`tcpdump missed packets: ${said}`);
      const captured = readFileSync(file);
      return { bytes: payloads(captured), contains: (text) => captured.includes(text) };
    },
  };
}

const FILE_HEADER = 24;
const PACKET_HEADER = 16;
const ETHERNET_HEADER = 14;

/** Reads a capture of Ethernet frames with IPv4 and TCP in them (pcap's own format, this machine's byte order). */
function payloads(file: Buffer): ReadonlyMap<number, number> {
  const bytes = new Map<number, number>();
  for (let at = FILE_HEADER; at + PACKET_HEADER <= file.length; ) {
    const captured = file.readUInt32LE(at + 8);
    const ip = at + PACKET_HEADER + ETHERNET_HEADER;
    at += PACKET_HEADER + captured;
    if (file.readUInt8(ip) >> 4 !== 4) continue;
    const tcp = ip + (file.readUInt8(ip) & 15) * 4;
    const payload = ip + file.readUInt16BE(ip + 2) - tcp - (file.readUInt8(tcp + 12) >> 4) * 4;
    const port = Math.min(file.readUInt16BE(tcp), file.readUInt16BE(tcp + 2));
    if (payload > 0) bytes.set(port, (bytes.get(port) ?? 0) + payload);
  }
  return bytes;
}
