/** What an external authorization provider is, what it is asked, and what it answers. */
import type { ConnectionFacts } from './facts.ts';
import type { FieldChange } from './tokens.ts';

/** MeshConfig `extensionProviders`: `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`, checked. */
export interface ExtAuthzProvider {
  readonly name: string;
  readonly protocol: 'http' | 'grpc';
  /** As written: `HOST` or `NS/HOST`. */
  readonly service: string;
  readonly port: number;
  /** Milliseconds. Istio's default: 600 s. */
  readonly timeout: number;
  /** A provider that cannot be asked allows instead of denying. */
  readonly failOpen: boolean;
  /** Status where it cannot be asked and does not fail open. Envoy's default: 403. */
  readonly statusOnError: number;
  /** Null: the body is not sent. */
  readonly requestBody: {
    readonly maxRequestBytes: number;
    readonly allowPartialMessage: boolean;
    readonly packAsBytes: boolean;
  } | null;
  // === envoyExtAuthzHttp only; header names exact, `prefix*` or `*suffix`, without regard to case ===
  readonly pathPrefix: string;
  readonly includeRequestHeadersInCheck: readonly string[];
  readonly includeAdditionalHeadersInCheck: ReadonlyMap<string, string>;
  readonly headersToUpstreamOnAllow: readonly string[];
  readonly headersToDownstreamOnAllow: readonly string[];
  readonly headersToDownstreamOnDeny: readonly string[];
  /** Why the provider cannot be used, by Istio's rules; null: it can. What asks it is denied then. */
  readonly fault: string | null;
}

/** One HTTP request, or one TCP connection (`request` null), to be checked. */
export interface CheckRequest {
  readonly connection: ConnectionFacts;
  /** Our own identity's URI; null on plaintext. */
  readonly ownIdentity: string | null;
  readonly sourcePort: number;
  readonly request: {
    readonly method: string;
    readonly host: string;
    /** Normalized target, query included. */
    readonly path: string;
    readonly scheme: 'http' | 'https';
    readonly protocol: string;
    /** In order; names in lower case; values with one character a byte. As the app would get them now. */
    readonly fields: readonly { readonly name: string; readonly value: string }[];
    /** As much as the provider asked for. */
    readonly body: Buffer | null;
    readonly bodyTruncated: boolean;
    /** As announced by Content-Length; -1: not known. */
    readonly bodySize: number;
  } | null;
}

/** A change of the answer to the downstream, made when that answer is there. */
export interface AnswerChange extends FieldChange {
  /** Made only where the answer has no field of that name, or only where it has one; null: in any case. */
  readonly only: 'absent' | 'present' | null;
}

export type CheckAnswer =
  | {
      readonly kind: 'allowed';
      /** Names, lower case. */
      readonly remove: readonly string[];
      readonly set: readonly FieldChange[];
      /** The new target, query included; null: it stays. */
      readonly path: string | null;
      /** Changes of the answer to the downstream, in order. */
      readonly answerFields: readonly AnswerChange[];
    }
  | {
      readonly kind: 'denied';
      /** From 200 to 999. */
      readonly status: number;
      /** None that frames the body. Where there is a body and no Content-Type, Envoy says `text/plain`. */
      readonly fields: readonly FieldChange[];
      /** Not to be sent in answer to HEAD, nor with 204 and 304. */
      readonly body: Buffer;
      /** Given where it is our own denial, not the provider's: its question could not be put, and that is our doing. */
      readonly why?: string;
    }
  /** It could not be asked: out of time, unreachable, no sense in its answer. The caller applies `failOpen`. */
  | { readonly kind: 'failed'; readonly reason: string };

/** Asks providers. */
export interface ExtAuthz {
  /** Never rejects. `signal`: the downstream left. */
  check(provider: ExtAuthzProvider, request: CheckRequest, signal: AbortSignal): Promise<CheckAnswer>;
}
