/**
 * Bundles `oarlock` into dist/; or into FOLDER/dist, with all beside it that it needs to run (`node bin/build.ts FOLDER`).
 */
import { chmodSync, cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, type Plugin } from 'esbuild';

const root = join(import.meta.dirname, '..');
const [folder = null] = process.argv.slice(2);
const dist = join(folder ?? root, 'dist');

/** A native library cannot be bundled: its packages are found beside the bundle. */
const NATIVE = 'koffi';
/** What is in koffi's packages and is not for running: sources, pages, and libraries for another libc. */
const NOT_TO_RUN =
  /\/(?:doc|lib|vendor|abi|musl_\w+|trampolines\.cjs|cnoke\.cjs|CMakeLists\.txt|\S+\.(?:md|d\.ts|cc|hh|inc|def))$/;

/**
 * An `import` of node:http reads all it exports, WebSocket among them, which loads Node's whole undici: 5 ms of each
 * start and 10 MB of memory. What is required is read where it is used.
 */
const requiredHttp: Plugin = {
  name: 'required-http',
  setup: ({ onResolve, onLoad }) => {
    onResolve({ filter: /^node:http$/, namespace: 'file' }, () => ({ path: 'http', namespace: 'required' }));
    onLoad({ filter: /.*/, namespace: 'required' }, () => ({
      contents: "module.exports = require('node:http');",
    }));
  },
};

// Chunks are named for their content: those of the build before would stay.
rmSync(dist, { recursive: true, force: true });
await build({
  absWorkingDir: root,
  entryPoints: { main: 'cli/start.ts', worker: 'cli/worker.ts' },
  outdir: dist,
  bundle: true,
  splitting: true,
  platform: 'node',
  target: 'node26',
  format: 'esm',
  external: [NATIVE],
  plugins: [requiredHttp],
  // CommonJS packages ask for Node's modules by require(), which a module has to make.
  banner: {
    js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
  },
  logLevel: 'warning',
});
// Where no package.json says so, Node would read each file twice to find out that it is a module.
writeFileSync(join(dist, 'package.json'), '{"type":"module"}\n');

if (folder !== null) {
  // Where no shell is, a program is what the kernel can start.
  chmodSync(join(dist, 'main.js'), 0o755);
  const filter = (path: string): boolean => !NOT_TO_RUN.test(path);
  for (const name of [NATIVE, `@koromix/${NATIVE}-${process.platform}-${process.arch}`]) {
    const path = join('node_modules', name);
    cpSync(join(root, path), join(folder, path), { recursive: true, filter });
  }
}
