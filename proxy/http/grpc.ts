/** What makes a request a gRPC call, how its status is read, and how one is refused. */
import type { Field } from './head.ts';

/** Envoy's `hasGrpcContentType`: gRPC-Web is something else. */
const GRPC = /^application\/grpc(?:$|[+;])/i;
const STATUS = /^[0-9]{1,9}$/;
/** Envoy's bound on what it puts into `grpc-message`. */
const MAX_MESSAGE = 4_096;
// biome-ignore lint/suspicious/noControlCharactersInRegex: exactly what the encoding leaves as it is is printable ASCII
const ENCODED = /[\0-\x1f%\x7f-\xff]/g;

/** True where that Content-Type is a gRPC call's. */
export function isGrpcType(contentType: string): boolean {
  return contentType !== '' && GRPC.test(contentType);
}

/** True where the request's Content-Type says that it is a gRPC call. */
export function isGrpc(fields: readonly Field[]): boolean {
  for (const { key, value } of fields) if (key === 'content-type') return isGrpcType(value);
  return false;
}

/** The status that an answer's head or trailers tell; null where they tell none. */
export function grpcStatusOf(fields: readonly Field[]): number | null {
  for (const { key, value } of fields)
    if (key === 'grpc-status') return STATUS.test(value) ? Number(value) : null;
  return null;
}

/** gRPC's status for an HTTP status (the gRPC project's `http-grpc-status-mapping`, as Envoy's local replies use it). */
export function grpcStatusFor(status: number): number {
  return STATUSES.get(status) ?? 2;
}

const STATUSES: ReadonlyMap<number, number> = new Map([
  [400, 13],
  [401, 16],
  [403, 7],
  [404, 12],
  [429, 14],
  [502, 14],
  [503, 14],
  [504, 14],
]);

/**
 * Percent-encodes a message (gRPC over HTTP/2, `Percent-Encoded`).
 * @param text one character a byte
 */
export function grpcMessage(text: string): string {
  return text
    .slice(0, MAX_MESSAGE)
    .replace(ENCODED, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}
