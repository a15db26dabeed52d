/** The canary: what it makes of whoever answers where rules of capture should lead it, and whom it takes for one. */
import { createServer } from 'node:net';
import t, { type Test } from 'tap';
import { Canary, isCanary } from '../../proxy/setup/canary.ts';
import { until } from '../e2e/harness/wait.ts';

t.setTimeout(30_000);

interface Told {
  readonly family: string;
  readonly why: string | null;
}

/** Stands where the inbound port would: what it says to a canary may change. */
async function stand(t: Test): Promise<{ says: string }> {
  const answer = { says: 'sesame' };
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end(answer.says);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(15_002, '127.0.0.6', resolve);
  });
  t.teardown(() => server.close());
  return answer;
}

function fly(
  t: Test,
  families: () => ReadonlySet<'ipv4' | 'ipv6'>,
): { canary: Canary; told: Told[]; proofs: () => number } {
  const told: Told[] = [];
  let proofs = 0;
  const canary = new Canary({
    intervalMs: 20,
    nonce: 'sesame',
    families,
    changed: (family, why) => void told.push({ family, why }),
    proven: () => proofs++,
  });
  t.teardown(() => canary.stop());
  return { canary, told, proofs: () => proofs };
}

const ipv4 = new Set(['ipv4'] as const);

t.test('tells of a change, once', async (t) => {
  const { canary, told } = fly(t, () => ipv4);
  await until('the first to land', () => told.length === 1);
  t.same(told, [{ family: 'ipv4', why: 'ECONNREFUSED' }], 'nothing leads it anywhere');
  t.same(canary.gauge(), [{ labels: { family: 'ipv4' }, value: 0 }]);
  t.match(canary.warnings(), [/ipv4 do not stand \(ECONNREFUSED\).*oarlock iptables --check/]);
  const answer = await stand(t);
  await until('another to land', () => told.length === 2);
  t.same(told[1], { family: 'ipv4', why: null });
  t.same(canary.gauge(), [{ labels: { family: 'ipv4' }, value: 1 }]);
  t.same(canary.warnings(), []);
  for (const says of ['open', '', 'sesame'.repeat(100)]) {
    answer.says = says;
    await until('a third', () => told.at(-1)?.why === 'another program answered');
    answer.says = 'sesame';
    await until('a fourth', () => told.at(-1)?.why === null);
  }
  t.equal(told.length, 8, 'each change, and nothing between');
});

t.test('says nothing where all is well from the beginning', async (t) => {
  await stand(t);
  const { canary, told } = fly(t, () => ipv4);
  await until('it to land', () => canary.gauge().length === 1);
  t.same(canary.gauge(), [{ labels: { family: 'ipv4' }, value: 1 }]);
  t.same(told, []);
});

t.test('waited for until it has stood once, in each family that is up', async (t) => {
  const { canary, told, proofs } = fly(t, () => ipv4);
  t.same(canary.waitingFor(), ['rules of capture for ipv4 (oarlock iptables)'], 'before it lands');
  await until('the first to land', () => told.length === 1);
  t.same(canary.waitingFor(), ['rules of capture for ipv4 (oarlock iptables)'], 'nothing leads it anywhere');
  t.equal(proofs(), 0);
  const answer = await stand(t);
  await until('it to stand', () => told.length === 2);
  t.same(canary.waitingFor(), []);
  answer.says = '';
  await until('it to be gone', () => told.length === 3);
  t.same(canary.waitingFor(), [], 'a warning from then on');
  t.match(canary.warnings(), [/ipv4/]);
  t.equal(proofs(), 1);
  const both = fly(t, () => new Set(['ipv4', 'ipv6']));
  answer.says = 'sesame';
  await until('IPv4 to stand', () => both.canary.gauge().some(({ value }) => value === 1));
  t.same(both.canary.waitingFor(), ['rules of capture for ipv6 (oarlock iptables)'], 'one is not both');
  t.equal(both.proofs(), 0);
});

t.test('where it cannot be told what is up, nothing ends and nothing is taken for proven', async (t) => {
  await stand(t);
  let blind = true;
  const { canary, proofs } = fly(t, () => {
    if (blind) throw new Error('uv_interface_addresses returned Unknown system error 24');
    return ipv4;
  });
  await until('IPv4 to stand', () => canary.gauge().some(({ value }) => value === 1));
  t.same(canary.waitingFor(), ['rules of capture for ipv6 (oarlock iptables)']);
  t.equal(proofs(), 0);
  blind = false;
  await until('it to be told', () => proofs() === 1);
  blind = true;
  t.same(canary.waitingFor(), []);
});

t.test('a machine without an address waits for nothing', async (t) => {
  const { canary, proofs } = fly(t, () => new Set());
  t.same(canary.waitingFor(), []);
  await until('it to be told', () => proofs() === 1);
});

t.test('a family that goes is left out', async (t) => {
  await stand(t);
  let up = true;
  const { canary } = fly(t, () => (up ? ipv4 : new Set()));
  await until('it to land', () => canary.gauge().length === 1);
  up = false;
  await until('it to be left out', () => canary.gauge().length === 0);
});

t.test('whom the inbound port takes for one', async (t) => {
  const from = (remoteAddress: string): Parameters<typeof isCanary>[1] => ({ remoteAddress }) as never;
  const at = (address: string, port = 15_002): { address: string; port: number } => ({ address, port });
  t.ok(isCanary(at('127.0.0.6'), from('127.0.0.1')));
  t.ok(isCanary(at('127.0.0.6'), from('::ffff:127.0.0.1')), 'on a dual-stack listener');
  t.ok(isCanary(at('::6'), from('::1')));
  t.notOk(isCanary(at('127.0.0.6', 80), from('127.0.0.1')), 'another port');
  t.notOk(isCanary(at('10.0.0.1'), from('127.0.0.1')), 'another address');
  t.notOk(isCanary(at('127.0.0.6'), from('10.127.0.0.1')), 'from elsewhere');
  t.notOk(isCanary(at('::6'), from('fd00::1')));
});
