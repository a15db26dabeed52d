/** What ends a connection whose header compression cannot be followed any longer. */

/**
 * A decoding error of RFC 7541: the two ends' tables no longer agree, or never will. RFC 9113 §4.3 makes it a connection
 * error of type COMPRESSION_ERROR; the decoder that threw it must not be used again.
 */
export class HpackError extends Error {}
