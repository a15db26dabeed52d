/** Lines come out whole however the bytes were cut, and no line makes it hold more than its bound. */
import t from 'tap';
import { type BadLine, LineSplitter } from '../../cli/line-splitter.ts';

/** All lines of some chunks. */
function split(chunks: readonly (string | Buffer)[], max = 100): (string | BadLine)[] {
  const splitter = new LineSplitter(max);
  const lines = chunks.flatMap((chunk) => [...splitter.push(Buffer.from(chunk as string))]);
  return [...lines, ...splitter.end()];
}

const rows: readonly { title: string; chunks: readonly (string | Buffer)[]; lines: unknown; max?: number }[] =
  [
    { title: 'nothing', chunks: [], lines: [] },
    { title: 'an empty chunk', chunks: [''], lines: [] },
    { title: 'one line', chunks: ['a\n'], lines: ['a'] },
    { title: 'no end of the last', chunks: ['a\nb'], lines: ['a', 'b'] },
    { title: 'empty lines stay', chunks: ['\n\na\n\n'], lines: ['', '', 'a', ''] },
    { title: 'a carriage return stays', chunks: ['a\r\nb'], lines: ['a\r', 'b'] },
    { title: 'a line in three chunks', chunks: ['a', 'b', 'c\nd\ne', '\n'], lines: ['abc', 'd', 'e'] },
    { title: 'the end alone in a chunk', chunks: ['abc', '\n', 'd'], lines: ['abc', 'd'] },
    { title: 'a byte order mark', chunks: ['\ufeffa\n\ufeffb'], lines: ['a', '\ufeffb'] },
    {
      title: 'a byte order mark in two chunks',
      chunks: [Buffer.from([0xef]), Buffer.from([0xbb, 0xbf, 0x61])],
      lines: ['a'],
    },
    {
      title: 'a character in two chunks',
      chunks: [Buffer.from('é').subarray(0, 1), Buffer.from('é\n').subarray(1)],
      lines: ['é'],
    },
    {
      title: 'one line that is no UTF-8 between others',
      chunks: [Buffer.concat([Buffer.from('a\n'), Buffer.from([0xff]), Buffer.from('\nb\n')])],
      lines: ['a', { fault: 'the line is not UTF-8' }, 'b'],
    },
    { title: 'as long as may be', chunks: ['1234\n1234'], lines: ['1234', '1234'], max: 4 },
    {
      title: 'too long in one chunk',
      chunks: ['a\n12345\nb\n'],
      lines: ['a', { fault: 'the line is longer than 4 bytes' }, 'b'],
      max: 4,
    },
    {
      title: 'too long in many chunks',
      chunks: ['12', '34', '5', '6', '78\nb', '\n12345', '6'],
      lines: [
        { fault: 'the line is longer than 4 bytes' },
        'b',
        { fault: 'the line is longer than 4 bytes' },
      ],
      max: 4,
    },
    {
      title: 'bytes are counted, not characters',
      chunks: ['ééé\néé'],
      lines: [{ fault: 'the line is longer than 4 bytes' }, 'éé'],
      max: 4,
    },
  ];

for (const { title, chunks, lines, max } of rows) {
  t.test(title, async (t) => {
    t.same(split(chunks, max), lines);
    const bytes = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk as string)));
    t.same(
      split(
        [...bytes].map((byte) => Buffer.from([byte])),
        max,
      ),
      lines,
      'the same byte by byte',
    );
  });
}

t.test('a line that never ends is not kept', async (t) => {
  const splitter = new LineSplitter(1_000);
  const chunk = Buffer.alloc(1_000_000, 'x');
  const before = process.memoryUsage().arrayBuffers;
  let lines = 0;
  for (let i = 0; i < 1_000; i++) lines += splitter.push(chunk).length;
  t.equal(lines, 0);
  t.ok(process.memoryUsage().arrayBuffers - before < 10_000_000);
  t.same(splitter.push(Buffer.from('\nok\n')), [{ fault: 'the line is longer than 1000 bytes' }, 'ok']);
});
