/** What a running CA does of itself: renews its intermediate and its CRL in time, and warns before something ends. */
import type { CaAccess, CaView } from './ca-access.ts';
import { BACKDATE_MS } from './ca-certificates.ts';
import { crlDue, writeCrl } from './ca-crl.ts';
import { intermediateLife, issueIntermediate, type RootPlace } from './ca-intermediate.ts';

/** What the CA says of itself and of each request: pino's logger, or a test's. Never a token or key. */
export interface CaLog {
  info(record: Readonly<Record<string, unknown>>, message: string): void;
  warn(record: Readonly<Record<string, unknown>>, message: string): void;
}

export interface UpkeepOptions {
  readonly access: CaAccess;
  /** Where the root is that can renew the intermediate; null: out of reach. */
  readonly root: RootPlace | null;
  readonly log: CaLog;
}

export interface Upkeep {
  /** Does what is due. Cheap where nothing is; never rejects, what goes wrong is logged and tried again. */
  look(): Promise<void>;
}

/** An intermediate is renewed, or its end warned of, when so much of its life is over. */
const INTERMEDIATE_SHARE = 2 / 3;
/** A root's end is warned of then: its rotation takes as long as the longest certificate. */
const ROOT_SHARE = 0.9;
const WARN_EVERY_MS = 3_600_000;
const RETRY_MS = 30_000;

export function caUpkeep({ access, root, log }: UpkeepOptions): Upkeep {
  /** Nothing is due before; milliseconds since the epoch. */
  let due = 0;
  let warned = Number.NEGATIVE_INFINITY;

  async function work(view: CaView): Promise<void> {
    let { state } = view;
    const { now } = view;
    const renewAt = renewalOf(state);
    const endsWithRoot = state.signer.notAfter >= state.signingRoot.notAfter;
    if (now >= renewAt && root !== null && !endsWithRoot) {
      await issueIntermediate(access, root, intermediateLife(state));
      ({ state } = await access.read());
      const notAfter = new Date(state.signer.notAfter).toISOString();
      log.info({ event: 'intermediate', certificate: state.signerPrint, notAfter }, 'intermediate renewed');
    }
    warn(state, now);
    const crlAt = await crlDue({ ...view, state });
    if (now >= crlAt) {
      const { nextUpdate } = await writeCrl({ ...view, state }, null);
      log.info({ event: 'crl', nextUpdate: new Date(nextUpdate).toISOString() }, 'CRL written');
    }
    const soonest = Math.min(await crlDue({ ...view, state }), renewalOf(state), rootWarningOf(state));
    due = soonest > now ? soonest : now + RETRY_MS;
  }

  function warn(state: CaView['state'], now: number): void {
    if (now - warned < WARN_EVERY_MS) return;
    const { signer, signingRoot } = state;
    if (now >= rootWarningOf(state)) {
      warned = now;
      const notAfter = new Date(signingRoot.notAfter).toISOString();
      log.warn(
        { event: 'root-ends', notAfter },
        'the root ends soon: exchange it with oarlock ca rotate-root',
      );
    } else if (now >= renewalOf(state)) {
      warned = now;
      const notAfter = new Date(signer.notAfter).toISOString();
      log.warn(
        { event: 'intermediate-ends', notAfter },
        'the intermediate ends soon: issue another with oarlock ca intermediate, or serve with --root-dir',
      );
    }
  }

  return {
    async look() {
      try {
        if (access.now() < due && !(await access.changed())) return;
        await access.locked(work);
      } catch (error) {
        due = access.now() + RETRY_MS;
        log.warn(
          { event: 'upkeep', error: (error as Error).message },
          'the CA could not keep its files up to date',
        );
      }
    },
  };
}

/** Infinity where the root itself signs. */
function renewalOf({ signer, intermediates }: CaView['state']): number {
  if (intermediates.length === 0) return Number.POSITIVE_INFINITY;
  const start = Math.min(signer.notBefore + BACKDATE_MS, signer.notAfter);
  return start + (signer.notAfter - start) * INTERMEDIATE_SHARE;
}

function rootWarningOf({ signingRoot: { notBefore, notAfter } }: CaView['state']): number {
  return notBefore + (notAfter - notBefore) * ROOT_SHARE;
}
