/** The order of texts. */

/** By code unit, as Go's strings.Compare does for these names; no locale. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
