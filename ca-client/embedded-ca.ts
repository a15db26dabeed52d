/** The embedded CA: a root or intermediate kept in a folder, and the certificates it issues. For one machine, compose and tests. */
import { webcrypto as crypto, type webcrypto, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { readCertificate } from '../mesh/certificates.ts';
import type { Identity } from '../mesh/identity.ts';
import { CaAccess, type CaView } from './ca-access.ts';
import type { AuditRecord, IssuedBy, IssuedRecord, RefusedRecord } from './ca-audit.ts';
import { keyPrint, type LeafWish, makeLeaf } from './ca-certificates.ts';
import { CA_FILES, type CaState, createRoot, makeFolder } from './ca-folder.ts';
import { INTERMEDIATE_TTL_MS, issueIntermediate } from './ca-intermediate.ts';
import { withLock } from './ca-lock.ts';
import { type Rate, RateError, RateLimit } from './ca-rates.ts';
import { RequestError, readRequest } from './csr.ts';
import { readIfThere } from './file-store.ts';
import { newKeys, privateKeyPem } from './keys.ts';
import { CredentialsError } from './source.ts';

export interface Issued {
  readonly certificatePem: string;
  /** The leaf, then the intermediates there are. */
  readonly chain: readonly string[];
  /** Every root to be trusted, one PEM each. */
  readonly roots: readonly string[];
  readonly serial: string;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface IssuedWithKey extends Issued {
  /** PKCS#8 PEM. */
  readonly keyPem: string;
}

/** Who asked, for the audit log. */
export interface Requester {
  readonly by: IssuedBy;
  /** Address; null for a command. */
  readonly peer: string | null;
}

export interface EmbeddedCa {
  readonly trustDomain: string;
  /** Where the root certificates lie. */
  readonly rootFile: string;
  /** What that file held when the folder was last read. */
  readonly rootPem: string;
  /** The way to the folder for what else is done there: rotation, revocation, upkeep. */
  readonly access: CaAccess;
  /**
   * Signs the key of a PEM request for this identity, whatever names the request asks for.
   * @throws RequestError where the request is refused, RateError where too many wait, CredentialsError where the CA
   *   cannot sign or cannot write down that it did.
   */
  issueForRequest(csrPem: string, identity: Identity, ttlMs: number, requester?: Requester): Promise<Issued>;
  /** Makes a key and signs it for this identity. */
  issueWithKey(identity: Identity, ttlMs: number): Promise<IssuedWithKey>;
  /** Makes a key and signs it for a server of these DNS names and IP addresses. */
  issueServer(hosts: readonly string[], ttlMs: number): Promise<IssuedWithKey>;
  /** Writes a refusal to the audit log, some time soon. Many at once are not all written. */
  noteRefusal(refused: Omit<RefusedRecord, 'event' | 'time'>): void;
}

export interface EmbeddedCaOptions {
  /**
   * Made if absent; holds `root-cert.pem`, `root-key.pem` (mode 0600) or an intermediate's `ca-cert.pem` and
   * `ca-key.pem`, and the audit log `issued.jsonl`.
   */
  readonly dir: string;
  /** Null: the root's own, or `cluster.local` for a new one. */
  readonly trustDomain: string | null;
  /** Folder of the root that issues this one's intermediate, needed where there is none yet; default: no other. */
  readonly rootDir?: string | null;
  /** Validity of a new root in milliseconds, default ten years. */
  readonly rootTtlMs?: number;
  readonly now?: () => number;
  /** Size beyond which the audit log is written anew. */
  readonly auditMaxBytes?: number;
}

export const ROOT_TTL_MS = 315_360_000_000;
/** So many are signed while the folder is locked once; they share a write to the disk. */
const BATCH = 100;
/** More that wait are refused: each waits behind all before it. */
const MAX_WAITING = 1_000;
const WAITING_RETRY_MS = 2_000;
const FULL_RETRY_MS = 60_000;
/** Refusals are written at this rate: who is refused must not be able to flush the log. The CA's own log has all. */
const NOTES: Rate = { count: 100, periodMs: 60_000 };

/**
 * Opens the CA of a folder, making its root, or having its intermediate issued, at the first start. Safe when several
 * processes do so at once.
 * @throws CredentialsError where the folder's files do not fit together or belong to another trust domain.
 */
export async function openEmbeddedCa(options: EmbeddedCaOptions): Promise<EmbeddedCa> {
  const { dir, now = Date.now, auditMaxBytes } = options;
  const access = new CaAccess({ dir, now, auditMaxBytes });
  await makeFolder(dir);
  const state = await withLock(dir, async () => {
    await firstStart(access, options);
    return (await access.read()).state;
  });
  const rootFile = join(dir, CA_FILES.roots);
  const { trustDomain } = state;
  if (options.trustDomain !== null && options.trustDomain !== trustDomain) {
    throw new CredentialsError(
      `${rootFile} is the root of trust domain ${trustDomain}, not of ${options.trustDomain}`,
    );
  }
  const issuer = new Issuer(access);
  return {
    trustDomain,
    rootFile,
    access,
    get rootPem() {
      return (access.state ?? state).bundlePem;
    },
    async issueForRequest(csrPem, identity, ttlMs, requester = { by: 'cli', peer: null }) {
      const spki = await readRequest(csrPem);
      return issuer.issue({ spki, names: { uri: identity.uri }, ttlMs, ...requester });
    },
    issueWithKey: (identity, ttlMs) =>
      withKey((spki) => issuer.issue({ spki, names: identity, ttlMs, by: 'cli', peer: null })),
    issueServer: (hosts, ttlMs) =>
      withKey((spki) => issuer.issue({ spki, names: { hosts }, ttlMs, by: 'server', peer: null })),
    noteRefusal: (refused) =>
      issuer.note({ event: 'refused', time: new Date(now()).toISOString(), ...refused }),
  };
}

async function firstStart(access: CaAccess, options: EmbeddedCaOptions): Promise<void> {
  const { dir, trustDomain, rootDir = null, rootTtlMs: ttlMs = ROOT_TTL_MS } = options;
  const now = access.now();
  if (rootDir === null) return createRoot(dir, { trustDomain, ttlMs, now });
  if ((await readIfThere(join(dir, CA_FILES.intermediate))) !== null) return;
  await issueIntermediate(access, { dir: rootDir, trustDomain, ttlMs }, INTERMEDIATE_TTL_MS);
}

interface Order extends LeafWish, Requester {}

interface Job {
  readonly order: Order;
  readonly resolve: (issued: Issued) => void;
  readonly reject: (error: unknown) => void;
}

/** Signs in batches: each takes the folder's lock once, and is on the disk before anyone is answered. */
class Issuer {
  readonly #access: CaAccess;
  #jobs: Job[] = [];
  #notes: RefusedRecord[] = [];
  readonly #noteRate = new RateLimit(NOTES, NOTES);
  #unwritten = 0;
  #running = false;

  constructor(access: CaAccess) {
    this.#access = access;
  }

  issue(order: Order): Promise<Issued> {
    return new Promise((resolve, reject) => {
      if (this.#jobs.length >= MAX_WAITING) {
        reject(new RateError(`${MAX_WAITING} requests wait already; ask again later`, WAITING_RETRY_MS));
        return;
      }
      this.#jobs.push({ order, resolve, reject });
      this.#start();
    });
  }

  note(refused: RefusedRecord): void {
    if (!this.#noteRate.allows('', performance.now())) {
      this.#unwritten++;
      return;
    }
    this.#notes.push(this.#unwritten === 0 ? refused : { ...refused, unwritten: this.#unwritten });
    this.#unwritten = 0;
    this.#start();
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  async #run(): Promise<void> {
    while (this.#jobs.length > 0 || this.#notes.length > 0) {
      const jobs = this.#jobs.splice(0, BATCH);
      const notes = this.#notes.splice(0);
      try {
        await this.#access.locked((view) => issueBatch(view, jobs, notes));
      } catch (error) {
        // the first of two that settle a promise counts
        for (const { reject } of jobs) reject(error);
      }
    }
    this.#running = false;
  }
}

async function issueBatch(
  view: CaView,
  jobs: readonly Job[],
  notes: readonly RefusedRecord[],
): Promise<void> {
  const { audit, now } = view;
  const outcomes = await Promise.all(jobs.map((job) => signOne(view, job)));
  const done = outcomes.filter((outcome) => outcome !== null);
  const records: AuditRecord[] = [...notes, ...done.map(({ record }) => record)];
  await audit.append(records, now);
  for (const { job, issued } of done) job.resolve(issued);
}

/** Null where it was refused; then the one who asked has been told. */
async function signOne(
  { state, audit, now }: CaView,
  job: Job,
): Promise<{ job: Job; issued: Issued; record: IssuedRecord } | null> {
  const { order } = job;
  try {
    const publicKey = keyPrint(order.spki);
    if (audit.revokedKeys.has(publicKey)) {
      throw new RequestError('the key is that of a certificate that was revoked; make a new one');
    }
    if (state.caKeys.has(publicKey)) throw new RequestError("the key is the CA's own; make another one");
    const identity = 'uri' in order.names ? order.names.uri : null;
    if (!audit.hasRoom(identity)) {
      throw new RateError(
        'as many valid certificates are out as the CA keeps track of; ask when some have expired',
        FULL_RETRY_MS,
      );
    }
    const pem = await makeLeaf(state.signer, order, now);
    const { serial, notBefore, notAfter } = readCertificate(new X509Certificate(pem).raw);
    const issued = {
      certificatePem: pem,
      chain: [pem, ...state.intermediates],
      roots: state.roots.map((root) => root.pem),
      ...{ serial, notBefore, notAfter },
    };
    return { job, issued, record: recordOf(state, order, issued, now) };
  } catch (error) {
    job.reject(error);
    return null;
  }
}

function recordOf(state: CaState, order: Order, issued: Issued, now: number): IssuedRecord {
  return {
    event: 'issued',
    time: new Date(now).toISOString(),
    identity: 'uri' in order.names ? order.names.uri : null,
    serial: issued.serial,
    notBefore: new Date(issued.notBefore).toISOString(),
    notAfter: new Date(issued.notAfter).toISOString(),
    publicKey: keyPrint(order.spki),
    peer: order.peer,
    by: order.by,
    issuer: state.signerPrint,
    root: state.signingRoot.fingerprint,
    roots: state.roots.map(({ fingerprint }) => fingerprint),
  };
}

async function withKey(sign: (spki: ArrayBuffer) => Promise<Issued>): Promise<IssuedWithKey> {
  const keys: webcrypto.CryptoKeyPair = await newKeys();
  const issued = await sign(await crypto.subtle.exportKey('spki', keys.publicKey));
  return { ...issued, keyPem: await privateKeyPem(keys) };
}
