/** Frames that a neighbour on the pod's network writes himself: what listens on loopback alone stays out of his reach. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { pythonApps } from '../harness/pods-apps.ts';
import { APP, shopOfPods } from '../harness/pods-shop.ts';

t.setTimeout(100_000);

const SCRIPT = readFileSync(join(import.meta.dirname, '../harness/pods-frames.py'), 'utf8');
/** An address that nobody has, so that no kernel resets what the neighbour says from it. */
const NOBODY = { ipv4: '10.77.0.200', ipv6: 'fd00:77::200' } as const;
/** An app of 127.0.0.1 alone. */
const INNER = 9911;
const REQUEST = 'GET /frames HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n';

const { mesh, orders, legacy } = await shopOfPods(t);
await pythonApps(t, orders, [`http:${INNER}@127.0.0.1`]);
const sidecar = (await mesh.inject([orders]))[0];
if (sidecar === undefined) throw new Error('no sidecar');

const macOf = async (pod: typeof orders): Promise<string> =>
  (await pod.must(['cat', '/sys/class/net/eth0/address'])).trim();
const [theirs, ours] = await Promise.all([macOf(orders), macOf(legacy)]);
for (const address of Object.values(NOBODY)) {
  await orders.must(['ip', 'neigh', 'replace', address, 'lladdr', ours, 'dev', 'eth0']);
}

interface Frames {
  readonly from: string;
  readonly to: string;
  readonly port: number;
  /** Absent: a SYN alone. */
  readonly request?: string;
}
interface Told {
  readonly answered: boolean;
  readonly reset: boolean;
  readonly text: string;
}

/** Says these one after the other, all to the pod's MAC. */
async function write(...frames: readonly Frames[]): Promise<Told[]> {
  const argv = ['python3', '-c', SCRIPT, 'eth0', theirs, JSON.stringify(frames)];
  const said = await legacy.must(argv);
  return said
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Told);
}

const honest = (family: 'ipv4' | 'ipv6'): Frames => ({
  from: NOBODY[family],
  to: orders[family],
  port: APP.open,
  request: REQUEST,
});

t.test('to the addresses of the pod: as any other connection', async (t) => {
  for (const told of await write(honest('ipv4'), honest('ipv6'))) t.match(told.text, /^HTTP\/1.1 200 /);
});

t.test('to loopback: refused, whatever mode the port has', async (t) => {
  const targets = [
    ['127.0.0.1', APP.open],
    ['127.0.0.1', APP.plain],
    ['127.0.0.1', INNER],
    ['127.8.8.8', APP.open],
  ] as const;
  for (const [to, port] of targets) {
    const mark = sidecar.mark;
    const [told] = await write({ from: NOBODY.ipv4, to, port, request: REQUEST });
    t.same(told, { answered: true, reset: true, text: '' }, `${to} ${port}`);
    const line = await sidecar.logged({ reason: 'not_redirected', detail: /another machine sent it/ }, mark);
    t.match(line, { direction: 'inbound', remote: /^10\.77\.0\.200:/ });
  }
});

t.test(
  'from addresses of the pod: the kernel answers no such thing, and no connection comes of it',
  async (t) => {
    const before = await sidecar.metric('oarlock_refusals_total', { reason: 'not_redirected' });
    const forged = (from: readonly string[], to: readonly string[]): Frames[] =>
      from.flatMap((one) => to.map((other) => ({ from: one, to: other, port: APP.open })));
    const ends = [honest('ipv4'), honest('ipv6')];
    const told = await write(
      ...forged(['127.0.0.1', '127.0.0.6', orders.ipv4], ['127.0.0.1', '127.0.0.9', orders.ipv4]),
      ...forged(['::1', '::6', '::ffff:127.0.0.1', orders.ipv6], ['::1', '::6', orders.ipv6]),
      // Not IPv6's to carry, and the kernel lets neither in.
      { from: NOBODY.ipv6, to: '::1', port: APP.open },
      // These two end last, and by then all before them would have been answered.
      ...ends,
    );
    const last = told.splice(-ends.length);
    for (const { text } of last) t.match(text, /^HTTP\/1.1 200 /);
    t.notOk(told.some(({ answered }) => answered));
    t.equal(await sidecar.metric('oarlock_refusals_total', { reason: 'not_redirected' }), before);
  },
);

t.test('to loopback of IPv6, and to that of IPv4 written so: nothing comes back', async (t) => {
  const to = (address: string): Frames => ({ from: NOBODY.ipv6, to: address, port: APP.open });
  const told = await write(to('::6'), to('::1'), to('::ffff:127.0.0.1'), honest('ipv6'));
  t.match(told.pop()?.text, /^HTTP\/1.1 200 /);
  t.notOk(told.some(({ text }) => text !== ''));
});
