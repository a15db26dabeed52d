/** What the bench makes of its figures: medians, ratios round by round, and the verdict on each aim. */
import t from 'tap';
import { Figures, median, spread } from '../../bench/figures.ts';
import { Latencies } from '../../bench/latencies.ts';
import { A_CPU_SECOND, BULK_CPU, BULK_TABLE, CPU, FRESH_TABLE, keepAliveTable } from '../../bench/measure.ts';
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
  readonly row: string;
  readonly measure: string;
  readonly peer: string;
  readonly median: number | null;
  readonly verdict: string;
}

function verdicts(figures: Figures): Record<string, string> {
  const data = aimsOf(figures).data as readonly Judged[];
  return Object.fromEntries(
    data.map(({ row, measure, peer, verdict }) => [`${row}: ${measure}, ${peer}`, verdict]),
  );
}

t.test('an aim is met up to its figure, missed beyond, and not measured without its peer', async (t) => {
  const onTheSpot = verdicts(measured([50, 130], [100, 260], [100, 100]));
  t.equal(onTheSpot['Oarlock: CPU a request, Envoy'], 'met', 'half, at most half');
  t.equal(onTheSpot['Oarlock: CPU a request, HAProxy'], 'met', '0.5 and 1.3');
  t.equal(onTheSpot['Oarlock: CPU a byte, Envoy'], 'not measured');
  t.equal(verdicts(measured([51], [100], [10]))['Oarlock: CPU a request, Envoy'], 'MISSED');
  t.equal(verdicts(measured([51], [100], [10]))['Oarlock: CPU a request, HAProxy'], 'MISSED');
  t.equal(verdicts(measured([50], [], [10]))['Oarlock: CPU a request, Envoy'], 'not measured');
});

t.test('the tunnel is judged by its own aims, each beside the row it names', async (t) => {
  const cases: readonly {
    readonly aim: string;
    readonly table: string;
    readonly column: string;
    readonly ours: readonly [row: string, met: number, missed: number];
    readonly theirs: readonly [row: string, value: number];
  }[] = [
    {
      aim: 'Oarlock, HBONE between: CPU a request, Envoy',
      ...{ table, column: CPU },
      ours: ['Oarlock, HBONE between', 25, 26],
      theirs: ['Envoy', 100],
    },
    {
      aim: 'Oarlock, HBONE between: CPU a request, HAProxy, HTTP/2 between',
      ...{ table, column: CPU },
      ours: ['Oarlock, HBONE between', 40, 41],
      theirs: ['HAProxy, HTTP/2 between', 40],
    },
    {
      aim: 'Oarlock, HBONE between: p50 at 1 connection, Oarlock',
      ...{ table: keepAliveTable(1), column: 'p50 ms' },
      ours: ['Oarlock, HBONE between', 0.1, 0.11],
      theirs: ['Oarlock', 0.1],
    },
    {
      aim: 'Oarlock, HBONE between: CPU a byte, Envoy',
      ...{ table: BULK_TABLE, column: BULK_CPU },
      ours: ['Oarlock, HBONE between', 150, 151],
      theirs: ['Envoy', 100],
    },
    {
      aim: 'Oarlock, TCP, HBONE between: new connections a CPU second, Envoy, TCP',
      ...{ table: FRESH_TABLE, column: A_CPU_SECOND },
      ours: ['Oarlock, TCP, HBONE between', 5000, 4999],
      theirs: ['Envoy, TCP', 1000],
    },
    {
      aim: 'Oarlock, HBONE between: new connections with HTTP a CPU second, Envoy',
      ...{ table: FRESH_TABLE, column: A_CPU_SECOND },
      ours: ['Oarlock, HBONE between', 5000, 4999],
      theirs: ['Envoy', 1000],
    },
  ];
  for (const { aim, table, column, ours, theirs } of cases) {
    const [row, met, missed] = ours;
    for (const [value, verdict] of [
      [met, 'met'],
      [missed, 'MISSED'],
    ] as const) {
      const figures = new Figures();
      figures.add(table, row, column, value);
      t.equal(verdicts(figures)[aim], 'not measured', aim);
      figures.add(table, theirs[0], column, theirs[1]);
      t.equal(verdicts(figures)[aim], verdict, aim);
    }
  }
});

t.test(
  'what carries TCP is compared with what carries TCP, and a tunnel with the row that has none',
  async (t) => {
    const ids = [
      'oarlock',
      'oarlock-hbone',
      'oarlock-tcp',
      'oarlock-hbone-tcp',
      'hbone-bytes',
      'envoy',
      'envoy-tcp',
    ];
    const running = rows.filter(({ id }) => ids.includes(id));
    t.equal(running.length, ids.length);
    const figures = new Figures();
    for (const { name } of running) figures.add(FRESH_TABLE, name, CPU, 1);
    const ratios = ratiosOf(figures, running).data as readonly {
      readonly row: string;
      readonly peer: string;
    }[];
    const peersOf = (name: string) => ratios.filter(({ row }) => row === name).map(({ peer }) => peer);
    const bytes = "Oarlock's tunnel, bytes alone";
    t.strictSame(peersOf('Oarlock'), [bytes, 'Envoy']);
    t.strictSame(peersOf('Oarlock, HBONE between'), ['Oarlock', bytes, 'Envoy']);
    t.strictSame(peersOf('Oarlock, TCP'), [bytes, 'Envoy, TCP']);
    t.strictSame(peersOf('Oarlock, TCP, HBONE between'), ['Oarlock, TCP', bytes, 'Envoy, TCP']);
    t.strictSame(peersOf(bytes), ['Envoy'], 'the tunnel alone is a row of ours, and compared as one of HTTP');
  },
);

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
