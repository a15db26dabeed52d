/** Chains described link by link, root first, for the tests of chain verification; and what OpenSSL says of them. */
import { execFile } from 'node:child_process';
import type { KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ChainVerdict, TrustAnchors, verifyChain } from '../../mesh/chain.ts';
import { RevocationLists } from '../../mesh/crl.ts';
import {
  type Algorithm,
  authorityKeyId,
  basicConstraints,
  CLIENT,
  certificate,
  ecKeys,
  type Keys,
  keyId,
  names,
  pem,
  purposes,
  SERVER,
  subjectKeyId,
  uriName,
  usage,
} from './pki.ts';

export const ID = 'spiffe://cluster.local/ns/shop/sa/web';
export const NOW = Date.UTC(2026, 5, 1);
export const DAY = 86_400_000;

/** One certificate to be made. Null leaves its extension out. */
export interface Link {
  subject: string;
  keys: Keys;
  /** Written in the place of the public key. */
  spki?: Uint8Array;
  /** What it claims as its issuer and is signed by; undefined: the link before. */
  issuer?: string;
  issuerKey?: KeyObject;
  notBefore: number;
  notAfter: number;
  ca: boolean | null;
  pathLength: number | null;
  usage: readonly string[] | null;
  purposes: readonly string[] | null;
  names: readonly Uint8Array[] | null;
  subjectKeyId: Uint8Array | null;
  authorityKeyId: Uint8Array | null | undefined;
  more: Uint8Array[];
  algorithm?: Algorithm;
  serial?: string;
}

/** Keys are made once: a link takes those of its place. */
const KEYS = Array.from({ length: 12 }, () => ecKeys());
export function keysAt(place: number): Keys {
  const keys = KEYS[place];
  if (keys === undefined) throw new Error(`no keys at ${place}`);
  return keys;
}

export function caLink(subject: string, keys: Keys, more: Partial<Link> = {}): Link {
  return {
    subject,
    keys,
    notBefore: NOW - 10 * DAY,
    notAfter: NOW + 100 * DAY,
    ca: true,
    pathLength: null,
    usage: ['keyCertSign', 'cRLSign'],
    purposes: null,
    names: null,
    subjectKeyId: keyId(keys.publicKey),
    authorityKeyId: undefined,
    more: [],
    ...more,
  };
}

export function leafLink(keys: Keys, more: Partial<Link> = {}): Link {
  return {
    ...caLink('', keys),
    notBefore: NOW - DAY,
    notAfter: NOW + DAY,
    ca: false,
    usage: ['digitalSignature', 'keyEncipherment'],
    purposes: [SERVER, CLIENT],
    names: [uriName(ID)],
    subjectKeyId: null,
    ...more,
  };
}

/** Root, intermediates and a leaf: links that make a good chain of this many certificates. */
export function goodLinks(length: number): Link[] {
  const cas = Array.from({ length: length - 1 }, (_, i) =>
    caLink(i === 0 ? 'root' : `intermediate ${i}`, keysAt(i)),
  );
  return [...cas, leafLink(keysAt(11))];
}

export function make(link: Link, issuer: Link): Buffer {
  const { subject, keys, notBefore, notAfter, algorithm, more } = link;
  const akid = link.authorityKeyId === undefined ? issuer.subjectKeyId : link.authorityKeyId;
  return certificate({
    subject,
    keys,
    spki: link.spki,
    notBefore,
    notAfter,
    algorithm,
    issuer: link.issuer ?? issuer.subject,
    issuerKey: link.issuerKey ?? issuer.keys.privateKey,
    ...(link.serial === undefined ? {} : { serial: link.serial }),
    extensions: [
      ...(link.ca === null ? [] : [basicConstraints(link.ca, link.pathLength)]),
      ...(link.usage === null ? [] : [usage(...link.usage)]),
      ...(link.purposes === null ? [] : [purposes(...link.purposes)]),
      ...(link.names === null ? [] : [names(...link.names)]),
      ...(link.subjectKeyId === null ? [] : [subjectKeyId(link.subjectKeyId)]),
      ...(akid === null ? [] : [authorityKeyId(akid)]),
      ...more,
    ],
  });
}

/** Each signed by the one before, the first by itself; in the same order. */
export function makeAll(links: readonly Link[]): Buffer[] {
  return links.map((link, i) => make(link, links[i - 1] ?? link));
}

/** What a verifier is given: DER, the leaf first. */
export interface Presented {
  readonly chain: readonly Buffer[];
  readonly anchors: readonly Buffer[];
}

/** The root is trusted, the rest presented. */
export function presented(links: readonly Link[]): Presented {
  const [root, ...rest] = makeAll(links);
  return { chain: rest.toReversed(), anchors: root === undefined ? [] : [root] };
}

export type Role = 'client' | 'server';

export function ask(
  { chain, anchors }: Presented,
  purpose: Role | 'both' = 'both',
  revoked = RevocationLists.none,
  now = NOW,
): ChainVerdict {
  return verifyChain({
    chain,
    anchors: new TrustAnchors(anchors.map((der) => pem(der))),
    purpose,
    now,
    revoked,
  });
}

/** `openssl verify` of the same, in each role at once; its complaints, null where it is content. */
export function askOpenssl(
  { chain, anchors }: Presented,
  roles: readonly Role[],
  dir: string,
  lists: readonly Uint8Array[] = [],
): Promise<(string | null)[]> {
  const file = (name: string, text: string) => {
    const path = join(dir, name);
    writeFileSync(path, text);
    return path;
  };
  const [leaf, ...others] = chain.map((der) => pem(der));
  const args = [
    '-attime',
    String(NOW / 1000),
    '-CAfile',
    file('roots.pem', anchors.map((der) => pem(der)).join('')),
  ];
  if (others.length > 0) args.push('-untrusted', file('others.pem', others.join('')));
  if (lists.length > 0) {
    args.push(
      '-crl_check_all',
      '-CRLfile',
      file('crl.pem', lists.map((der) => pem(der, 'X509 CRL')).join('')),
    );
  }
  args.push(file('leaf.pem', leaf ?? ''));
  return Promise.all(
    roles.map(
      (role) =>
        new Promise<string | null>((resolve) => {
          const purpose = role === 'client' ? 'sslclient' : 'sslserver';
          execFile(
            'openssl',
            ['verify', '-partial_chain', '-purpose', purpose, ...args],
            (error, out, complaint) => resolve(error === null ? null : out + complaint),
          );
        }),
    ),
  );
}
