/** Header blocks (RFC 7541): the RFC's own examples, what is refused, what a hostile block may cost, and what we write. */
import t from 'tap';
import { encodeHeaders, HpackDecoder } from '../../proxy/http2/hpack.ts';
import { HpackError } from '../../proxy/http2/hpack-error.ts';
import { BlockReader } from '../../proxy/http2/hpack-reader.ts';
import { decodeHuffman } from '../../proxy/http2/huffman.ts';

type Fields = readonly (readonly [name: string, value: string])[];

const bytes = (hex: string): Buffer => Buffer.from(hex.replaceAll(' ', ''), 'hex');
const decoder = (maxTableBytes = 4096, maxListBytes = 8192): HpackDecoder =>
  new HpackDecoder({ maxTableBytes, maxListBytes });
const read = (from: HpackDecoder, hex: string): Fields =>
  from.decode(bytes(hex)).fields.map(({ name, value }) => [name, value]);

/** The dynamic table as its peer can see it: the fields from index 62 on. */
function tableOf(from: HpackDecoder): Fields {
  const found: Fields[number][] = [];
  for (let index = 62; ; index += 1) {
    try {
      found.push(...read(from, (0x80 | index).toString(16)));
    } catch (error) {
      if (error instanceof HpackError) return found;
      throw error;
    }
  }
}

function refused(work: () => unknown): string | null {
  try {
    work();
    return null;
  } catch (error) {
    if (error instanceof HpackError) return error.message;
    throw error;
  }
}

t.test('Appendix C.1: integers', async (t) => {
  const rows: [hex: string, prefix: number, value: number][] = [
    ['0a', 5, 10],
    ['ea', 5, 10],
    ['1f9a0a', 5, 1337],
    ['ff9a0a', 5, 1337],
    ['2a', 8, 42],
  ];
  for (const [hex, prefix, value] of rows) {
    const reader = new BlockReader(bytes(hex));
    t.equal(reader.integer(prefix), value, hex);
    t.ok(reader.ended, hex);
  }
});

t.test('Appendix C.2: each representation of a field', async (t) => {
  const indexed: Fields = [['custom-key', 'custom-header']];
  const rows: [section: string, hex: string, fields: Fields, table: Fields][] = [
    ['C.2.1', '400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572', indexed, indexed],
    ['C.2.2', '040c 2f73 616d 706c 652f 7061 7468', [[':path', '/sample/path']], []],
    ['C.2.3', '1008 7061 7373 776f 7264 0673 6563 7265 74', [['password', 'secret']], []],
    ['C.2.4', '82', [[':method', 'GET']], []],
  ];
  for (const [section, hex, fields, table] of rows) {
    const from = decoder();
    t.same(read(from, hex), fields, section);
    t.same(tableOf(from), table, section);
  }
});

const AUTHORITY = [':authority', 'www.example.com'] as const;
const NO_CACHE = ['cache-control', 'no-cache'] as const;
const CUSTOM = ['custom-key', 'custom-value'] as const;
const GET: Fields = [
  [':method', 'GET'],
  [':scheme', 'http'],
  [':path', '/'],
];
/** What each block says, and the table after it. */
const REQUESTS: readonly [fields: Fields, table: Fields][] = [
  [[...GET, AUTHORITY], [AUTHORITY]],
  [
    [...GET, AUTHORITY, NO_CACHE],
    [NO_CACHE, AUTHORITY],
  ],
  [
    [[':method', 'GET'], [':scheme', 'https'], [':path', '/index.html'], AUTHORITY, CUSTOM],
    [CUSTOM, NO_CACHE, AUTHORITY],
  ],
];

const FOUND = [':status', '302'] as const;
const REDIRECT = [':status', '307'] as const;
const PRIVATE = ['cache-control', 'private'] as const;
const DATE = ['date', 'Mon, 21 Oct 2013 20:13:21 GMT'] as const;
const LATER = ['date', 'Mon, 21 Oct 2013 20:13:22 GMT'] as const;
const LOCATION = ['location', 'https://www.example.com'] as const;
const GZIP = ['content-encoding', 'gzip'] as const;
const COOKIE = ['set-cookie', 'foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1'] as const;
const ANSWERS: readonly [fields: Fields, table: Fields][] = [
  [
    [FOUND, PRIVATE, DATE, LOCATION],
    [LOCATION, DATE, PRIVATE, FOUND],
  ],
  [
    [REDIRECT, PRIVATE, DATE, LOCATION],
    [REDIRECT, LOCATION, DATE, PRIVATE],
  ],
  [
    [[':status', '200'], PRIVATE, LATER, LOCATION, GZIP, COOKIE],
    [COOKIE, GZIP, LATER],
  ],
];

t.test(
  'Appendix C.3 to C.6: connections with a table, and with evictions where it is 256 bytes',
  async (t) => {
    const rows: [section: string, maxTableBytes: number, told: typeof REQUESTS, blocks: string[]][] = [
      [
        'C.3',
        4096,
        REQUESTS,
        [
          '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
          '8286 84be 5808 6e6f 2d63 6163 6865',
          '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
        ],
      ],
      [
        'C.4',
        4096,
        REQUESTS,
        [
          '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
          '8286 84be 5886 a8eb 1064 9cbf',
          '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
        ],
      ],
      [
        'C.5',
        256,
        ANSWERS,
        [
          '4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32' +
            '3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
          '4803 3330 37c1 c0bf',
          '88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970' +
            '7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61' +
            '6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31',
        ],
      ],
      [
        'C.6',
        256,
        ANSWERS,
        [
          '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad' +
            '1718 63c7 8f0b 97c8 e9ae 82ae 43d3',
          '4883 640e ffc1 c0bf',
          '88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2' +
            'e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07',
        ],
      ],
    ];
    for (const [section, maxTableBytes, told, blocks] of rows) {
      const from = decoder(maxTableBytes);
      for (const [i, [fields, table]] of told.entries()) {
        t.same(read(from, blocks[i] ?? ''), fields, `${section}.${i + 1}`);
        t.same(tableOf(from), table, `${section}.${i + 1}: the table`);
      }
    }
  },
);

/** Appendix B's codes of the octets that no HTTP field may have, which other peers thus never show us. */
const CONTROLS =
  '1ff8/13 7fffd8/23 fffffe2/28 fffffe3/28 fffffe4/28 fffffe5/28 fffffe6/28 fffffe7/28 fffffe8/28 ffffea/24 ' +
  '3ffffffc/30 fffffe9/28 fffffea/28 3ffffffd/30 fffffeb/28 fffffec/28 fffffed/28 fffffee/28 fffffef/28 ' +
  'ffffff0/28 ffffff1/28 ffffff2/28 3ffffffe/30 ffffff3/28 ffffff4/28 ffffff5/28 ffffff6/28 ffffff7/28 ' +
  'ffffff8/28 ffffff9/28 ffffffa/28 ffffffb/28';
const DEL = 'ffffffc/28';

/** A code and its padding of ones. */
function padded(row: string): Buffer {
  const [hex = '', bits] = row.split('/');
  const code = Number.parseInt(hex, 16).toString(2).padStart(Number(bits), '0');
  const octets = code.padEnd(Math.ceil(code.length / 8) * 8, '1').match(/.{8}/g) ?? [];
  return Buffer.from(octets.map((octet) => Number.parseInt(octet, 2)));
}

t.test('Appendix B: the rarest codes', async (t) => {
  for (const [octet, row] of [...CONTROLS.split(' ').entries(), [0x7f, DEL] as const]) {
    const coded = padded(row);
    t.equal(decodeHuffman(coded, 0, coded.length), String.fromCharCode(octet), row);
  }
});

t.test('Huffman-coded texts that are refused (§5.2)', async (t) => {
  const rows: [title: string, hex: string, message: RegExp | null][] = [
    ['nothing at all', '', null],
    ['a code of eight bits, no padding', 'f8', null],
    ['five bits, three ones', '07', null],
    ['seventeen bits of three codes, seven ones', '5140 7f', null],
    ['thirteen bits, three ones', 'ffc7', null],
    ['padding of zeros', '00 00', /ends with/],
    ['padding that is not all ones', '06', /ends with/],
    ['padding of eight ones', 'f8ff', /ends with/],
    ['padding of eleven', '07ff', /ends with/],
    ['nothing but padding of eight ones', 'ff', /ends with/],
    ['EOS alone', 'ffff ffff', /EOS/],
    ['EOS behind a text', '07ff ffff ff', /EOS/],
    ['EOS before a text', 'ffff fffc 3f', /EOS/],
    ['a code cut off', 'ffff ff', /ends with/],
  ];
  for (const [title, hex, message] of rows) {
    const coded = bytes(hex);
    const found = refused(() => decodeHuffman(coded, 0, coded.length));
    if (message === null) t.equal(found, null, title);
    else t.match(found, message, title);
  }
});

t.test('blocks that are refused', async (t) => {
  const rows: [title: string, hex: string, message: RegExp][] = [
    ['index 0', '80', /index 0 /],
    ['an index beyond both tables', 'be', /index 62 in a table of 61/],
    ['a far index', 'ffff ff7f', /index 2097278/],
    ['a name beyond both tables, to be indexed', '7e 0161', /index 62/],
    ['a name beyond both tables, without indexing', '0f2f 0161', /index 62/],
    ['a name beyond both tables, never to be indexed', '1f2f 0161', /index 62/],
    ['no value', '04', /ends within a field/],
    ['no name', '00', /ends within a field/],
    ['half an integer', 'ff', /ends within a field/],
    ['half of a longer integer', 'ff80', /ends within a field/],
    ['a text cut off', '0405 6162 6364', /longer than the rest/],
    ['a Huffman-coded text cut off', '0488 f1e3', /longer than the rest/],
    ['a text of 2^28 octets', '047f 81ff ff7f', /longer than the rest/],
    ['an integer above 2^28', 'ff81 ffff ff01', /above 2\^28/],
    ['an integer of 32 bits', 'ff80 ffff ff0f', /above 2\^28/],
    ['an integer beyond 53 bits', 'ffff ffff ffff ffff ff7f', /above 2\^28/],
    ['six octets of zeros', 'ff80 8080 8080 00', /too many octets/],
    ['EOS in a name', '0084 ffff ffff 0161', /EOS/],
    ['EOS in a value', '0484 ffff ffff', /EOS/],
    ['a size above the limit', '3fe2 1f', /table of 4097 bytes, where at most 4096/],
    ['a size update behind a field', '8220', /behind a field/],
    ['a third size update', '2020 20', /more than two/],
    ['half a size update', '3f', /ends within a field/],
  ];
  for (const [title, hex, message] of rows) {
    t.match(
      refused(() => decoder().decode(bytes(hex))),
      message,
      title,
    );
  }
});

t.test('blocks at the bounds are taken', async (t) => {
  const rows: [title: string, hex: string, fields: Fields][] = [
    ['nothing', '', []],
    ['the last of the static table', 'bd', [['www-authenticate', '']]],
    ['an integer with five octets behind its prefix', 'ff80 8080 8000', [['x', 'y']]],
    ['two size updates, the second to the limit', '20 3fe1 1f 82', [[':method', 'GET']]],
    ['size updates alone', '20', []],
    ['an empty name and value', '0000 00', [['', '']]],
    ['octets of every kind', '0002 0aff 0300 800d', [['\n\xff', '\0\x80\r']]],
  ];
  for (const [title, hex, fields] of rows) {
    const from = decoder();
    // Index 127 is the oldest of 66 fields: that of the integer above.
    for (let i = 0; i < 66; i += 1) read(from, '4001 7801 79');
    t.same(read(from, hex), fields, title);
  }
});

/** §5.1 with a prefix of seven bits. */
function lengthOf({ length }: Buffer): Buffer {
  if (length < 127) return Buffer.of(length);
  const rest = length - 127;
  return rest < 128 ? Buffer.of(127, rest) : Buffer.of(127, (rest & 127) | 128, rest >> 7);
}

/** A field to be indexed that takes so many bytes of the table. @param name of one letter */
function entry(name: string, size: number): Buffer {
  const value = Buffer.alloc(size - 33, 'v');
  return Buffer.concat([Buffer.of(0x40, 1), Buffer.from(name), lengthOf(value), value]);
}

t.test('the table: sizes, evictions, and names of what is evicted', async (t) => {
  const from = decoder();
  from.decode(entry('a', 2000));
  from.decode(entry('b', 2096));
  t.equal(tableOf(from).length, 2, 'full to the octet');
  from.decode(bytes('4001 7800'));
  t.same(
    tableOf(from).map(([name]) => name),
    ['x', 'b'],
    'the oldest goes',
  );
  t.equal(from.decode(entry('c', 4097)).fields.length, 1, 'a field larger than the table is told');
  t.same(tableOf(from), [], '§4.4: and empties it');
  from.decode(entry('d', 4096));
  t.equal(tableOf(from).length, 1, 'one as large as the table stays');
  t.same(read(from, '7e 0165'), [['d', 'e']], '§4.4: a name may be that of the field it evicts');
  t.same(tableOf(from), [['d', 'e']]);
  t.same(read(from, '20'), []);
  t.same(tableOf(from), [], '§4.3: a size of 0 empties it');
  t.same(read(from, '4001 6101 62'), [['a', 'b']]);
  t.same(tableOf(from), [], 'and nothing is kept until it grows again');
  t.same(read(from, '3f03 4001 6101 62'), [['a', 'b']]);
  t.same(tableOf(from), [['a', 'b']], '34 bytes are enough for a field of 34');
  t.same(read(from, '4001 6301 64'), [['c', 'd']]);
  t.same(tableOf(from), [['c', 'd']], 'and for one only');
  t.same(read(from, '20 3fe1 1f'), []);
  t.same(tableOf(from), [], 'emptied and restored in one block');
});

t.test('a table begins with 4096 bytes, however much more the peer was allowed', async (t) => {
  const from = decoder(8192);
  from.decode(entry('a', 4097));
  t.same(tableOf(from), []);
  from.decode(Buffer.concat([bytes('3fe1 3f'), entry('a', 4097)]));
  t.equal(tableOf(from).length, 1, 'until it sets 8192');
});

t.test('lists: RFC 9113 §6.5.2 counts names, values and 32 each', async (t) => {
  const rows: [title: string, max: number, hex: string, tooLarge: boolean][] = [
    ['two fields to the octet', 84, '82 0001 6105 3132 3334 35', false],
    ['one more', 79, '82 0001 6105 3132 3334 35', true],
    ['nothing in nothing', 0, '', false],
    ['empty fields count', 63, '0000 00 0000 00', true],
  ];
  for (const [title, max, hex, tooLarge] of rows) {
    const told = decoder(4096, max).decode(bytes(hex));
    t.equal(told.tooLarge, tooLarge, title);
    if (tooLarge) t.same(told.fields, [], title);
  }
});

t.test('a list too large is still read to its end', async (t) => {
  const from = decoder(4096, 100);
  const told = from.decode(bytes('4001 6101 31 4001 6201 32 4001 6301 33 4001 6401 34'));
  t.same(told, { fields: [], tooLarge: true });
  t.same(tableOf(from), [
    ['d', '4'],
    ['c', '3'],
    ['b', '2'],
    ['a', '1'],
  ]);
  t.match(
    refused(() => from.decode(bytes('82 4001 6101 31 4001 6101 31 80'))),
    /index 0 /,
    'and what is wrong behind the limit is found',
  );
});

t.test('what we write', async (t) => {
  const long = (length: number): Fields => [['x', 'v'.repeat(length)]];
  const hexOf = (length: number): string => '76'.repeat(length);
  const rows: [title: string, fields: Fields, hex: string][] = [
    ['nothing but a table of no size', [], ''],
    ['name and value in the static table', [[':method', 'GET']], '82'],
    ['the last of them', [['www-authenticate', '']], 'bd'],
    ['a name of the static table', [[':method', 'CONNECT']], '02 07434f4e4e454354'],
    ['the first of several entries of that name', [[':status', '503']], '08 03353033'],
    ['a name of an index above the prefix', [['user-agent', 'a']], '0f2b 0161'],
    ['another name', [['baggage', 'a=b']], '00 0762616767616765 03613d62'],
    ['an index that fills the prefix', [['accept-charset', 'a']], '0f00 0161'],
    ['a length below the prefix', long(126), `00 0178 7e ${hexOf(126)}`],
    ['a length that fills it', long(127), `00 0178 7f00 ${hexOf(127)}`],
    ['the last length of two octets', long(254), `00 0178 7f7f ${hexOf(254)}`],
    ['the first of three', long(255), `00 0178 7f8001 ${hexOf(255)}`],
    ['the first of four', long(16_511), `00 0178 7f808001 ${hexOf(16_511)}`],
    ['latin1', [['x', '\xe4\xff']], '00 0178 02e4ff'],
    ['an empty value', [[':path', '']], '04 00'],
    ['several', [[':method', 'POST'], AUTHORITY], '83 01 0f7777772e6578616d706c652e636f6d'],
  ];
  for (const [title, fields, hex] of rows) {
    t.equal(encodeHeaders(fields).toString('hex'), `20${bytes(hex).toString('hex')}`, title);
  }
  for (const fields of [[['x', '\u010a']], [['\u013a', 'x']]] as const) {
    t.throws(() => encodeHeaders(fields), { message: /beyond latin1/ }, 'never another octet than was meant');
  }
});
