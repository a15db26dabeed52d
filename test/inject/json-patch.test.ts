/** JSON Patch: operations that turn one value into another (RFC 6902), and few of them. */
import fc from 'fast-check';
import t from 'tap';
import { isList, isObject, type Json } from '../../inject/json.ts';
import { jsonPatch, type PatchOperation } from '../../inject/json-patch.ts';

/** Whether both say the same; the order of an object's keys does not count, nor do keys without a value. */
function sameJson(a: Json | undefined, b: Json | undefined): boolean {
  if (a === b) return true;
  if (isList(a) && isList(b)) {
    return a.length === b.length && a.every((item, i) => sameJson(item, b[i]));
  }
  if (!isObject(a) || !isObject(b)) return false;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].every((key) => sameJson(a[key], b[key]));
}

/** RFC 6902, as its reader does it; the values it uses are copies. */
function applied(value: Json, patch: readonly PatchOperation[]): Json {
  const root = { value: structuredClone(value) } as Record<string, unknown>;
  for (const operation of patch) {
    const keys = ['value', ...operation.path.split('/').slice(1)].map((key) =>
      key.replaceAll('~1', '/').replaceAll('~0', '~'),
    );
    const last = keys.pop() ?? '';
    const parent = keys.reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], root);
    if (Array.isArray(parent)) {
      if (operation.op === 'add') parent.splice(Number(last), 0, structuredClone(operation.value));
      else if (operation.op === 'remove') parent.splice(Number(last), 1);
      else parent[Number(last)] = structuredClone(operation.value);
    } else {
      const object = parent as Record<string, unknown>;
      if (operation.op !== 'add' && !Object.hasOwn(object, last))
        throw new Error(`nothing at ${operation.path}`);
      if (operation.op === 'remove') delete object[last];
      else object[last] = structuredClone(operation.value);
    }
  }
  return root.value as Json;
}

const named = fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd'), image: fc.constantFrom('x', 'y') });
const value = fc.oneof(
  fc.jsonValue({ maxDepth: 4 }),
  fc.record({ list: fc.uniqueArray(named, { selector: ({ name }) => name }), 'a/b~c': fc.integer() }),
);

t.test('what is applied to the one gives the other', async () => {
  fc.assert(
    fc.property(value, value, (before, after) => {
      const result = applied(before as Json, jsonPatch(before as Json, after as Json));
      return sameJson(result, after as Json);
    }),
    { numRuns: 500 },
  );
});

t.test('operations are as deep as can be', async (t) => {
  const rows: readonly (readonly [string, Json, Json, readonly PatchOperation[]])[] = [
    ['nothing', { a: [1, { b: 2 }] }, { a: [1, { b: 2 }] }, []],
    ['a new key', {}, { 'x.io/y~z': '1' }, [{ op: 'add', path: '/x.io~1y~0z', value: '1' }]],
    ['a key less', { a: 1, b: 2 }, { a: 1 }, [{ op: 'remove', path: '/b' }]],
    ['deep inside', { a: [{ b: 1 }] }, { a: [{ b: 2 }] }, [{ op: 'replace', path: '/a/0/b', value: 2 }]],
    ['at the end', [1], [1, 2], [{ op: 'add', path: '/1', value: 2 }]],
    [
      'a container before and one after',
      [{ name: 'app', image: 'x' }],
      [{ name: 'init' }, { name: 'app', image: 'y' }, { name: 'last' }],
      [
        { op: 'add', path: '/0', value: { name: 'init' } },
        { op: 'replace', path: '/1/image', value: 'y' },
        { op: 'add', path: '/2', value: { name: 'last' } },
      ],
    ],
    [
      'a container that goes to the front',
      [{ name: 'a' }, { name: 'b' }],
      [{ name: 'b' }, { name: 'a' }],
      [
        { op: 'remove', path: '/1' },
        { op: 'add', path: '/0', value: { name: 'b' } },
      ],
    ],
  ];
  for (const [what, before, after, patch] of rows) t.same(jsonPatch(before, after), patch, what);
});
