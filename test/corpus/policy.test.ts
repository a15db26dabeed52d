/** The corpus of policy, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { policy } from './policy.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, policy);
