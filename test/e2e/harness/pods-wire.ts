/** All that crosses the bridge between pods, by tcpdump, and what tshark makes of it: conversations, and whether they are TLS. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Test } from 'tap';
import { tempDir } from './mesh.ts';
import type { PodNetwork } from './pods.ts';
import { until, within } from './wait.ts';

/** One TCP connection as the wire had it. */
export interface Conversation {
  readonly client: string;
  readonly server: string;
  readonly port: number;
  readonly toServer: Buffer;
  readonly toClient: Buffer;
  readonly reset: boolean;
  /** TLS handshake messages that tshark saw in the clear: 1 a ClientHello, 2 a ServerHello (RFC 8446 §4). */
  readonly handshakes: ReadonlySet<number>;
}

export interface Seen {
  readonly conversations: readonly Conversation[];
  /** True where these bytes crossed the wire as they are, be it in one packet or over several. */
  contains(text: string): boolean;
}

export interface Wire {
  /** Everything that has crossed the bridge since it was opened. */
  stop(): Promise<Seen>;
}

/** Says a word to all on the bridge, by UDP, at a port where nobody listens. */
const BROADCAST = `
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"br0")
out.sendto(sys.argv[1].encode(), ("255.255.255.255", 9))
`;

/** Starts to listen on the bridge, packet by packet. */
export async function openWire(t: Test, { bridge }: PodNetwork): Promise<Wire> {
  const dir = tempDir(t);
  chmodSync(dir, 0o755);
  const file = join(dir, 'wire.pcap');
  const flags = ['-i', 'br0', '-w', file, '-U', '--immediate-mode', '-s', '0', '-B', '65536', '-Z', 'root'];
  const child = bridge.spawn(['tcpdump', ...flags], {}, ['ignore', 'ignore', 'pipe']);
  t.teardown(() => child.kill('SIGKILL'));
  let said = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await until('tcpdump to listen', () => said.includes('listening on'));
  return {
    async stop() {
      // Told to end, tcpdump leaves what it has not read yet. Packets come in order: once it has this one, it has all.
      const last = `last-${randomBytes(12).toString('hex')}`;
      await bridge.must(['python3', '-c', BROADCAST, last]);
      await until('tcpdump to have written all', () => readFileSync(file).includes(last));
      const ended = once(child, 'close');
      child.kill('SIGINT');
      await within('tcpdump to end', ended);
      if (!/\b0 packets dropped by kernel/.test(said)) throw new Error(`tcpdump missed packets: ${said}`);
      return read(file);
    },
  };
}

const FIELDS = [
  'tcp.stream',
  'ip.src',
  'ipv6.src',
  'ip.dst',
  'ipv6.dst',
  'tcp.dstport',
  'tcp.flags.syn',
  'tcp.flags.ack',
  'tcp.flags.reset',
  'tcp.seq',
  'tcp.payload',
  'tls.handshake.type',
] as const;
type Field = (typeof FIELDS)[number];
type Frame = Readonly<Record<Field, string>>;

async function read(file: string): Promise<Seen> {
  // All ports may be TLS: whatever is not, tshark does not take for it.
  const flags = [
    '-r',
    file,
    '-n',
    '-Y',
    'tcp',
    '-d',
    'tcp.port==1-65535,tls',
    '-T',
    'fields',
    '-E',
    'separator=/t',
  ];
  const fields = FIELDS.flatMap((field) => ['-e', field]);
  const { stdout } = await promisify(execFile)('tshark', [...flags, ...fields], {
    maxBuffer: 256 * 1024 * 1024,
  });
  const streams = new Map<string, Frame[]>();
  for (const line of stdout.split('\n').filter((line) => line !== '')) {
    const values = line.split('\t');
    const frame = Object.fromEntries(FIELDS.map((field, i) => [field, values[i] ?? ''])) as Frame;
    const frames = streams.get(frame['tcp.stream']) ?? [];
    frames.push(frame);
    streams.set(frame['tcp.stream'], frames);
  }
  const conversations = [...streams.values()].map(conversation);
  const captured = readFileSync(file);
  const parts = [captured, ...conversations.flatMap(({ toServer, toClient }) => [toServer, toClient])];
  return { conversations, contains: (text) => parts.some((part) => part.includes(text)) };
}

const isSet = (flag: string): boolean => flag === '1' || flag === 'True';

function conversation(frames: readonly Frame[]): Conversation {
  const open = frames.find((frame) => isSet(frame['tcp.flags.syn']) && !isSet(frame['tcp.flags.ack']));
  if (open === undefined) throw new Error(`a conversation without a beginning: ${JSON.stringify(frames[0])}`);
  const client = sourceOf(open);
  const theirs = frames.filter(
    (frame) => sourceOf(frame) !== client || frame['tcp.dstport'] !== open['tcp.dstport'],
  );
  const ours = frames.filter((frame) => !theirs.includes(frame));
  return {
    client,
    server: open['ip.dst'] || open['ipv6.dst'],
    port: Number(open['tcp.dstport']),
    toServer: bytesOf(ours),
    toClient: bytesOf(theirs),
    reset: frames.some((frame) => isSet(frame['tcp.flags.reset'])),
    handshakes: new Set(
      frames.flatMap((frame) => frame['tls.handshake.type'].split(',').filter(Boolean).map(Number)),
    ),
  };
}

function sourceOf(frame: Frame): string {
  return frame['ip.src'] || frame['ipv6.src'];
}

/** The bytes of one way, each at its place: what was sent twice is there once. */
function bytesOf(frames: readonly Frame[]): Buffer {
  const parts = frames
    .filter((frame) => frame['tcp.payload'] !== '')
    // The first byte after the SYN has the relative number 1.
    .map((frame) => ({ at: Number(frame['tcp.seq']) - 1, bytes: Buffer.from(frame['tcp.payload'], 'hex') }));
  const length = Math.max(0, ...parts.map(({ at, bytes }) => at + bytes.length));
  const all = Buffer.alloc(length);
  for (const { at, bytes } of parts) bytes.copy(all, at);
  return all;
}

const HANDSHAKE = 22;
const APPLICATION_DATA = 23;
/** change_cipher_spec, alert, handshake, application_data (RFC 8446 §5.1). */
const RECORD_TYPES = new Set([20, 21, HANDSHAKE, APPLICATION_DATA]);
/** 2^14 and what encryption may add to it (RFC 8446 §5.2). */
const MAX_RECORD = 2 ** 14 + 256;

/**
 * Why a conversation is not TLS from its first byte to its last; null: it is. One that was reset may lack the end of a
 * record.
 */
export function notTls({ toServer, toClient, reset, handshakes }: Conversation): string | null {
  if (toServer.length === 0 && toClient.length === 0) return null;
  for (const [who, bytes] of [
    ['the client', toServer],
    ['the server', toClient],
  ] as const) {
    const fault = faultOfRecords(bytes, reset);
    if (fault !== null) return `${who}: ${fault}`;
  }
  if (!handshakes.has(1)) return 'tshark sees no ClientHello';
  if (toClient.readUInt8(0) === HANDSHAKE && !handshakes.has(2)) return 'tshark sees no ServerHello';
  return null;
}

function faultOfRecords(bytes: Buffer, mayLackItsEnd: boolean): string | null {
  for (let at = 0; at < bytes.length; ) {
    const left = bytes.length - at;
    if (left < 5) return mayLackItsEnd ? null : `${left} bytes after the last record`;
    const type = bytes.readUInt8(at);
    const length = bytes.readUInt16BE(at + 3);
    const isRecord = RECORD_TYPES.has(type) && bytes.readUInt8(at + 1) === 3 && length <= MAX_RECORD;
    if (!isRecord) {
      return `at byte ${at} no TLS record but ${JSON.stringify(bytes.toString('latin1', at, at + 60))}`;
    }
    if (left < 5 + length && !mayLackItsEnd) return `half a record at byte ${at}`;
    at += 5 + length;
  }
  return null;
}

/** Those between these addresses that carried any byte, by the server's port. */
export function between(
  { conversations }: Seen,
  clients: readonly string[],
  servers: readonly string[],
): readonly Conversation[] {
  return conversations.filter(
    ({ client, server, toServer, toClient }) =>
      clients.includes(client) && servers.includes(server) && toServer.length + toClient.length > 0,
  );
}
