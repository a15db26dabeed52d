/** The corpus of replies, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { replies } from './replies.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, replies);
