/** Goes through the fields of a protobuf message: what the hand-written codecs of this folder share. */
import { BinaryReader, type WireType } from '@bufbuild/protobuf/wire';

/**
 * Hands each field to `read`, which answers false for those it does not know; they are skipped, as protobuf demands.
 * @throws Error on bytes that are no protobuf message.
 */
export function readFields(
  bytes: Uint8Array,
  read: (reader: BinaryReader, field: number, wireType: WireType) => boolean,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (!read(reader, field, wireType)) reader.skip(wireType, field);
  }
  // the reader itself does not mind a last field that runs past the end
  if (reader.pos !== reader.len) throw new Error('message is cut off');
}
