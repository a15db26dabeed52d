/** Targets and Hosts of requests, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { runCorpus } from './run.ts';
import { targets } from './targets.ts';

await runCorpus(t, targets);
