/** A real ClientHello as bytes, and ways to send one that no TLS library would. */
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { type ConnectionOptions, connect } from 'node:tls';
import type { Test } from 'tap';
import { listen } from './apps.ts';

/** The first flight of Node's TLS client with these options. */
export async function clientHello(t: Test, options: ConnectionOptions = {}): Promise<Buffer> {
  let caught = (_bytes: Buffer): void => {};
  const bytes = new Promise<Buffer>((resolve) => {
    caught = resolve;
  });
  const app = await listen(
    t,
    createServer((socket) => {
      let all = Buffer.alloc(0);
      socket.on('error', () => {});
      socket.on('data', (chunk: Buffer) => {
        all = Buffer.concat([all, chunk]);
        if (all.length >= 5 && all.length >= 5 + all.readUInt16BE(3)) {
          caught(all);
          socket.destroy();
        }
      });
    }),
  );
  const tls = connect({ port: app.port, host: '127.0.0.1', rejectUnauthorized: false, ...options });
  tls.on('error', () => {});
  return bytes;
}

/** A relay to `port` that passes on what the client says byte by byte; its own port. */
export async function byteByByte(t: Test, port: number): Promise<number> {
  const { port: own } = await listen(
    t,
    createServer((downstream) => {
      const upstream = connectTcp({ port, host: '127.0.0.1', noDelay: true });
      for (const socket of [downstream, upstream]) socket.on('error', () => {});
      upstream.on('data', (chunk: Buffer) => downstream.write(chunk));
      upstream.on('close', () => downstream.destroy());
      downstream.on('close', () => upstream.destroy());
      void trickle(downstream, upstream);
    }),
  );
  return own;
}

async function trickle(from: Socket, to: Socket): Promise<void> {
  try {
    for await (const chunk of from) {
      for (const byte of chunk as Buffer) {
        to.write(Buffer.of(byte));
        // One write a turn: the kernel hands them on one by one.
        await setImmediate();
      }
    }
  } catch {
    // The client left.
  }
}
