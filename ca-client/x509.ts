/** Loads @peculiar/x509 when it is first needed: it costs a tenth of a second that a start should not wait for. */

/** The library's namespace. */
export type X509Library = typeof import('@peculiar/x509');

let loading: Promise<X509Library> | null = null;

/** The library, loaded once. */
export function loadX509(): Promise<X509Library> {
  loading ??= load();
  return loading;
}

/**
 * Its container (tsyringe) insists on the `reflect-metadata` polyfill, to look up constructor parameters that
 * none of the library's classes have. So "no metadata" is the right answer to all it asks, while it loads; the
 * global is then left as it was found.
 */
async function load(): Promise<X509Library> {
  const reflect = Reflect as unknown as Record<string, unknown>;
  if (reflect.getMetadata !== undefined) return (await import('./x509-library.ts')).x509;
  const nothing = (): undefined => undefined;
  reflect.getMetadata = nothing;
  reflect.getOwnMetadata = nothing;
  try {
    return (await import('./x509-library.ts')).x509;
  } finally {
    delete reflect.getMetadata;
    delete reflect.getOwnMetadata;
  }
}
