/** All groups of the corpus, by name. */
import { chunks } from './chunks.ts';
import { early } from './early.ts';
import { fields } from './fields.ts';
import { framing } from './framing.ts';
import { heads } from './heads.ts';
import { policy } from './policy.ts';
import { replies } from './replies.ts';
import { reuse } from './reuse.ts';
import type { Tables } from './run.ts';
import { targets } from './targets.ts';
import { tunnels } from './tunnels.ts';

export const groups: Readonly<Record<string, Tables>> = {
  heads,
  targets,
  framing,
  chunks,
  policy,
  early,
  fields,
  tunnels,
  replies,
  reuse,
};
