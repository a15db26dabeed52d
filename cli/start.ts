#!/usr/local/bin/node
/** The bundle's entry: takes code that was compiled before from a cache beside the bundle, then reads the command line. */
import { existsSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { join } from 'node:path';

/** Filled when an image is made (bin/warm.ts). It may be missing, read-only or another Node's: then code is compiled. */
const CACHE = join(import.meta.dirname, '..', 'cache');

// Node would make the folder.
if (existsSync(CACHE)) enableCompileCache({ directory: CACHE, portable: true });

await import('./main.ts');
