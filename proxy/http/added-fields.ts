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
 * @param id that the downstream sent; empty: none, as far as the caller knows
 * @returns the id the request goes by
 */
export function addFields(head: RequestHead, tls: boolean, id = ''): string {
  if (head.headerValues(PROTO).length === 0) head.add(tls ? HTTPS : HTTP);
  if (id !== '') return id;
  const [sent] = head.headerValues(REQUEST_ID);
  if (sent !== undefined) return sent;
  const made = randomUUID();
  head.add({ name: REQUEST_ID, key: REQUEST_ID, value: made });
  return made;
}
