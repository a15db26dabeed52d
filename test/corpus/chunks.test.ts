/** Chunks, cut bodies and trailers of requests, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { chunks } from './chunks.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, chunks);
