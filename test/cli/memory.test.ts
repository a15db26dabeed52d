/** Memory handed back for real: this process has less afterwards, and runs on. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { loadMemory, type Memory, untouchedMappings } from '../../cli/memory.ts';

const MB = 2 ** 20;

/** MB of a line of /proc/self/status. */
function statusMb(name: string): number {
  const [, kb] =
    new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return Number(kb) / 1024;
}

if (process.platform !== 'linux') {
  t.test('nothing is given back here', async (t) => t.equal(await loadMemory(), null));
} else {
  const memory = (await loadMemory()) as Memory;

  t.test('garbage goes', async (t) => {
    let waste: object[] | null = Array.from({ length: 500_000 }, (_, n) => ({ n, text: `${n}` }));
    t.equal(waste.length, 500_000);
    const before = memory.own();
    waste = null;
    memory.collect();
    const freed = (before - memory.own()) / MB;
    t.ok(freed > 20, `${freed} MB less`);
    t.equal(Reflect.get(globalThis, 'gc'), undefined, 'nobody else gets at the collector');
  });

  t.test('threads collect at the same time', async (t) => {
    const module = new URL('../../cli/memory.ts', import.meta.url).href;
    const code = `import('${module}').then(async ({ loadMemory }) => {
      const { collect } = await loadMemory();
      for (let i = 0; i < 40; i++) collect();
    });`;
    const ends = Array.from({ length: 4 }, () =>
      once(new Worker(code, { eval: true, execArgv: [] }), 'exit').catch((error: Error) => [error.message]),
    );
    t.same(await Promise.all(ends), [[0], [0], [0], [0]]);
  });

  t.test('what malloc keeps goes', async (t) => {
    // Pieces under the size at which glibc maps memory of their own.
    let pieces: Buffer[] | null = Array.from({ length: 3_000 }, () => Buffer.allocUnsafeSlow(20_000).fill(1));
    // Above them, so that the heap's end cannot move down by itself.
    const last = Buffer.allocUnsafeSlow(20_000).fill(1);
    const allocated = memory.allocated();
    t.ok(allocated > 60_000_000, `${allocated} bytes are told`);
    pieces = null;
    memory.collect();
    t.ok(memory.allocated() < allocated - 50_000_000, 'they are told to be free');
    memory.trim();
    const own = memory.own() / MB;
    t.ok(own < 100, `${own} MB are left`);
    t.equal(last[0], 1);
    t.equal(pieces, null);
  });

  t.test("the program's pages go, and those in use come back", async (t) => {
    const before = statusMb('RssFile');
    memory.forgetFiles();
    const after = statusMb('RssFile');
    t.ok(after < before - 10, `${before} MB before, ${after} after`);
    const { createHash } = await import('node:crypto');
    t.equal(
      createHash('sha256').update('abc').digest('hex'),
      // FIPS 180-4, the example of one block.
      'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    );
  });

  t.test('only what nobody can have written to is let go', async (t) => {
    const field = (name: string, kb: number): string => `${name.padEnd(16)}${String(kb).padStart(8)} kB`;
    const mapping = (head: string, anonymous: number, swap = 0): string =>
      [
        head,
        field('Size:', 64),
        field('Rss:', 64),
        field('Anonymous:', anonymous),
        field('Swap:', swap),
        'VmFlags: rd mr mw me',
      ].join('\n');
    const smaps = [
      mapping('00400000-00410000 r--p 00000000 fe:00 1234                       /usr/bin/node', 0),
      mapping('00410000-00420000 r-xp 00010000 fe:00 1234                       /usr/bin/node', 0),
      mapping('00420000-00430000 r--p 00020000 fe:00 1234                       /usr/bin/node', 4),
      mapping('00428000-00430000 r--p 00028000 fe:00 1234                       /usr/bin/node', 0, 40),
      mapping('00430000-00440000 rw-p 00030000 fe:00 1234                       /usr/bin/node', 0),
      mapping('00440000-00450000 r--s 00030000 fe:00 1234                       /usr/share/shared', 0),
      mapping('00450000-00460000 r--p 00000000 00:00 0 ', 0),
      mapping('7fff0000-7fff1000 r-xp 00000000 00:00 0                          [vdso]', 0),
    ].join('\n');
    t.same(untouchedMappings(smaps), [
      { start: 0x400000n, bytes: 0x10000n },
      { start: 0x410000n, bytes: 0x10000n },
    ]);
  });
}
