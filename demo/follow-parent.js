/**
 * Loaded by each process of the demo before its own code: should the demo be killed outright, the pipe to stdin
 * closes, and the process ends as on a SIGTERM, or at the latest some seconds later. JavaScript, for Node runs no
 * TypeScript in a package.
 */
const PATIENCE_MS = 7_000;

process.stdin.on('error', () => {});
process.stdin.on('close', () => {
  process.kill(process.pid, 'SIGTERM');
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), PATIENCE_MS).unref();
});
process.stdin.resume();
// It keeps nobody alive.
process.stdin.unref();
