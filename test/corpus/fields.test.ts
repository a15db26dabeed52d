/** The corpus of fields, through one sidecar and through the pair, whole and byte by byte. */
import t from 'tap';
import { fields } from './fields.ts';
import { runCorpus } from './run.ts';

await runCorpus(t, fields);
