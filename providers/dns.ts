/** DNS for endpoints named by host: asked on first use, kept, asked anew in the background; the last good answer stays. */
import { lookup } from 'node:dns';
import type { NameDone, NameResolver } from '../mesh/name-resolver.ts';

export interface DnsOptions {
  /** After this many milliseconds a name that is used is asked for anew, while the old answer serves. */
  readonly refresh: number;
  /** Names remembered; the one unused for longest goes first. */
  readonly maxNames: number;
  /** Nobody waits longer than this many milliseconds for an answer. */
  readonly timeout: number;
  /** For tests. */
  readonly ask?: Ask;
  readonly now?: () => number;
}

/** Asks for every address of a host, of both families; `error` is null where it has some. */
export type Ask = (host: string, done: (error: string | null, addresses: readonly string[]) => void) => void;

/** The system's resolver: it knows the hosts file and search domains, as any app beside us does. */
const askSystem: Ask = (host, done) => {
  lookup(host, { all: true, order: 'verbatim' }, (error, found) => {
    if (error !== null) done(error.code ?? error.message, []);
    else if (found.length === 0) done('ENODATA', []);
    else done(null, [...new Set(found.map(({ address }) => address))]);
  });
};

/** An answer so much older than `refresh` is waited for: a name long unused may have moved. */
const STALE_FACTOR = 12;
/** An answer that failed is not asked for again at once. */
const RETRY_MS = 1_000;

interface Name {
  readonly host: string;
  /** Empty: never answered yet. */
  addresses: readonly string[];
  answeredAt: number;
  failedAt: number;
  failure: string;
  /** A question is on its way; there is never more than one of a name. */
  asking: boolean;
  /** Who waits for it. */
  waiting: NameDone[];
}

/** One a data-path thread. Nothing is asked for that is not used, so it needs no stopping. */
export class DnsCache implements NameResolver {
  version = 0;
  readonly #names = new Map<string, Name>();
  readonly #refresh: number;
  readonly #maxNames: number;
  readonly #timeout: number;
  readonly #ask: Ask;
  readonly #now: () => number;

  constructor(options: DnsOptions) {
    this.#refresh = options.refresh;
    this.#maxNames = options.maxNames;
    this.#timeout = options.timeout;
    this.#ask = options.ask ?? askSystem;
    this.#now = options.now ?? (() => performance.now());
  }

  known(host: string): readonly string[] | null {
    const name = this.#names.get(host);
    if (name === undefined || name.addresses.length === 0) return null;
    const age = this.#now() - name.answeredAt;
    if (age < this.#refresh) return name.addresses;
    if (this.#mayAsk(name)) this.#start(name);
    return age < this.#refresh * STALE_FACTOR ? name.addresses : null;
  }

  resolve(host: string, done: NameDone): void {
    const name = this.#names.get(host) ?? this.#remember(host);
    if (this.#mayAsk(name)) {
      name.waiting.push(done);
      this.#start(name);
    } else if (name.waiting.length > 0) name.waiting.push(done);
    else settle(name, done);
  }

  /** How many names are remembered. */
  get size(): number {
    return this.#names.size;
  }

  #mayAsk(name: Name): boolean {
    return !name.asking && this.#now() - name.failedAt >= RETRY_MS;
  }

  #remember(host: string): Name {
    if (this.#names.size >= this.#maxNames) this.#forgetOldest();
    const name: Name = {
      host,
      addresses: [],
      answeredAt: Number.NEGATIVE_INFINITY,
      failedAt: Number.NEGATIVE_INFINITY,
      failure: '',
      asking: false,
      waiting: [],
    };
    this.#names.set(host, name);
    return name;
  }

  /** A Map keeps the order of insertion, and each answer puts its name last: the first is the one asked longest ago. */
  #forgetOldest(): void {
    for (const [host, { asking }] of this.#names) {
      if (asking) continue;
      this.#names.delete(host);
      return;
    }
  }

  #start(name: Name): void {
    name.asking = true;
    const timer = setTimeout(() => {
      this.#failed(name, 'ETIMEOUT');
      tell(name);
    }, this.#timeout);
    timer.unref();
    this.#ask(name.host, (error, addresses) => {
      clearTimeout(timer);
      name.asking = false;
      this.#answered(name, error, addresses);
    });
  }

  #failed(name: Name, failure: string): void {
    name.failure = failure;
    name.failedAt = this.#now();
  }

  #answered(name: Name, error: string | null, addresses: readonly string[]): void {
    if (error !== null) this.#failed(name, error);
    else {
      // A resolver that turns its list round at each answer says nothing new.
      const sorted = [...addresses].sort();
      if (sorted.join(' ') !== name.addresses.join(' ')) {
        name.addresses = sorted;
        this.version++;
      }
      name.answeredAt = this.#now();
      name.failedAt = Number.NEGATIVE_INFINITY;
    }
    this.#names.delete(name.host);
    this.#names.set(name.host, name);
    tell(name);
  }
}

function tell(name: Name): void {
  for (const done of name.waiting.splice(0)) settle(name, done);
}

/** The last good answer, however old, is better than none: "a failed refresh keeps the last good". */
function settle({ addresses, failure }: Name, done: NameDone): void {
  if (addresses.length > 0) done.resolved(addresses);
  else done.unresolved(failure);
}
