/** Writes requests to an upstream: head and first piece of the body as one write, the body in its framing. */
import type { Upstream } from '../dial.ts';
import { pass } from '../hear.ts';
import type { HeldBody } from '../http/held-body.ts';
import { type BodyReader, CRLF, lastChunk, sizeLine } from './body.ts';
import type { Http1Request } from './request-head.ts';

/** A head and the piece of its body behind it go out as one buffer up to so much; copying more costs more than a second one. */
export const JOINED = 16_384;

/** One for all requests of a connection. */
export class RequestWriter {
  #upstream: Upstream | null = null;
  /** Its head is still to be sent: it waits for the first piece of the body that is there already. */
  #unsent: Http1Request | null = null;
  /** The request's chunks were taken apart to be held: they are framed anew. */
  #reframed = false;

  /** Everything goes to this upstream from here on, this head first. */
  begin(upstream: Upstream, request: Http1Request): void {
    this.#upstream = upstream;
    this.#unsent = request;
    this.#reframed = false;
  }

  /** The same for a request whose body was held: head and what is there of it go at once. @param reframed its chunks were taken apart */
  beginHeld(
    upstream: Upstream,
    request: Http1Request,
    held: HeldBody,
    body: BodyReader,
    reframed: boolean,
  ): void {
    this.#upstream = upstream;
    this.#unsent = null;
    this.#reframed = reframed;
    const { stream } = upstream;
    stream.cork();
    stream.write(request.write(null));
    // Its room is free as soon as it has left, however long the answer takes.
    for (const piece of held.framed(body)) stream.write(piece, () => held.release());
    stream.uncork();
  }

  /** Nothing more goes to it, its head neither. */
  stop(): void {
    this.#upstream = null;
    this.#unsent = null;
  }

  /** Nothing of the body was there to go with the head. @returns false where no more should come for now */
  flush(): boolean {
    return this.#unsent === null ? true : this.#head(this.#unsent, null);
  }

  /** A piece of the body, framed as it goes on. @returns false where no more should come for now */
  piece(piece: Buffer): boolean {
    const upstream = this.#upstream;
    if (upstream === null) return true;
    if (this.#unsent !== null) return this.#head(this.#unsent, piece);
    const { stream } = upstream;
    if (!this.#reframed) return pass(piece, stream);
    stream.write(sizeLine(piece.length));
    stream.write(piece);
    return stream.write(CRLF);
  }

  /** The body is through. */
  end(body: BodyReader): void {
    if (this.#reframed) this.#upstream?.stream.write(lastChunk(body.trailers));
  }

  #head(request: Http1Request, piece: Buffer | null): boolean {
    this.#unsent = null;
    if (this.#upstream === null) return true;
    const { stream } = this.#upstream;
    if (piece === null || piece.length <= JOINED) return stream.write(request.write(piece));
    stream.cork();
    stream.write(request.write(null));
    const flowing = stream.write(piece);
    stream.uncork();
    return flowing;
  }
}
