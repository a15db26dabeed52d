/** Slow heads, bodies and answers, and silence, with short limits, through one sidecar and through the pair. */
import t from 'tap';
import { runCorpus } from './run.ts';
import { LIMITS, timeouts } from './timeouts.ts';

await runCorpus(t, timeouts, { limits: LIMITS });
