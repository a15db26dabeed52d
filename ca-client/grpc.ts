/** Loads @grpc/grpc-js when it is first needed, and keeps it from writing to stderr on its own. */

/** The library's namespace. */
export type Grpc = typeof import('@grpc/grpc-js');

/** The library. Its log lines are not our log's format, and say nothing that its errors do not. */
export async function loadGrpc(): Promise<Grpc> {
  const { grpc } = await import('./grpc-library.ts');
  grpc.setLogVerbosity(grpc.logVerbosity.NONE);
  return grpc;
}
