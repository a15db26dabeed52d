/** The fields that each request has by the time policy sees it, whether the downstream sent them or not. */
import { randomUUID } from 'node:crypto';
import type { Field } from './head.ts';

const PROTO = 'x-forwarded-proto';
const REQUEST_ID = 'x-request-id';

const HTTP: Field = { name: PROTO, key: PROTO, value: 'http' };
const HTTPS: Field = { name: PROTO, key: PROTO, value: 'https' };

/**
 * What Envoy's HTTP connection manager adds before any filter looks: `x-forwarded-proto`, by how the request came,
 * and `x-request-id`. One that the downstream sent is kept.
 * @param tls the request came over TLS
 */
export function addedFields(fields: readonly Field[], tls: boolean): Field[] {
  let proto = false;
  let id = false;
  for (const { key } of fields) {
    if (key === PROTO) proto = true;
    else if (key === REQUEST_ID) id = true;
  }
  const added: Field[] = [];
  if (!proto) added.push(tls ? HTTPS : HTTP);
  if (!id) added.push({ name: REQUEST_ID, key: REQUEST_ID, value: randomUUID() });
  return added;
}
