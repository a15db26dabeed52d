/** The two messages of Istio's certificate service on the wire (istio/api security/v1alpha1/ca.proto). */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { readFields } from './protobuf.ts';

/** Full method name: package `istio.v1.auth`, kept by Istio for compatibility. */
export const CREATE_CERTIFICATE = '/istio.v1.auth.IstioCertificateService/CreateCertificate';

/** No request or answer is longer; a chain of ten certificates is a tenth of it. */
export const MAX_MESSAGE_BYTES = 262_144;

export interface IstioCertificateRequest {
  /** Field 1: PEM. */
  readonly csr: string;
  /** Field 3: seconds; 0 leaves it to the CA. Field 4, `metadata`, is neither sent nor heeded. */
  readonly validityDuration: number;
}

export interface IstioCertificateResponse {
  /** Field 1: PEM, leaf first, root last, usually one certificate an element. */
  readonly certChain: readonly string[];
}

export function encodeRequest(request: IstioCertificateRequest): Buffer {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.LengthDelimited).string(request.csr);
  if (request.validityDuration !== 0) writer.tag(3, WireType.Varint).int64(request.validityDuration);
  return Buffer.from(writer.finish());
}

/** @throws Error on bytes that are no protobuf message. */
export function decodeRequest(bytes: Uint8Array): IstioCertificateRequest {
  let csr = '';
  let validityDuration = 0;
  readFields(bytes, (reader, field, wireType) => {
    if (field === 1 && wireType === WireType.LengthDelimited) csr = reader.string();
    else if (field === 3 && wireType === WireType.Varint) validityDuration = Number(reader.int64());
    else return false;
    return true;
  });
  return { csr, validityDuration };
}

export function encodeResponse(response: IstioCertificateResponse): Buffer {
  const writer = new BinaryWriter();
  for (const pem of response.certChain) writer.tag(1, WireType.LengthDelimited).string(pem);
  return Buffer.from(writer.finish());
}

/** @throws Error on bytes that are no protobuf message. */
export function decodeResponse(bytes: Uint8Array): IstioCertificateResponse {
  const certChain: string[] = [];
  readFields(bytes, (reader, field, wireType) => {
    if (field !== 1 || wireType !== WireType.LengthDelimited) return false;
    certChain.push(reader.string());
    return true;
  });
  return { certChain };
}
