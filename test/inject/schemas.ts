/** Holds objects to Kubernetes' OpenAPI schemas, as the package kubernetes-models has them; strict about unknown fields. */
import { execFile } from 'node:child_process';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { temporaryFolder } from '../ca-client/helper.ts';

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
}

const root = join(import.meta.dirname, '../..');

/**
 * What is wrong with the objects, a line each: by the schemas' validators, which let unknown fields pass; and by the
 * types made of the same schemas, which do not.
 */
export async function schemaProblems(
  t: Test,
  objects: readonly KubernetesObject[],
): Promise<readonly string[]> {
  const problems: string[] = [];
  for (const object of objects) {
    const { apiVersion, kind } = object;
    const models = await import(`kubernetes-models/${apiVersion}/${kind}`);
    try {
      new models[kind](object).validate();
    } catch (error) {
      problems.push(`${kind}: ${(error as Error).message}`);
    }
  }
  return [...problems, ...(await unknownFields(t, objects))];
}

async function unknownFields(t: Test, objects: readonly KubernetesObject[]): Promise<readonly string[]> {
  const folder = temporaryFolder(t);
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  const file = join(folder, 'objects.ts');
  const lines = objects.map((object, i) => {
    const type = `import('kubernetes-models/${object.apiVersion}').I${object.kind}`;
    return `export const object${i}: ${type} = ${JSON.stringify(object)};`;
  });
  writeFileSync(file, `${lines.join('\n')}\n`);
  const flags = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--module',
    'nodenext',
    '--target',
    'esnext',
    '--types',
    '',
  ];
  const output = await new Promise<string>((resolve) => {
    // The compiler itself: its launcher is a Node program, which the test runner would hang its hooks into.
    const tsc = `node_modules/@typescript/typescript-${process.platform}-${process.arch}/lib/tsc`;
    execFile(join(root, tsc), [...flags, file], { cwd: folder }, (_error, stdout, stderr) =>
      resolve(stdout + stderr),
    );
  });
  return output.split('\n').filter((line) => line !== '');
}
