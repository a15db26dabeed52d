/** A whole set analyzed: the guides, the demo, broken files among good ones, flags, order, time. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { analyze } from '../../config/analyze.ts';
import { parseDocuments } from '../../config/documents.ts';
import { readFolders } from '../../config/folder.ts';
import { setChecks } from '../../mesh/analysis.ts';
import { authz, entry, ORDERS, peer, problemsOf, rule, SHOP, WEB } from './analyze-cases.ts';

const ROOT = join(import.meta.dirname, '..', '..');

t.test('of the guides two things are odd, and both are', async (t) => {
  const guides = analyze(readFolders([join(ROOT, 'test', 'fixtures', 'guides')]), {});
  const told = guides.filter(({ severity }) => severity !== 'Info');
  t.same(
    told.map(({ code, resource, field }) => `${code} ${resource} ${field}`),
    [
      // Its port 9090 is PERMISSIVE for payment-service, and plaintext is of no namespace.
      'OLK0228 AuthorizationPolicy/production/deny-from-untrusted spec.rules[0].from[0].source.namespaces',
      // The app speaks HTTPS on 443 already.
      'OLK0258 DestinationRule/production/external-api-mtls spec.trafficPolicy.tls.mode',
    ],
  );
});

t.test('of the demo nothing is odd', async (t) => {
  t.same(analyze(readFolders([join(ROOT, 'demo', 'resources')]), {}), []);
});

t.test('a resource that is not valid spoils nothing else', async (t) => {
  const broken = `${peer('broken', 'spec: {mtls: {mode: STRICKT}}')}---\na: [\n`;
  const good = peer('p', 'spec: {selector: {matchLabels: {app: nobody}}, mtls: {mode: STRICT}}') + SHOP;
  const one = parseDocuments(broken, 'a.yaml');
  const other = parseDocuments(good, 'b.yaml');
  const set = {
    resources: [...one.resources, ...other.resources],
    problems: [...one.problems, ...other.problems],
  };
  t.match(analyze(set, {}), [
    { code: 'OLK0105', severity: 'Error', file: 'a.yaml', line: 5, field: 'spec.mtls.mode' },
    { code: 'OLK0101', severity: 'Error', file: 'a.yaml' },
    { code: 'OLK0201', severity: 'Warning', file: 'b.yaml', line: 5, resource: 'PeerAuthentication/shop/p' },
  ]);
});

t.test('flags beat mesh config', async (t) => {
  const yaml = `${authz('p', 'spec: {rules: [{from: [{source: {principals: [td2/ns/shop/sa/orders]}}]}]}')}${SHOP}---\nkind: MeshConfig\ntrustDomain: td1\n`;
  t.match(analyze(parseDocuments(yaml, 'm.yaml'), {}), [{ code: 'OLK0221', message: /\(td1\)/ }]);
  t.same(analyze(parseDocuments(yaml, 'm.yaml'), { trustDomain: 'td2' }), []);
});

t.test('messages name what to change', async (t) => {
  t.match(
    problemsOf(authz('p', 'spec: {rules: [{to: [{operation: {paths: [/café]}}]}]}'))[0]?.message,
    /write \/caf%C3%A9$/,
  );
  const message = (yaml: string) => problemsOf(yaml)[0]?.message ?? '';
  t.match(
    message(peer('a', 'spec: {mtls: {mode: UNSET}}') + peer('b', 'spec: {mtls: {mode: STRICT}}') + SHOP),
    /namespace shop: PeerAuthentication shop\/a \(mesh\.yaml:4\) holds there, although its mode is UNSET, because its name comes first/,
  );
  t.match(
    message(peer('p', `spec:\n  ${WEB}\n  portLevelMtls: {80: {mode: STRICT}}`) + SHOP),
    /shop\/web: 8080/,
  );
  t.match(
    message(authz('p', `spec:\n  ${ORDERS}\n  rules: [{to: [{operation: {methods: [GET]}}]}]`) + SHOP),
    /^to\.operation\.methods is for HTTP and port 5432 of shop\/orders is carried as TCP/,
  );
  t.match(
    message(rule('r', 'spec: {host: web, trafficPolicy: {tls: {mode: DISABLE}}}') + SHOP),
    /port 8080 of shop\/web/,
  );
});

t.test('a thousand policies for a thousand workloads take little time', async (t) => {
  const parts: string[] = [SHOP];
  for (let i = 0; i < 1000; i++) {
    const namespace = `ns${i % 20}`;
    parts.push(
      authz(
        `p${i}`,
        `spec:\n  selector: {matchLabels: {app: a${i % 100}}}\n  rules:\n    - from: [{source: {principals: [cluster.local/ns/${namespace}/sa/a${i % 50}]}}]\n      to: [{operation: {methods: [GET], paths: [/p${i}]}}]`,
        namespace,
      ),
      `---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w${i}, namespace: ${namespace}}\nspec: {address: 10.2.${i >> 8}.${i & 255}, labels: {app: a${i % 100}}, serviceAccount: a${i % 50}}\n`,
      entry(
        `s${i}`,
        `spec:\n  hosts: [s${i}.${namespace}.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  workloadSelector: {labels: {app: a${i % 100}}}`,
        namespace,
      ),
    );
  }
  const set = parseDocuments(parts.join(''), 'big.yaml');
  t.equal(set.resources.length, 3005);
  const before = performance.now();
  analyze(set, {});
  const took = performance.now() - before;
  // Its growth is what is watched, not the machine: squared it would be minutes.
  t.ok(took < 10_000, `${Math.round(took)} ms`);
  t.comment(`${Math.round(took)} ms`);
});

t.test('every check is triggered by a table', async (t) => {
  const tables = readdirSync(import.meta.dirname)
    .filter((name) => name.startsWith('analyze-'))
    .map((name) => readFileSync(join(import.meta.dirname, name), 'utf8'))
    .join('');
  const marked = new Set(
    tables.split('\n').flatMap(
      (line) =>
        line
          .match(/#! [\w ]+/g)
          ?.join(' ')
          .split(/[^\w]+/) ?? [],
    ),
  );
  for (const name of Object.keys(setChecks)) t.ok(marked.has(name), name);
});
