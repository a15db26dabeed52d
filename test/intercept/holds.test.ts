/** `oarlock iptables --hold`: sets the rules again where they were changed, tells of it, and ends when it is told to. */
import { createInterface } from 'node:readline';
import t from 'tap';
import { Namespace, oarlock, skipped } from './namespaces.ts';

if (!skipped(t)) {
  t.test('what was taken away is set again, and told', async (t) => {
    const namespace = new Namespace(t);
    const child = namespace.start([...oarlock, '--backend', 'iptables', '--hold', '1s']);
    t.teardown(() => child.kill('SIGKILL'));
    const [out, err] = [child.stdout, child.stderr].map((input) =>
      createInterface({ input })[Symbol.asyncIterator](),
    );
    const ended = new Promise((resolve) => child.once('close', resolve));
    const next = async (lines = out) => String((await lines?.next())?.value);

    t.equal(await next(), 'The rules of capture are set (iptables).');
    const standing = namespace.must('iptables-nft-save -t nat');
    namespace.must('iptables-nft -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND');
    t.equal(
      await next(err),
      'oarlock: the rules of capture had changed, and are set again: iptables IPv4 nat PREROUTING: missing: -A PREROUTING -p tcp -j ISTIO_INBOUND',
    );
    const rules = (text: string) => text.split('\n').filter((line) => line.startsWith('-A '));
    t.same(rules(namespace.must('iptables-nft-save -t nat')), rules(standing));
    namespace.must('ip6tables-nft -t nat -F');
    t.match(await next(err), /IPv6 nat .*; \d+ more$/, 'many in one line');
    t.match(namespace.oarlock(['--check']), { status: 0 });

    namespace.must('iptables-nft -t nat -I PREROUTING -p tcp -j ACCEPT');
    t.match(await next(err), /^oarlock: iptables IPv4 nat PREROUTING: stands before ours, .* -j ACCEPT$/);
    t.match(
      namespace.must('iptables-nft-save -t nat'),
      /-A PREROUTING -p tcp -j ACCEPT/,
      "others' are theirs",
    );

    child.kill('SIGTERM');
    t.equal(await ended, 0);
    namespace.must('iptables-nft -t nat -D PREROUTING -p tcp -j ACCEPT');
    t.match(namespace.oarlock(['--check']), { status: 0 }, 'they outlive it');
  });

  t.test('it stays for nothing but setting', async (t) => {
    const namespace = new Namespace(t);
    for (const flag of ['--clean', '--check', '--dry-run'])
      t.match(namespace.oarlock(['--hold', flag]), { status: 2, stderr: /^oarlock: --hold sets/ }, flag);
    for (const interval of ['0s', '500ms', '2h', 'often'])
      t.match(namespace.oarlock(['--hold', interval]), { status: 2, stderr: /from 1s to 1h/ }, interval);
  });
}
