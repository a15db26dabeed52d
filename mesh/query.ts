/** A query parameter's name and value as text: one reading for whoever looks for tokens and whoever hides them. */

/** Percent escapes as bytes, one character each; what is none stays. */
export function decodedParam(text: string): string {
  if (!text.includes('%')) return text;
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
