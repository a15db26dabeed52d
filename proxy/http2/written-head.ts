/** Reads heads of requests that we wrote ourselves in HTTP/1, each in one piece, so that HTTP/2 can say them. */
import type { Limits } from '../../mesh/limits.ts';
import { type Framing, HeadError } from '../http/head.ts';
import { Http1Request, LastRequest } from '../http1/request-head.ts';
import { HeadScan } from '../http1/scan.ts';
import type { Asked } from './head.ts';

/** Fields that judging may have added to what the downstream sent. */
const MAX_ADDED = 200;

/** A head as it goes on. */
export interface WrittenHead extends Asked {
  readonly framing: Framing;
}

interface Reading {
  readonly scan: HeadScan;
  readonly last: LastRequest;
}

/** A scan's tables are large, and read out at once: one serves all heads of a data path. */
const readings = new WeakMap<Limits, Reading>();

/**
 * @param bytes the head with its final empty line, and nothing else
 * @throws HeadError naming what was wrong
 */
export function readWrittenHead(bytes: Buffer, limits: Limits): WrittenHead {
  const { scan, last } = readingFor(limits);
  scan.reset();
  if (scan.scan(bytes) !== bytes.length) throw new HeadError(400, 'an empty line within the head');
  const { method, host, path, fields, framing } = new Http1Request(bytes, scan, asItIs, last);
  return { method, host, path, fields, framing };
}

function readingFor(limits: Limits): Reading {
  let reading = readings.get(limits);
  if (reading === undefined) {
    // Bounded it is already: as it was judged, so it goes.
    const bounds = {
      maxHeadBytes: Number.POSITIVE_INFINITY,
      maxHeadFields: limits.maxHeadFields + MAX_ADDED,
      maxTargetBytes: Number.POSITIVE_INFINITY,
    };
    reading = { scan: new HeadScan('request', bounds), last: new LastRequest() };
    readings.set(limits, reading);
  }
  return reading;
}

/** Normalized it is already, too. */
function asItIs(target: string): string {
  return target;
}
