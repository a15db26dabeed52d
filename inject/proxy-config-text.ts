/** Reads the text of `proxy.istio.io/config`, YAML or JSON, in a time that its author cannot stretch. */
import { Composer, type CST, type Document, isScalar, Lexer, Parser, visit } from 'yaml';
import type { Json } from './json.ts';

/** All fields of a ProxyConfig fit in a quarter of it. */
const MAX_LENGTH = 8_192;
/** Nodes begun and not ended yet: the parser's time grows with the cube of them (`? ? ? …`). */
const MAX_OPEN = 24;
const MAX_ALIASES = 10;

/**
 * @returns null for an empty text
 * @throws Error that says what is wrong, as the end of a sentence
 */
export function parseSmallYaml(text: string): Json {
  if (text.length > MAX_LENGTH) throw new Error(`${text.length} characters are more than ${MAX_LENGTH}`);
  // The parser compares each key with all before it; a set does that in one pass.
  const composer = new Composer({ uniqueKeys: false, prettyErrors: false, logLevel: 'error' });
  const [document, another] = composer.compose(tokensOf(text));
  if (document === undefined) return null;
  const [error] = document.errors;
  if (error !== undefined) throw error;
  if (another !== undefined) throw new Error('there is more than one document');
  checkKeys(document);
  return document.toJS({ maxAliasCount: MAX_ALIASES }) as Json;
}

function tokensOf(text: string): readonly CST.Token[] {
  const parser = new Parser();
  const tokens: CST.Token[] = [];
  for (const lexeme of new Lexer().lex(text)) {
    tokens.push(...parser.next(lexeme));
    if (parser.stack.length > MAX_OPEN) throw new Error('it is nested too deeply');
  }
  tokens.push(...parser.end());
  return tokens;
}

function checkKeys(document: Document.Parsed): void {
  visit(document, {
    Map: (_key, map) => {
      const seen = new Set<unknown>();
      for (const { key } of map.items) {
        if (!isScalar(key)) throw new Error('a key is no text');
        if (seen.has(key.value)) throw new Error(`${JSON.stringify(key.value)} is there twice`);
        seen.add(key.value);
      }
    },
  });
}
