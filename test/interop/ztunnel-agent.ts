/** A process in the namespace behind ztunnel: the apps there, and callers at the bidding of the test that forked it. */
import { startApps } from './ztunnel-apps.ts';
import { type CallerName, callers } from './ztunnel-callers.ts';

export interface Order {
  readonly id: number;
  readonly name: CallerName;
  readonly args: readonly unknown[];
}

const { ports } = await startApps();

process.on('message', async ({ id, name, args }: Order) => {
  const caller = callers[name] as (...args: readonly unknown[]) => Promise<unknown>;
  try {
    process.send?.({ id, result: await caller(...args) });
  } catch (error) {
    process.send?.({ id, error: String(error) });
  }
});
process.on('disconnect', () => process.exit(0));
process.send?.({ ports });
