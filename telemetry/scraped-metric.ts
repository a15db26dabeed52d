/** The bridge to prom-client: a metric that keeps no values of its own and reads our records when scraped. */
import type { Metric, Registry } from 'prom-client';
import { defaultBuckets, type HistogramRecord } from './histogram.ts';

export type Labels = Readonly<Record<string, string | number>>;

/** One line of the exposition, in the form prom-client's Registry reads. */
export interface Sample {
  readonly value: number;
  readonly labels: Labels;
  /** Labels shared by many lines: prom-client escapes them once an object and remembers the text. */
  readonly sharedLabels: Labels;
  /** Line's name where it differs from the metric's: `…_bucket`, `…_sum`, `…_count`. */
  readonly metricName?: string;
}

export interface ScrapedMetricOptions {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  /** How the threads' values are merged by `AggregatorRegistry.aggregate`; `sum` unless told. */
  readonly aggregator?: 'sum' | 'first' | 'min' | 'max' | 'average' | 'omit';
  /** Adds this moment's lines to `samples`. */
  readonly read: (samples: Sample[]) => void;
}

const NO_LABELS: Labels = Object.freeze({});

/** What prom-client's Registry asks of a metric: `get` for JSON, `getForPromString` for text. */
class ScrapedMetric {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly aggregator: string;
  readonly #read: (samples: Sample[]) => void;

  constructor(options: ScrapedMetricOptions) {
    this.name = options.name;
    this.help = options.help;
    this.type = options.type;
    this.aggregator = options.aggregator ?? 'sum';
    this.#read = options.read;
  }

  /** Every label spelled out on every line: the merging of threads looks at `labels` alone. */
  async get() {
    const whole = await this.getForPromString();
    const values = whole.values.map((sample) => ({
      value: sample.value,
      labels: { ...sample.sharedLabels, ...sample.labels },
      ...(sample.metricName === undefined ? {} : { metricName: sample.metricName }),
    }));
    return { ...whole, values };
  }

  async getForPromString() {
    const { name, help, type, aggregator } = this;
    return { name, help, type, aggregator, values: this.read() };
  }

  /** This moment's lines. */
  read(): Sample[] {
    const samples: Sample[] = [];
    this.#read(samples);
    return samples;
  }

  /** Our records are not prom-client's to clear: counters only ever go up. */
  reset(): void {}
}

/** True for a metric of ours: its lines can be had without prom-client. */
export function isScraped(metric: unknown): metric is ScrapedMetric {
  return metric instanceof ScrapedMetric;
}

/**
 * Registers a metric that is read when scraped.
 * @throws Error where the registry already has one of that name.
 */
export function registerScraped(registry: Registry, options: ScrapedMetricOptions): void {
  // prom-client's type names only its own four classes; its Registry asks no more than ScrapedMetric has.
  registry.registerMetric(new ScrapedMetric(options) as unknown as Metric<string>);
}

/** A line of a counter or gauge. */
export function sample(value: number, sharedLabels: Labels = NO_LABELS): Sample {
  return { value, labels: NO_LABELS, sharedLabels };
}

const LE_LABELS: readonly Labels[] = [...defaultBuckets.map(String), '+Inf'].map((le) => ({ le }));

/** Adds a histogram's lines: cumulative buckets, sum and count. */
export function pushHistogram(
  samples: Sample[],
  name: string,
  sharedLabels: Labels,
  histogram: HistogramRecord,
): void {
  let count = 0;
  for (let i = 0; i < LE_LABELS.length; i++) {
    count += histogram.counts[i] ?? 0;
    samples.push({
      value: count,
      labels: LE_LABELS[i] ?? NO_LABELS,
      sharedLabels,
      metricName: `${name}_bucket`,
    });
  }
  samples.push({ value: histogram.sum, labels: NO_LABELS, sharedLabels, metricName: `${name}_sum` });
  samples.push({ value: count, labels: NO_LABELS, sharedLabels, metricName: `${name}_count` });
}
