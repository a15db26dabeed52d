/** The corpus of reuse, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { reuse } from './reuse.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, reuse);
