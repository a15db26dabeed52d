/** Reads a pod's labels from the file that Kubernetes keeps them in (downward API, `metadata.labels`). */
import { readFileSync } from 'node:fs';
import { UsageError } from './usage-error.ts';

/** Kubernetes bounds labels by the size of an object alone; nobody has as many. */
const MAX_BYTES = 256 * 1024;

/**
 * @returns the labels that the pod has at this moment, those that others gave it after its template was written, too
 * @throws UsageError where it cannot be read, or a line is not `key="value"`
 */
export function readLabelsFile(file: string): ReadonlyMap<string, string> {
  const labels = new Map<string, string>();
  for (const [i, line] of textOf(file).split('\n').entries()) {
    if (line === '') continue;
    const [, key = '', value = ''] = /^([^\s="]+)=(".*")$/.exec(line) ?? [];
    try {
      // Written by Go's %q, which is JSON's notation for all that a label may have.
      labels.set(key, JSON.parse(value) as string);
    } catch {
      throw new UsageError(
        `--labels-file ${file}:${i + 1}: must be KEY="VALUE", as Kubernetes writes labels`,
      );
    }
  }
  return labels;
}

function textOf(file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new UsageError(`--labels-file ${file}: ${(error as Error).message.split(', ')[0]}`);
  }
  if (bytes.length <= MAX_BYTES) return bytes.toString('utf8');
  throw new UsageError(
    `--labels-file ${file}: ${bytes.length} bytes are more than the ${MAX_BYTES} it may have`,
  );
}
