/** The language of access log formats: Envoy's command operators in text, or in the values of a JSON object. */

/** `%NAME(argument):length%` */
export interface Operator {
  readonly name: string;
  readonly argument: string | null;
  /** Characters kept of the value; null: all that the log keeps of any. */
  readonly length: number | null;
}

/** Text as it is, or an operator. */
export type FormatPart = string | Operator;

/** What a JSON line is made of. A value that is one operator alone keeps its type: number, null. */
export type JsonTemplate = ReadonlyMap<string, readonly FormatPart[] | JsonTemplate>;

export type AccessFormat =
  | { readonly encoding: 'text'; readonly parts: readonly FormatPart[] }
  | { readonly encoding: 'json'; readonly fields: JsonTemplate };

/** Where lines go and what they look like. */
export interface AccessLogSettings {
  /** `stderr`, `stdout`, `off`, or a file's path. */
  readonly destination: string;
  readonly format: AccessFormat;
}

/** A format that cannot be read. */
export class AccessFormatError extends Error {}

const OPERATOR = /%([A-Z0-9_]+)(?:\(([^)]*)\))?(?::([0-9]{1,5}))?%/y;

/**
 * Reads a text with operators; `%%` is a percent sign.
 * @throws AccessFormatError where a `%` begins no operator
 */
export function parseFormat(text: string): FormatPart[] {
  const parts: FormatPart[] = [];
  let literal = '';
  let at = 0;
  while (at < text.length) {
    const percent = text.indexOf('%', at);
    literal += text.slice(at, percent < 0 ? undefined : percent);
    if (percent < 0) break;
    if (text[percent + 1] === '%') {
      literal += '%';
      at = percent + 2;
      continue;
    }
    OPERATOR.lastIndex = percent;
    const match = OPERATOR.exec(text);
    if (match === null)
      throw new AccessFormatError(`no operator begins at "${text.slice(percent, percent + 24)}"`);
    if (literal !== '') parts.push(literal);
    literal = '';
    const [whole, name = '', argument, length] = match;
    parts.push({ name, argument: argument ?? null, length: length === undefined ? null : Number(length) });
    at = percent + whole.length;
  }
  if (literal !== '') parts.push(literal);
  return parts;
}
