/** The access log: one line a request or connection, by default JSON in the field names of Istio's default format. */
import type { AccessFormat, MeshAccessLog } from '../mesh/access-format.ts';
import { compileFormat, istioJson, istioText } from './access-format.ts';
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

/** What flags say of the access log; null: nothing. */
export interface AccessLogFlags {
  /** `stderr`, `stdout`, `off`, or a file's path. */
  readonly accessLog: string | null;
  readonly accessLogEncoding: AccessFormat['encoding'] | null;
}

/** The access log as flags and mesh config ask for it; made anew when mesh config asks for another. */
export class AccessLogKeeper {
  readonly #flags: AccessLogFlags;
  #asked = '';
  #current: AccessLog | null = null;
  /** By logs that are closed. */
  #droppedBefore = 0;

  constructor(flags: AccessLogFlags) {
    this.#flags = flags;
  }

  get current(): AccessLog | null {
    return this.#current;
  }

  get dropped(): number {
    return this.#droppedBefore + (this.#current?.dropped ?? 0);
  }

  /**
   * Puts settings in force: a flag beats mesh config, which beats the default.
   * @returns the log to write to; null: none is wanted
   * @throws the system's error where its file cannot be opened; the log in force has not changed then
   */
  use(mesh: MeshAccessLog): AccessLog | null {
    const destination = this.#flags.accessLog ?? mesh.file ?? 'stderr';
    const encoding = this.#flags.accessLogEncoding ?? mesh.encoding ?? 'json';
    const standard = encoding === 'json' ? istioJson : istioText;
    const format = mesh.format?.encoding === encoding ? mesh.format : standard;
    const asked = JSON.stringify([destination, format], plain);
    if (asked === this.#asked) return this.#current;
    const fresh = destination === 'off' ? null : createAccessLog(placeOf(destination), format);
    const old = this.#current;
    this.#asked = asked;
    this.#current = fresh;
    void old?.close().then(() => {
      this.#droppedBefore += old.dropped;
    });
    return fresh;
  }

  async close(): Promise<void> {
    await this.#current?.close();
  }
}

/** Istio's `/dev/stdout` is the open descriptor, which need not be a file that can be opened anew. */
function placeOf(destination: string): LineDestination {
  if (destination === 'stderr' || destination === '/dev/stderr') return 'stderr';
  if (destination === 'stdout' || destination === '/dev/stdout') return 'stdout';
  return { path: destination };
}

function plain(_name: string, value: unknown): unknown {
  return value instanceof Map ? [...value] : value;
}
