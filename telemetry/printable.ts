/** Makes texts of strangers fit for a terminal, a log and a page: visible, and no longer than they may be. */

/**
 * Control characters, what turns the direction of writing or is not seen at all, line separators, halves of
 * surrogate pairs. Not the backslash: what has been made printable stays as it is.
 */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\u2028\u2029]/gu;

/** @param most characters of the text kept; `…` says that there were more */
export function printable(text: string, most: number): string {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(UNSAFE, escaped);
}

function escaped(character: string): string {
  if (character === '\n') return '\\n';
  return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
}
