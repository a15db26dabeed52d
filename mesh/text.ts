/** The order of texts, and how an address and port are written. */

/** By code unit, as Go's strings.Compare does for these names; no locale. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** `10.0.0.1:80`, `[fd00::1]:80`, `orders.example:80`. */
export function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
