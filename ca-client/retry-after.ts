/** How long a gRPC answer asks its client to wait: three ways in which servers and proxies say it. */
import { WireType } from '@bufbuild/protobuf/wire';
import type { Metadata } from '@grpc/grpc-js';
import { httpDate } from './clock-skew.ts';
import { readFields } from './protobuf.ts';

/** A mistake, or malice, on the other side must not keep us from asking until our certificate is over. */
const MAX_RETRY_AFTER_MS = 300_000;

/**
 * Looks for `grpc-retry-pushback-ms` (gRPC proposal A6), `google.rpc.RetryInfo` in `grpc-status-details-bin`
 * (google/rpc/error_details.proto), and `retry-after` (RFC 9110 §10.2.3), which proxies send; the first found counts.
 * @param answers metadata of headers and of trailers.
 * @returns milliseconds from 0 to five minutes; null where none of them is there or can be read.
 */
export function retryAfterMs(answers: readonly Metadata[], now: number): number | null {
  const values = (name: string) => answers.flatMap((metadata) => metadata.get(name));
  const found =
    pushback(values('grpc-retry-pushback-ms')) ??
    retryInfo(values('grpc-status-details-bin')) ??
    retryAfter(values('retry-after'), now);
  return found === null ? null : Math.min(MAX_RETRY_AFTER_MS, Math.max(0, found));
}

/** "If the value for pushback is negative or unparseable, then it will be seen as … not to retry at all" (A6). */
function pushback([value]: readonly (string | Buffer)[]): number | null {
  if (value === undefined) return null;
  const text = value.toString();
  return /^\d{1,10}$/.test(text) ? Number(text) : MAX_RETRY_AFTER_MS;
}

function retryAfter([value]: readonly (string | Buffer)[], now: number): number | null {
  const text = value?.toString() ?? '';
  if (/^\d{1,10}$/.test(text)) return Number(text) * 1000;
  const at = httpDate(text);
  return at === null ? null : at - now;
}

/** google.rpc.Status: details = 3, each an Any (type_url = 1, value = 2); RetryInfo: retry_delay = 1, a Duration. */
function retryInfo([value]: readonly (string | Buffer)[]): number | null {
  if (!Buffer.isBuffer(value)) return null;
  try {
    let delay: number | null = null;
    forEachMessage(value, 3, (any) => {
      let type = '';
      let content: Uint8Array = new Uint8Array();
      readFields(any, (reader, field, wireType) => {
        if (wireType !== WireType.LengthDelimited) return false;
        if (field === 1) type = reader.string();
        else if (field === 2) content = reader.bytes();
        else return false;
        return true;
      });
      if (!type.endsWith('/google.rpc.RetryInfo')) return;
      forEachMessage(content, 1, (duration) => {
        delay ??= durationMs(duration);
      });
    });
    return delay;
  } catch {
    return null; // details that cannot be read tell nothing
  }
}

/** google.protobuf.Duration: seconds = 1 (int64), nanos = 2 (int32). */
function durationMs(bytes: Uint8Array): number {
  let ms = 0;
  readFields(bytes, (reader, field, wireType) => {
    if (wireType !== WireType.Varint) return false;
    if (field === 1) ms += Number(reader.int64()) * 1000;
    else if (field === 2) ms += reader.int32() / 1e6;
    else return false;
    return true;
  });
  return ms;
}

function forEachMessage(bytes: Uint8Array, number: number, each: (message: Uint8Array) => void): void {
  readFields(bytes, (reader, field, wireType) => {
    if (field !== number || wireType !== WireType.LengthDelimited) return false;
    each(reader.bytes());
    return true;
  });
}
