/** The corpus of early, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { early } from './early.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, early);
