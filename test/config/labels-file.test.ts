/** The pod's labels as Kubernetes' downward API writes them. */
import t from 'tap';
import { readLabelsFile } from '../../config/labels-file.ts';
import { readRunOptions, runCommandOptions } from '../../config/options.ts';
import { fileWith } from '../ca-client/helper.ts';

t.test('what Kubernetes writes', async (t) => {
  // pkg/fieldpath, FormatMap: sorted, each value by %q, no line end after the last.
  const text = 'app="web"\napp.kubernetes.io/version="1.2_b-3"\nempty=""\npod-template-hash="5d4f"';
  t.same(
    [...readLabelsFile(fileWith(t, text))],
    [
      ['app', 'web'],
      ['app.kubernetes.io/version', '1.2_b-3'],
      ['empty', ''],
      ['pod-template-hash', '5d4f'],
    ],
  );
  t.same([...readLabelsFile(fileWith(t, ''))], [], 'a pod without labels');
});

t.test('what it does not write', async (t) => {
  const rows: readonly (readonly [text: string, message: RegExp])[] = [
    ['app=web', /:1: must be KEY="VALUE"/],
    ['app="web"\n="x"', /:2: must be KEY="VALUE"/],
    ['app="web" x="y"', /:1: must be KEY="VALUE"/],
    ['{"app": "web"}', /:1: must be KEY="VALUE"/],
    [`app="${'x'.repeat(300_000)}"`, /300006 bytes are more than/],
  ];
  for (const [text, message] of rows) {
    t.throws(() => readLabelsFile(fileWith(t, text)), { message }, text.slice(0, 20));
  }
  t.throws(() => readLabelsFile('/nowhere/labels'), { message: /--labels-file \/nowhere\/labels: ENOENT/ });
});

t.test('they beat those that injection saw, and add to them', async (t) => {
  const file = fileWith(t, 'app="shop"\npod-template-hash="5d4f"');
  const words = ['--config', 'mesh', '--labels', 'app=web,version=v1', '--labels-file', file];
  let parsed: Record<string, unknown> = {};
  const command = runCommandOptions().action((options: Record<string, unknown>) => {
    parsed = options;
  });
  await command.parseAsync([...words, '--cert-dir', 'certs', '--allow-root'], { from: 'user' });
  const { workload } = readRunOptions(parsed);
  t.match(workload, { kind: 'pod' });
  t.same(workload.kind === 'pod' && [...workload.labels], [
    ['app', 'shop'],
    ['version', 'v1'],
    ['pod-template-hash', '5d4f'],
  ]);
});
