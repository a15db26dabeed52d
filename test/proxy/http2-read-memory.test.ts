/** What HTTP/2 read is given back by collections of young garbage, one for so many bytes. */
import { constants, PerformanceObserver } from 'node:perf_hooks';
import t from 'tap';
import { dataRead } from '../../proxy/http2/read-memory.ts';
import { until } from '../e2e/harness/wait.ts';

const MB = 1_000_000;
const { NODE_PERFORMANCE_GC_FLAGS_FORCED: FORCED, NODE_PERFORMANCE_GC_MINOR: MINOR } = constants;

t.test('every 16 MB young garbage is collected, and nothing else', async (t) => {
  const kinds: unknown[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind, flags } = Reflect.get(entry, 'detail') as { kind: number; flags: number };
      if ((flags & FORCED) !== 0) kinds.push(kind);
    }
  });
  observer.observe({ entryTypes: ['gc'] });
  for (let read = 0; read < 63; read++) dataRead(MB);
  await until('three to be told', () => kinds.length >= 3);
  t.strictSame(kinds, [MINOR, MINOR, MINOR]);
  dataRead(MB);
  await until('the fourth', () => kinds.length > 3);
  t.strictSame(kinds, [MINOR, MINOR, MINOR, MINOR]);
  observer.disconnect();
});
