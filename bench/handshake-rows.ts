/** What `handshakes` measures: sides, kinds, keys and groups, and who takes part. */
import { envoy } from './peers/envoy.ts';
import { haproxy } from './peers/haproxy.ts';
import { nginx } from './peers/nginx.ts';
import { oarlock } from './peers/oarlock.ts';
import type { PortPeer, Protocol } from './peers/peer.ts';
import { pipe } from './peers/pipe.ts';

export const KEYS = { p256: 'P-256', rsa2048: 'RSA-2048' } as const;
export type KeyId = keyof typeof KEYS;

/** By OpenSSL's names. */
export const GROUPS = { hybrid: 'X25519MLKEM768', x25519: 'X25519', p256: 'P-256' } as const;
export type GroupId = keyof typeof GROUPS;

/** Which side of the handshake the proxy is. */
export type HandshakeSide = 'server' | 'client';
export type HandshakeKind = 'full' | 'resumed';

export interface HandshakeRow {
  readonly id: string;
  readonly name: string;
  readonly peer: PortPeer;
  /** As the client: how the app's connections go through, each of which is to be one of TLS. */
  readonly asClient: Protocol;
  /** Runs under Node, whose compiler takes its time: a daemon runs for days, and its first handshakes say little. */
  readonly warmsUp: boolean;
}

export const OURS = 'oarlock';
export const ENVOY = 'envoy';

export const handshakeRows: readonly HandshakeRow[] = [
  row(OURS, oarlock, 'tcp', true),
  row('pipe', pipe, 'tcp', true),
  // Its module for TCP is a package of its own.
  row('nginx', nginx, 'http1'),
  row('haproxy', haproxy, 'tcp'),
  row(ENVOY, envoy, 'tcp'),
];

function row(id: string, peer: PortPeer, asClient: Protocol, warmsUp = false): HandshakeRow {
  return { id, name: peer.name, peer, asClient, warmsUp };
}

/** One table of the bench. */
export interface HandshakeCell {
  readonly side: HandshakeSide;
  readonly kind: HandshakeKind;
  readonly key: KeyId;
  readonly group: GroupId;
}

/** A cell by what its handshakes are. No key takes part in a resumed one. */
export function cellName({ side, kind, key, group }: HandshakeCell): string {
  const keys = kind === 'full' ? `${KEYS[key]} keys, ` : '';
  return `${kind} handshakes as ${side}, ${keys}${GROUPS[group]}`;
}

/** @param isFirstKey resumed handshakes are measured with one kind of keys */
export function cellsOf(key: KeyId, group: GroupId, isFirstKey: boolean): readonly HandshakeCell[] {
  const kinds: readonly HandshakeKind[] = isFirstKey ? ['full', 'resumed'] : ['full'];
  return (['server', 'client'] as const).flatMap((side) => kinds.map((kind) => ({ side, kind, key, group })));
}
