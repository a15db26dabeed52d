/** Content-Length and Transfer-Encoding of requests, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { framing } from './framing.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, framing);
