/** The X.509 messages of the SPIFFE Workload API on the wire (workloadapi.proto, X509-SVID profile). */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { readFields } from './protobuf.ts';

/** Full method names; the service has no package. */
export const FETCH_X509_SVID = '/SpiffeWorkloadAPI/FetchX509SVID';
export const FETCH_X509_BUNDLES = '/SpiffeWorkloadAPI/FetchX509Bundles';

/** gRPC's own bound where none is set, so what every SPIFFE client can read; a federation of hundreds is far below. */
export const MAX_MESSAGE_BYTES = 4_194_304;

const NOTHING = new Uint8Array();

/** One identity. Only `hint` may be empty; all bytes are DER. */
export interface X509Svid {
  /** Field 1 */
  readonly spiffeId: string;
  /** Field 2: certificates one after the other, leaf first. */
  readonly chain: Uint8Array;
  /** Field 3: PKCS#8, unencrypted. */
  readonly key: Uint8Array;
  /** Field 4: roots of its trust domain, one after the other. */
  readonly bundle: Uint8Array;
  /** Field 5: the operator's word for what the identity is for; may be empty. */
  readonly hint: string;
}

export interface X509SvidResponse {
  /** Field 1 */
  readonly svids: readonly X509Svid[];
  /** Field 2 */
  readonly crls: readonly Uint8Array[];
  /** Field 3: roots by the SPIFFE ID of the foreign trust domain. */
  readonly federatedBundles: ReadonlyMap<string, Uint8Array>;
}

export interface X509BundlesResponse {
  /** Field 1 */
  readonly crls: readonly Uint8Array[];
  /** Field 2: roots by the SPIFFE ID of the trust domain, our own among them. */
  readonly bundles: ReadonlyMap<string, Uint8Array>;
}

/** Both requests are messages without fields. */
export const EMPTY_REQUEST = Buffer.alloc(0);

/** @throws Error on bytes that are no protobuf message. */
export function decodeSvidResponse(bytes: Uint8Array): X509SvidResponse {
  const svids: X509Svid[] = [];
  const crls: Uint8Array[] = [];
  const federatedBundles = new Map<string, Uint8Array>();
  readFields(bytes, (reader, field, wireType) => {
    if (wireType !== WireType.LengthDelimited) return false;
    if (field === 1) svids.push(decodeSvid(reader.bytes()));
    else if (field === 2) crls.push(reader.bytes());
    else if (field === 3) addEntry(federatedBundles, reader.bytes());
    else return false;
    return true;
  });
  return { svids, crls, federatedBundles };
}

/** @throws Error on bytes that are no protobuf message. */
export function decodeBundlesResponse(bytes: Uint8Array): X509BundlesResponse {
  const crls: Uint8Array[] = [];
  const bundles = new Map<string, Uint8Array>();
  readFields(bytes, (reader, field, wireType) => {
    if (wireType !== WireType.LengthDelimited) return false;
    if (field === 1) crls.push(reader.bytes());
    else if (field === 2) addEntry(bundles, reader.bytes());
    else return false;
    return true;
  });
  return { crls, bundles };
}

export function encodeSvidResponse({ svids, crls, federatedBundles }: X509SvidResponse): Buffer {
  const writer = new BinaryWriter();
  for (const svid of svids) writer.tag(1, WireType.LengthDelimited).bytes(encodeSvid(svid));
  for (const crl of crls) writer.tag(2, WireType.LengthDelimited).bytes(crl);
  for (const entry of federatedBundles) writer.tag(3, WireType.LengthDelimited).bytes(encodeEntry(entry));
  return Buffer.from(writer.finish());
}

export function encodeBundlesResponse({ crls, bundles }: X509BundlesResponse): Buffer {
  const writer = new BinaryWriter();
  for (const crl of crls) writer.tag(1, WireType.LengthDelimited).bytes(crl);
  for (const entry of bundles) writer.tag(2, WireType.LengthDelimited).bytes(encodeEntry(entry));
  return Buffer.from(writer.finish());
}

function decodeSvid(bytes: Uint8Array): X509Svid {
  let [spiffeId, hint] = ['', ''];
  let chain: Uint8Array = NOTHING;
  let key: Uint8Array = NOTHING;
  let bundle: Uint8Array = NOTHING;
  readFields(bytes, (reader, field, wireType) => {
    if (wireType !== WireType.LengthDelimited) return false;
    if (field === 1) spiffeId = reader.string();
    else if (field === 2) chain = reader.bytes();
    else if (field === 3) key = reader.bytes();
    else if (field === 4) bundle = reader.bytes();
    else if (field === 5) hint = reader.string();
    else return false;
    return true;
  });
  return { spiffeId, chain, key, bundle, hint };
}

function encodeSvid({ spiffeId, chain, key, bundle, hint }: X509Svid): Uint8Array {
  const writer = new BinaryWriter();
  if (spiffeId !== '') writer.tag(1, WireType.LengthDelimited).string(spiffeId);
  if (chain.length > 0) writer.tag(2, WireType.LengthDelimited).bytes(chain);
  if (key.length > 0) writer.tag(3, WireType.LengthDelimited).bytes(key);
  if (bundle.length > 0) writer.tag(4, WireType.LengthDelimited).bytes(bundle);
  if (hint !== '') writer.tag(5, WireType.LengthDelimited).string(hint);
  return writer.finish();
}

/** A map's entry is a message of key and value; of a key that comes twice the last counts (protobuf encoding guide, maps). */
function addEntry(map: Map<string, Uint8Array>, bytes: Uint8Array): void {
  let key = '';
  let value: Uint8Array = NOTHING;
  readFields(bytes, (reader, field, wireType) => {
    if (wireType !== WireType.LengthDelimited) return false;
    if (field === 1) key = reader.string();
    else if (field === 2) value = reader.bytes();
    else return false;
    return true;
  });
  map.set(key, value);
}

function encodeEntry([key, value]: readonly [string, Uint8Array]): Uint8Array {
  const writer = new BinaryWriter();
  if (key !== '') writer.tag(1, WireType.LengthDelimited).string(key);
  if (value.length > 0) writer.tag(2, WireType.LengthDelimited).bytes(value);
  return writer.finish();
}
