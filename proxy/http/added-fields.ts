/** The fields that each request has by the time policy sees it, whether the downstream sent them or not. */
import { randomUUID } from 'node:crypto';
import { type RequestHead, standing } from './head.ts';

const PROTO = 'x-forwarded-proto';
const REQUEST_ID = 'x-request-id';

const HTTP = standing(PROTO, 'http');
const HTTPS = standing(PROTO, 'https');

/**
 * Adds what Envoy's HTTP connection manager adds before any filter looks: `x-forwarded-proto`, by how the request came,
 * and `x-request-id`. One that the downstream sent is kept.
 * @param tls the request came over TLS
 */
export function addFields(head: RequestHead, tls: boolean): void {
  if (head.headerValues(PROTO).length === 0) head.add(tls ? HTTPS : HTTP);
  if (head.headerValues(REQUEST_ID).length === 0) {
    head.add({ name: REQUEST_ID, key: REQUEST_ID, value: randomUUID() });
  }
}
