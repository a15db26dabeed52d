/** The corpus of tunnels, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { runCorpus } from './run.ts';
import { tunnels } from './tunnels.ts';

await runCorpus(t, tunnels);
