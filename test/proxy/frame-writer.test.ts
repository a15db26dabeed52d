/** In which order frames leave. */
import t from 'tap';
import { frame, pingFrame } from '../../proxy/http2/frame.ts';
import { FrameWriter, type Sender } from '../../proxy/http2/frame-writer.ts';
import { HeldWire } from './hbone-wire.ts';
import { TYPE } from './http2-frames.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A stream that has five octets to send. */
function sender(streamId: number): Sender {
  return {
    streamId,
    sendable: 5,
    endsBehind: false,
    queued: false,
    next: null,
    taken: false,
    nextTaken: null,
    copyOut(to, at, octets) {
      to.fill('x', at, at + octets);
      Object.assign(this, { sendable: 0 });
    },
    endSent: () => {},
    sent: () => {},
  };
}

/** Types of the frames that were written on that stream. */
function typesOn({ writes }: HeldWire, stream: number): number[] {
  const types: number[] = [];
  const bytes = Buffer.concat(writes);
  for (let at = 0; at < bytes.length; at += 9 + bytes.readUIntBE(at, 3))
    if (bytes.readUInt32BE(at + 5) === stream) types.push(bytes[at + 3] ?? -1);
  return types;
}

t.test('an answer goes before what its stream carries, however much else waits', async (t) => {
  // More than one write takes: where it is full for an answer, there may be room for five octets.
  for (let pings = 8_425; pings < 8_440; pings++) {
    const wire = new HeldWire();
    const writer = new FrameWriter(wire, () => {});
    for (let i = 0; i < pings; i++) writer.control(pingFrame(Buffer.alloc(8), true));
    writer.control(frame(TYPE.HEADERS, 4, 1, 60));
    writer.ready(sender(1));
    await turn();
    while (wire.release()) await turn();
    const types = typesOn(wire, 1);
    if (types.join() !== '1,0') t.same(types, [TYPE.HEADERS, TYPE.DATA], `behind ${pings} PINGs`);
  }
  t.end();
});
