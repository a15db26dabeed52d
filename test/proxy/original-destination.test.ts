/** What the kernel itself says of redirected connections, and gives in ports: in a network namespace, which needs root. */
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import t from 'tap';

const missing = ['ip', 'iptables', 'ip6tables', 'sysctl'].filter(
  (tool) => spawnSync('/bin/sh', ['-c', `command -v ${tool}`]).status !== 0,
);
if (spawnSync('unshare', ['--net', 'true']).status !== 0) missing.push('root, who may make networks');
const skip = missing.length === 0 ? false : `SKIPPED: asking the kernel needs ${missing.join(', ')}`;
if (skip !== false) process.stderr.write(`\n${skip}\n\n`);

t.test('redirected connections, of both families and on a listener of both', { skip }, async (t) => {
  const script = join(import.meta.dirname, 'kernel-script.ts');
  // The namespace is gone with the process.
  const output = execFileSync('unshare', ['--net', process.execPath, script], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  t.same(JSON.parse(output), {
    'before any rule': 'null',
    ipv4: '10.99.0.1 8080',
    ipv6: 'fd00:99::1 8081',
    'loopback ipv6': '::1 8082',
    // Known to the kernel by now, and as what it is: going to the port itself.
    'direct ipv4': '127.0.0.1 15006',
    'direct ipv6': '::1 15006',
    closed: 'original destination: the socket is closed',
    'ipv4 alone': '10.99.0.1 8083',
    'bound ipv4': { count: 128, callers: ['127.0.0.6 true'] },
    'bound ipv6': { count: 128, callers: ['::6 true'] },
    'bound to a stranger': null,
  });
});
