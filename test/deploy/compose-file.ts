/** A compose file as `docker compose` understands it, as far as ours goes. */
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';

export type Condition = 'service_started' | 'service_healthy';

export interface Service {
  readonly image: string;
  readonly command?: readonly string[];
  readonly user?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** `SOURCE:TARGET[:ro]`. */
  readonly volumes?: readonly string[];
  readonly network_mode?: string;
  readonly networks?: Readonly<Record<string, { readonly ipv4_address: string }>>;
  readonly extra_hosts?: readonly string[];
  readonly depends_on?: Readonly<
    Record<string, { readonly condition: Condition; readonly restart?: boolean }>
  >;
  readonly healthcheck?: { readonly disable?: boolean; readonly test?: readonly string[] };
  readonly read_only?: boolean;
  readonly restart?: string;
  readonly cap_drop?: readonly string[];
  readonly cap_add?: readonly string[];
  readonly security_opt?: readonly string[];
}

export interface ComposeFile {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
}

/** With merge keys followed and default values of `${NAME:-DEFAULT}` in place. */
export function readCompose(file: string): ComposeFile {
  const text = readFileSync(file, 'utf8').replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1');
  return parse(text, { merge: true }) as ComposeFile;
}

/** Whose network namespace it lives in: its own, or another service's; null without any network. */
export function networkOf(name: string, { network_mode: mode }: Service): string | null {
  if (mode === 'none') return null;
  return mode?.startsWith('service:') ? mode.slice('service:'.length) : name;
}
