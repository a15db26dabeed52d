/** Heads of requests, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { heads } from './heads.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, heads);
