/** What the bench makes of its figures: medians, ratios round by round, and the verdict on each aim. */
import t from 'tap';
import { Figures, median, spread } from '../../bench/figures.ts';
import { Latencies } from '../../bench/latencies.ts';
import { BULK_CPU, BULK_TABLE, CPU, keepAliveTable } from '../../bench/measure.ts';
import { rows } from '../../bench/rows.ts';
import { aimsOf, ratiosOf, shortOf } from '../../bench/summaries.ts';

t.test('median and spread', async (t) => {
  const cases: readonly (readonly [readonly number[], number, string])[] = [
    [[5], 5, '5.00'],
    [[3, 1, 2], 2, '2.00 (1.00–3.00)'],
    [[4, 1, 2, 3], 2.5, '2.50 (1.00–4.00)'],
    [[1234, 9, 10], 10, '10.0 (9.00–1,234)'],
  ];
  for (const [values, middle, text] of cases) {
    t.equal(median(values), middle);
    t.equal(spread(values), text);
  }
});

t.test('quantiles of latencies', async (t) => {
  const latencies = new Latencies();
  t.equal(latencies.quantile(0.99), 0, 'of nothing');
  for (let ms = 1; ms <= 1000; ms++) latencies.add(ms);
  t.equal(latencies.quantile(0.5), 500);
  t.equal(latencies.quantile(0.99), 990);
  t.equal(latencies.quantile(0.999), 999);
  latencies.add(1e9);
  t.equal(latencies.quantile(1), 3999.999, 'what is beyond the last step counts as the last');
  latencies.clear();
  latencies.add(0.25);
  t.equal(latencies.quantile(0.5), 0.25);
});

const table = keepAliveTable(32);

function measured(ours: readonly number[], envoy: readonly number[], haproxy: readonly number[]): Figures {
  const figures = new Figures();
  for (const [row, rounds] of Object.entries({ Oarlock: ours, Envoy: envoy, HAProxy: haproxy })) {
    for (const value of rounds) figures.add(table, row, CPU, value);
  }
  return figures;
}

interface Judged {
  readonly measure: string;
  readonly peer: string;
  readonly median: number | null;
  readonly verdict: string;
}

function verdicts(figures: Figures): Record<string, string> {
  const data = aimsOf(figures).data as readonly Judged[];
  return Object.fromEntries(data.map(({ measure, peer, verdict }) => [`${measure}, ${peer}`, verdict]));
}

t.test('an aim is met up to its figure, missed beyond, and not measured without its peer', async (t) => {
  const onTheSpot = verdicts(measured([50, 130], [100, 260], [100, 100]));
  t.equal(onTheSpot['CPU a request, Envoy'], 'met', 'half, at most half');
  t.equal(onTheSpot['CPU a request, HAProxy'], 'met', '0.5 and 1.3');
  t.equal(onTheSpot['CPU a byte, Envoy'], 'not measured');
  t.equal(verdicts(measured([51], [100], [10]))['CPU a request, Envoy'], 'MISSED');
  t.equal(verdicts(measured([51], [100], [10]))['CPU a request, HAProxy'], 'MISSED');
  t.equal(verdicts(measured([50], [], [10]))['CPU a request, Envoy'], 'not measured');
});

t.test('ratios are taken round by round: a noisy round that hits both disturbs none', async (t) => {
  const running = rows.filter(({ id }) => ['oarlock', 'envoy', 'haproxy'].includes(id));
  const { data } = ratiosOf(measured([10, 1000, 20], [20, 2000, 40], [10, 10]), running);
  const ratios = data as readonly {
    readonly peer: string;
    readonly median: number;
    readonly rounds: unknown;
  }[];
  const of = (name: string) => ratios.find(({ peer }) => peer === name);
  t.strictSame(of('Envoy')?.rounds, [0.5, 0.5, 0.5]);
  t.equal(of('HAProxy')?.median, 2, 'where a round is missing: the medians');
});

t.test('in short: only rows and cells that were measured', async (t) => {
  const running = rows.filter(({ id }) => ['oarlock', 'envoy', 'nginx'].includes(id));
  const figures = measured([100, 120], [200], []);
  figures.add(BULK_TABLE, 'no proxy', BULK_CPU, null);
  const { text } = shortOf(figures, running);
  const lines = text.split('\n').map((line) => line.split('|').map((cell) => cell.trim()));
  t.strictSame(
    lines.slice(2).map(([, row, cpu, bulk]) => [row, cpu, bulk]),
    [
      ['Oarlock', '110', '–'],
      ['Envoy', '200', '–'],
    ],
  );
});
