/** Huffman-coded texts of header blocks (RFC 7541 §5.2 and Appendix B), read four bits at a time. */
import { HpackError } from './hpack-error.ts';

/**
 * Bits of each symbol's code: 256 octets and EOS. The codes follow from these: they are canonical, which is to say that
 * in the order of their lengths, and of their symbols where those are equal, each is the one before plus one.
 */
// biome-ignore format: sixteen a row
const CODE_BITS: readonly number[] = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
  28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
  7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
  6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
  21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
  30,
];
const EOS = 256;
const SHORTEST_CODE = 5;
const LONGEST_PADDING = 7;

/** A tree of 257 leaves has 256 inner nodes: a node's number is the state of having read the bits down to it. */
const NODES = 256;
const ROOT = 0;
const NO_SYMBOL = -1;

/** Two a node, for a bit of 0 and of 1: the node below, or `-1 - symbol` for a leaf; 0, the root's, is not below any. */
const below = growTree();
/** By node and the next four bits: the node they lead to, … */
const nextNode = new Uint8Array(NODES * 16);
/** … and the symbol that ends within them: never two, for no code is that short. */
const symbolIn = new Int16Array(NODES * 16);
/** The nodes that a text may end at: none but a code's beginning, or padding within bounds (see `decodeHuffman`). */
const mayEnd = new Uint8Array(NODES);
fillStates();

/**
 * Decodes the octets from `start` to `end`.
 * @returns the text in latin1, at most 1.6 characters an octet
 * @throws HpackError for EOS in the text, and for padding of more than seven bits or other than ones (RFC 7541 §5.2)
 */
export function decodeHuffman(bytes: Buffer, start: number, end: number): string {
  const text = Buffer.allocUnsafe(Math.floor(((end - start) * 8) / SHORTEST_CODE));
  let length = 0;
  let node = ROOT;
  for (let at = start; at < end; at += 1) {
    const octet = bytes[at] ?? 0;
    for (let shift = 4; shift >= 0; shift -= 4) {
      const step = (node << 4) | ((octet >> shift) & 0xf);
      node = nextNode[step] ?? ROOT;
      const symbol = symbolIn[step] ?? NO_SYMBOL;
      if (symbol === NO_SYMBOL) continue;
      if (symbol === EOS) throw new HpackError('EOS in a Huffman-coded text');
      text[length] = symbol;
      length += 1;
    }
  }
  if (mayEnd[node] !== 1) throw new HpackError('a Huffman-coded text ends with other than up to seven ones');
  return text.toString('latin1', 0, length);
}

function growTree(): Int16Array {
  const tree = new Int16Array(2 * NODES);
  const symbols = CODE_BITS.map((bits, symbol) => ({ bits, symbol }));
  symbols.sort((a, b) => a.bits - b.bits || a.symbol - b.symbol);
  let nodes = 1;
  let code = 0;
  let length = SHORTEST_CODE;
  for (const { bits, symbol } of symbols) {
    code <<= bits - length;
    length = bits;
    let node = ROOT;
    for (let left = bits - 1; left > 0; left -= 1) {
      const edge = 2 * node + ((code >> left) & 1);
      if (tree[edge] === 0) {
        tree[edge] = nodes;
        nodes += 1;
      }
      node = tree[edge] ?? ROOT;
    }
    tree[2 * node + (code & 1)] = -1 - symbol;
    code += 1;
  }
  return tree;
}

function fillStates(): void {
  for (let step = 0; step < NODES * 16; step += 1) {
    let node = step >> 4;
    let symbol = NO_SYMBOL;
    for (let left = 3; left >= 0; left -= 1) {
      node = below[2 * node + ((step >> left) & 1)] ?? ROOT;
      if (node >= 0) continue;
      symbol = -1 - node;
      node = ROOT;
    }
    nextNode[step] = node;
    symbolIn[step] = symbol;
  }
  let node = ROOT;
  for (let ones = 0; ones <= LONGEST_PADDING; ones += 1) {
    mayEnd[node] = 1;
    node = below[2 * node + 1] ?? ROOT;
  }
}
