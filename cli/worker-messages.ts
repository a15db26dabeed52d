/** What crosses between `run`'s thread and a data-path thread: plain data only. */
import type { SnapshotInput } from '../config/snapshot.ts';
import type { Credentials } from '../mesh/credentials.ts';
import type { Resource } from '../mesh/resource.ts';
import type { Direction } from '../proxy/connections.ts';
import type { OwnPorts } from '../proxy/setup/listeners.ts';
import type { LogLevel } from '../telemetry/log.ts';
import type { PlaneOptions, TrustUpdate } from './data-plane.ts';

export interface WorkerOptions {
  readonly plane: PlaneOptions;
  readonly logLevel: LogLevel;
  readonly clusterId: string;
}

/** A resource without its line finder, which cannot cross threads. */
type PlainResource = Omit<Resource, 'origin'> & { readonly file: string };
type PlainInput = Omit<SnapshotInput, 'resources'> & { readonly resources: readonly PlainResource[] };

export type Order =
  | { readonly kind: 'listen'; readonly own: OwnPorts }
  | { readonly kind: 'apply'; readonly own: OwnPorts; readonly input: PlainInput }
  | { readonly kind: 'credentials'; readonly credentials: Credentials }
  | { readonly kind: 'trust'; readonly additions: TrustUpdate }
  | { readonly kind: 'report' }
  | { readonly kind: 'reopen-logs' }
  | { readonly kind: 'metrics' }
  | { readonly kind: 'announce'; readonly ms: number }
  | { readonly kind: 'drain'; readonly direction: Direction }
  | { readonly kind: 'stop'; readonly why: string };
export type WorkerRequest = Order & { readonly id: number };
export type WorkerAnswer =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: string };
