/** Where the rules of capture are to stand in this network namespace, and what it takes to get there. */
import { isDeepStrictEqual } from 'node:util';
import { explain, lacksTable } from './explain.ts';
import {
  type AddressState,
  addressState,
  addStep,
  ipv6Way,
  loopbackAddress,
  removeStep,
} from './loopback-address.ts';
import { type CaptureOptions, type Family, families } from './options.ts';
import { captureRules } from './rules.ts';
import {
  type Backend,
  backends,
  emptyStore,
  type Finding,
  isInstalled,
  nothing,
  readStore,
  type Store,
  type Wanted,
} from './store.ts';
import { InterceptError, runTool, type Step } from './tools.ts';
import { checkCapability, legacyTablesPresent } from './xtables.ts';

/** `auto`: where the kernel and the tools have it. */
export const ipv6Choices = ['auto', 'on', 'off'] as const;
export type Ipv6 = (typeof ipv6Choices)[number];

/** What stands where, as it was read. */
export interface Place {
  /** Where the rules shall stand. */
  readonly store: Store;
  /** The other places that may hold rules of ours. */
  readonly others: readonly Store[];
  /** Families to capture. */
  readonly families: readonly Family[];
  /** Of `::6` on lo. */
  readonly address: AddressState;
  readonly warnings: readonly string[];
}

/**
 * Looks at all places that may hold rules of ours, and chooses one: the one asked for; else the one that has rules of
 * ours; else iptables-legacy where others' rules are there; else the first that is installed and works.
 * @throws InterceptError that says what is missing
 */
export function findPlace(asked: Backend | null, ipv6: Ipv6): Place {
  const warnings: string[] = [];
  const stores: Store[] = [];
  const installed = installedBackends(asked);
  for (const backend of installed) {
    try {
      stores.push(readStore(backend));
    } catch (error) {
      if (!(error instanceof InterceptError) || backend === asked || installed.length === 1) throw error;
      warnings.push(error.message);
    }
  }
  const store = stores.find(({ backend }) => backend === asked) ?? chosen(stores);
  if (store === undefined) throw new InterceptError(warnings.join('; '));
  if (store.backend === 'iptables-legacy') checkCapability('legacy');
  if (families.some(legacyTablesPresent) && !installed.includes('iptables-legacy')) {
    warnings.push(
      'this network namespace has tables of iptables-legacy, and iptables-legacy is not installed: rules of capture in them, if any, are neither seen nor removed',
    );
  }
  const others = stores.filter((one) => one !== store);
  return { store, others, ...ipv6Of(store, ipv6, warnings), warnings };
}

/** As `findPlace` where nothing may be read: a network namespace without rules is supposed. */
export function emptyPlace(asked: Backend | null, ipv6: Ipv6): Place {
  const store = emptyStore(asked ?? backends.find(isInstalled) ?? 'iptables');
  const warnings: string[] = [];
  return { store, others: [], ...ipv6Of(store, ipv6, warnings), warnings };
}

function installedBackends(asked: Backend | null): readonly Backend[] {
  const installed = backends.filter(isInstalled);
  if (asked !== null && !installed.includes(asked)) {
    throw new InterceptError(`--backend ${asked}: its tools are not installed; ${packages[asked]}`);
  }
  if (installed.length > 0) return installed;
  throw new InterceptError(`neither iptables nor nft is installed; ${packages.iptables}`);
}

const packages: Readonly<Record<Backend, string>> = {
  iptables: 'install the package iptables (1.8 or later, with iptables-nft-restore)',
  'iptables-legacy': 'install the package iptables (on Alpine iptables-legacy)',
  nft: 'install the package nftables',
};

function chosen(stores: readonly Store[]): Store | undefined {
  return (
    stores.find((store) => store.compare(nothing).length > 0) ??
    stores.find(({ backend, used }) => backend === 'iptables-legacy' && used) ??
    stores[0]
  );
}

/** Which families to capture here. What is left out of them without being asked for is told. */
function ipv6Of({ withoutIpv6 }: Store, ipv6: Ipv6, warnings: string[]): Pick<Place, 'families' | 'address'> {
  const address = addressState();
  if (ipv6 === 'off') return { families: [4], address };
  const why = address === 'unsupported' ? 'the kernel has no IPv6' : withoutIpv6;
  if (why !== null) {
    if (ipv6 === 'on') throw new InterceptError(`--ipv6 on: ${why}`);
    warnings.push(ipv4Alone(why));
    return { families: [4], address };
  }
  if (address === 'disabled') {
    warnings.push(
      'IPv6 is disabled by sysctl, so ::6 is not added to lo; the rules for IPv6 are set all the same',
    );
  }
  return { families, address };
}

/** What has to be done, in order; nothing where all is as wanted. `options` null: nothing of ours shall stand. */
export function stepsTo(options: CaptureOptions | null, place: Place): readonly Step[] {
  const wanted = wantedOf(options, place);
  const steps = [...place.store.steps(wanted)];
  // Afterwards, so that there is no moment without rules.
  for (const other of place.others) steps.push(...other.steps(nothing));
  const listed = wanted.families.includes(6);
  if (listed && place.address === 'absent') return [addStep, ...steps];
  if (!listed && place.address === 'present') steps.push(removeStep);
  return steps;
}

/** What is not as wanted, at all places, and what may get past it. `options` null: what of ours stands. */
export function findings(options: CaptureOptions | null, place: Place): readonly Finding[] {
  const wanted = wantedOf(options, place);
  return [
    ...takenBefore(options, place),
    ...place.store.compare(wanted),
    ...addressFindings(wanted.families.includes(6), place),
    ...place.others.flatMap((other) => other.compare(nothing)),
  ];
}

/** Rules of others that may take what is to be captured: they are not ours to change. */
export function takenBefore(options: CaptureOptions | null, place: Place): readonly Finding[] {
  const wanted = wantedOf(options, place);
  return [place.store, ...place.others].flatMap((store) => store.takenBefore(wanted, store === place.store));
}

function addressFindings(wanted: boolean, { store, address }: Place): readonly Finding[] {
  if (address !== (wanted ? 'absent' : 'present')) return [];
  const kind = wanted ? 'missing' : 'foreign';
  return [{ backend: store.backend, family: 6, table: '', chain: 'lo', kind, rule: loopbackAddress }];
}

function wantedOf(options: CaptureOptions | null, { families }: Place): Wanted {
  return options === null ? nothing : { rules: captureRules(options), families };
}

/** Another run at the same time may come between our look and our change; whoever is last puts it right. */
const MOST_ATTEMPTS = 5;

/**
 * Takes us there, and looks whether we are.
 * @returns whether anything was changed; what could not be done and need not be, a line each; what stands now
 * @throws InterceptError that says what failed, and what to do about it
 */
export function bringAbout(
  options: CaptureOptions | null,
  place: Place,
  ipv6: Ipv6,
): { readonly changed: boolean; readonly warnings: readonly string[]; readonly place: Place } {
  let now = place;
  let steps = stepsTo(options, place);
  const changed = steps.length > 0;
  for (let attempt = 1; steps.length > 0; attempt++) {
    let failure = new InterceptError(
      'the rules were set, and do not stand: does something else change them?',
    );
    try {
      const warnings = carryOut(steps, ipv6);
      if (warnings.length > 0) return { changed, warnings, place: now };
    } catch (error) {
      if (!(error instanceof InterceptError)) throw error;
      failure = error;
    }
    now = findPlace(place.store.backend, ipv6);
    const left = stepsTo(options, now);
    // Nothing has moved, or it never comes to rest.
    if (isDeepStrictEqual(left, steps) || (left.length > 0 && attempt === MOST_ATTEMPTS)) throw failure;
    steps = left;
  }
  return { changed, warnings: [], place: now };
}

/** @returns what could not be done and need not be */
function carryOut(steps: readonly Step[], ipv6: Ipv6): readonly string[] {
  const warnings: string[] = [];
  for (const step of steps) {
    const { status, stderr } = runTool(step);
    // Somebody else may have been quicker to add the address.
    if (status === 0 || (step === addStep && addressState() === 'present')) continue;
    const why = explain(step.tool, stderr, step.input);
    if (step.family !== 6 || ipv6 === 'on' || !lacksTable(stderr)) throw new InterceptError(why);
    warnings.push(ipv4Alone(why));
  }
  return warnings;
}

/**
 * What to tell of IPv6 that cannot be captured, where nothing is lost by it.
 * @throws InterceptError where IPv6 would go past the sidecar, both ways
 */
function ipv4Alone(why: string): string {
  const way = ipv6Way();
  if (way === null) return `IPv4 alone is captured: ${why}`;
  throw new InterceptError(
    `IPv6 cannot be captured, and would go past the sidecar: ${way}. Disable IPv6 there by sysctl, or accept it with --ipv6 off. The cause: ${why}`,
  );
}
