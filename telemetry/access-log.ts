/** The access log: one line a request or connection, by default JSON in the field names of Istio's default format. */
import type { AccessFormat } from '../mesh/access-format.ts';
import { compileFormat, istioJson } from './access-format.ts';
import type { AccessRecord } from './access-record.ts';
import { LineBytes } from './line-bytes.ts';
import { type LineDestination, LineWriter } from './line-writer.ts';

export interface AccessLog {
  /** Writes one line. Never blocks, never throws, keeps nothing of the record. */
  write(record: AccessRecord): void;
  /** Lower-case names of request headers that the record must have beyond its own fields. */
  readonly requestHeaders: readonly string[];
  /** Lines lost because the destination was slow, full or gone: `oarlock_access_log_dropped_total`. */
  readonly dropped: number;
  /** Resolves once all lines so far are written. */
  flush(): Promise<void>;
  /**
   * Opens its file anew, for whoever rotates logs.
   * @throws the system's error where it cannot be opened; the old file stays in use then
   */
  reopen(): void;
  /** Writes what is left and closes the file. */
  close(): Promise<void>;
}

/**
 * @param destination stderr, stdout, or a file that is appended to
 * @throws the system's error where the file cannot be opened
 */
export function createAccessLog(destination: LineDestination, format: AccessFormat = istioJson): AccessLog {
  const compiled = compileFormat(format);
  const writer = new LineWriter(destination, compiled.longest);
  const line = new LineBytes();
  return {
    write(record) {
      if (!writer.begin(line)) return;
      compiled.write(line, record);
      writer.end(line);
    },
    requestHeaders: compiled.requestHeaders,
    get dropped() {
      return writer.dropped;
    },
    flush: () => writer.flush(),
    reopen: () => writer.reopen(),
    close: () => writer.close(),
  };
}
