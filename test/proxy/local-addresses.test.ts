/** Which addresses are this machine's, as its interfaces change and while they cannot be read. */
import type { NetworkInterfaceInfo } from 'node:os';
import t from 'tap';
import { LocalAddresses } from '../../proxy/setup/local-addresses.ts';

const interfacesWith = (...addresses: string[]) => ({
  eth0: addresses.map((address) => ({ address }) as NetworkInterfaceInfo),
});

t.test('what is there, and the loopback block', async (t) => {
  const addresses = new LocalAddresses(() => interfacesWith('10.0.0.7', 'fd00::7'));
  for (const ours of ['10.0.0.7', 'fd00::7', '127.0.0.1', '127.9.9.9']) t.ok(addresses.has(ours), ours);
  for (const other of ['10.0.0.8', 'fd00::8', '']) t.notOk(addresses.has(other), other);
});

t.test("while they cannot be read, what was known holds and all else is a stranger's", async (t) => {
  let blind = false;
  const addresses = new LocalAddresses(() => {
    if (blind) throw new Error('uv_interface_addresses returned Unknown system error 24');
    return interfacesWith('10.0.0.7');
  });
  t.ok(addresses.has('10.0.0.7'));
  blind = true;
  t.ok(addresses.has('10.0.0.7'));
  t.notOk(addresses.has('10.0.0.8'));
  const never = new LocalAddresses(() => {
    throw new Error('EMFILE');
  });
  t.notOk(never.has('10.0.0.7'));
  t.ok(never.has('127.0.0.1'));
});
