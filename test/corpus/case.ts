/** What a case of the corpus says: bytes that are sent, bytes that the app answers, and what must hold. */

/** Which sidecars stand between: one inbound, one outbound, or both with mutual TLS between them. */
export type Setup = 'inbound' | 'outbound' | 'pair';

/** What a step may wait for: so many heads or whole requests at the app, so many final or interim answers. */
export type Milestone = 'heads' | 'requests' | 'answers' | 'interims';

/** A string is written as it is, one character a byte. */
export type Step =
  | string
  | { readonly until: Milestone; readonly count: number }
  /** Milliseconds: only where two writes should not become one. */
  | { readonly pause: number }
  /** A byte each so many milliseconds, until the other side ends. */
  | { readonly slowly: string; readonly every: number }
  | 'FIN'
  | 'RST';

/** What the app does with one request. */
export interface Reply {
  /** `head`: as soon as its head is there; else once it is whole. */
  readonly at?: 'head' | 'end';
  readonly steps: readonly Step[];
}

export interface SeenRequest {
  /** Method, target and version. */
  readonly line?: string;
  /** Field lines, `name: value`, names without regard to case. */
  readonly has?: readonly string[];
  /** Names of fields that are not there. */
  readonly lacks?: readonly string[];
  /** Without its framing. */
  readonly body?: string;
  readonly framing?: 'none' | 'length' | 'chunked';
  readonly trailers?: readonly string[];
}

export interface SeenAnswer {
  readonly status: number | readonly number[];
  /** It answers a HEAD. */
  readonly toHead?: boolean;
  readonly line?: string;
  readonly has?: readonly string[];
  readonly lacks?: readonly string[];
  readonly body?: string;
  readonly framing?: 'none' | 'length' | 'chunked' | 'close';
  readonly trailers?: readonly string[];
}

export interface Expected {
  /** Whole final answers the downstream gets, in order. */
  readonly answers: readonly (number | SeenAnswer)[];
  /** Statuses of interim answers; absent: none. */
  readonly interims?: readonly number[];
  /**
   * What becomes of the downstream connection then. `open`: another request is served on it. `closed`: it ends
   * with a FIN and nothing more. `cut`: it ends within an answer, so that nobody takes it for whole.
   * `gone`: it ends, in whatever way. `tunnel`: it is one. `any`: all the same.
   */
  readonly end: 'open' | 'closed' | 'cut' | 'gone' | 'tunnel' | 'any';
  /** Whole requests the app gets, in order; a string is the request line. */
  readonly app: readonly (string | SeenRequest)[];
  /** One more request may have reached the app in part: then its connection is cut before the request ends. */
  readonly appCut?: boolean;
  /** Only with `open`: whether the next request may come over the connection of the last. */
  readonly upstream?: 'kept' | 'retired';
  /** Bytes behind a 101, both ways. */
  readonly tunnel?: { readonly app: string; readonly downstream: string };
}

export interface Case {
  readonly name: string;
  readonly send: string | readonly Step[];
  /** One a request, in order; absent: `200` with the body `ok`, each time. */
  readonly app?: string | readonly (string | Reply)[];
  readonly expect: Expected;
  /**
   * Just as good: the RFC, or what stands between, leaves it open. Looked at second: what keeps the connection open
   * stands first, for nobody waits long to see that it is closed.
   */
  readonly or?: Expected;
  /** Absent: all of them. */
  readonly on?: readonly Setup[];
  /** Not sent in pieces as well: it is big, or tells by time. */
  readonly whole?: boolean;
}

/** The host all cases ask for unless they are about hosts. */
export const HOST = 'app.test';

/** The rest of a head behind the request line, up to its empty line. */
export const HEAD = `HTTP/1.1\r\nHost: ${HOST}\r\n`;

/** `GET /` with these further lines, each with its CRLF. */
export function get(lines = '', path = '/'): string {
  return `GET ${path} ${HEAD}${lines}\r\n`;
}

/** `POST /` with these lines and what follows the head. */
export function post(lines: string, body: string, path = '/'): string {
  return `POST ${path} ${HEAD}${lines}\r\n${body}`;
}

/** A body in chunks. */
export function chunked(body: string, path = '/'): string {
  return post('Transfer-Encoding: chunked\r\n', body, path);
}

/** What follows a refused request on the same connection: it must never be read as a request. */
export const SMUGGLED = `GET /smuggled ${HEAD}\r\n`;

export const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

/** Refused for good: an answer of ours, the connection closed, nothing at the app. */
export function refused(status: number | readonly number[] = 400): Expected {
  return { answers: [{ status }], end: 'closed', app: [] };
}

/** Passed on whole, answered, and the connection kept. */
export function served(...app: readonly (string | SeenRequest)[]): Expected {
  return { answers: app.map(() => 200), end: 'open', app };
}
