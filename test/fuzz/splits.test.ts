/** Messages by chance, sent whole and in pieces: the app and the downstream see the same, however they were split. */
import t from 'tap';
import type { Case, Setup } from '../corpus/case.ts';
import { type Enter, type Outcome, play, type Splits, WHOLE } from '../corpus/play.ts';
import { somewhere } from '../corpus/run.ts';
import { sidecars } from '../corpus/sidecars.ts';
import { chance, mutated, OVER, requests } from './mutate.ts';

const AT_ONCE = 12;
const SETUPS: readonly Setup[] = ['inbound', 'outbound', 'pair'];

/** What must not depend on the pieces: all the downstream got, and every whole request of the app. */
function seen({ received, requests, faults }: Outcome): unknown {
  return {
    received,
    faults,
    requests: requests
      .filter(({ message }) => message.complete)
      .map(({ message: { start, fields, framing, body, trailers } }) => ({
        start,
        // Made anew for each.
        fields: fields.filter(([name]) => !/^x-request-id$/i.test(name)).map((field) => field.join(': ')),
        framing,
        body,
        trailers,
      })),
  };
}

async function through(text: string, enter: Enter, splits: Splits): Promise<unknown> {
  const row: Case = { name: '', send: [text, 'FIN'], expect: { answers: [], end: 'gone', app: [] } };
  return seen(await play(row, enter, splits));
}

t.setTimeout(OVER);

t.test('the same bytes in any split give the same answer', { timeout: OVER }, async (t) => {
  const { seed, next, until } = chance();
  const { enter, errors } = await sidecars(t);
  let count = 0;
  const work = async (): Promise<void> => {
    while (performance.now() < until) {
      const text = mutated(requests, next);
      // What answers a HEAD cannot be told by its bytes alone.
      if (text.includes('HEAD ')) continue;
      const setup = SETUPS[count++ % SETUPS.length] as Setup;
      const splits = somewhere(next, 1 + Math.floor(next() * 12));
      const [whole, pieces] = [
        await through(text, enter[setup], WHOLE),
        await through(text, enter[setup], splits),
      ];
      if (JSON.stringify(whole) !== JSON.stringify(pieces)) {
        t.same(pieces, whole, `OARLOCK_FUZZ_SEED=${seed}, ${setup}: ${JSON.stringify(text)}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  t.comment(`${count} messages, OARLOCK_FUZZ_SEED=${seed}`);
  t.same(errors, [], 'no fault of the sidecars themselves');
  t.ok(count > 100, 'enough of them');
});
