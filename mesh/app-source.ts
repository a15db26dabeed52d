/** The address a sidecar dials its app from under capture, of each family. */

/**
 * Istio's (`InboundPassthroughBindIpv4`, `InboundPassthroughBindIpv6`). The rules of capture let past what comes from
 * there; dialled from any other, an app's own address leads back to us.
 */
export const appSource = { 4: '127.0.0.6', 6: '::6' } as const;

/** @param app an address, or a name that is IPv4's */
export function appSourceFor(app: string): string {
  return appSource[app.includes(':') ? 6 : 4];
}
