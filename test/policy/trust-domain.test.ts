/** Trust-domain aliases: Istio's own table of `ReplaceTrustDomainAliases`, principals → what they stand for. */
import t from 'tap';
import { expandPrincipals } from '../../policy/trust-domain.ts';

const rows: readonly [trustDomains: string[], principals: string[], expected: string[]][] = [
  [['cluster.local'], ['cluster.local/ns/foo/sa/bar'], ['cluster.local/ns/foo/sa/bar']],
  [['cluster.local'], ['*'], ['*']],
  [['cluster.local'], ['*/ns/foo/sa/bar'], ['*/ns/foo/sa/bar']],
  [['td2', 'td1'], ['td1/ns/foo/sa/bar'], ['td2/ns/foo/sa/bar', 'td1/ns/foo/sa/bar']],
  [
    ['td1', 'cluster.local'],
    ['*/ns/foo/sa/bar', '*sa/zzz', '*'],
    ['*/ns/foo/sa/bar', '*sa/zzz', '*'],
  ],
  [
    ['td2', 'td1', 'cluster.local'],
    ['cluster.local/ns/foo/sa/bar', 'td1/ns/yyy/sa/zzz'],
    [
      'td2/ns/foo/sa/bar',
      'td1/ns/foo/sa/bar',
      'cluster.local/ns/foo/sa/bar',
      'td2/ns/yyy/sa/zzz',
      'td1/ns/yyy/sa/zzz',
      'cluster.local/ns/yyy/sa/zzz',
    ],
  ],
  [
    ['td2', 'foo-td1', 'cluster.local'],
    ['*-td1/ns/foo/sa/bar'],
    ['td2/ns/foo/sa/bar', '*-td1/ns/foo/sa/bar', 'cluster.local/ns/foo/sa/bar'],
  ],
  [['td1', 'td2'], ['some-td/ns/foo/sa/bar'], ['some-td/ns/foo/sa/bar']],
  [
    ['new-td', 'td2', 'td3'],
    ['td1/ns/some-ns/sa/some-sa', 'td2/ns/foo/sa/bar'],
    ['td1/ns/some-ns/sa/some-sa', 'new-td/ns/foo/sa/bar', 'td2/ns/foo/sa/bar', 'td3/ns/foo/sa/bar'],
  ],
  [['new-td', 'td2'], ['/ns/some-ns/sa/some-sa'], ['/ns/some-ns/sa/some-sa']],
  [['new-td', 'old-td'], ['*-td/ns/some-ns/sa/some-sa'], ['*-td/ns/some-ns/sa/some-sa']],
  [['td1'], ['cluster.local/ns/foo/*'], ['cluster.local/ns/foo/*']],
  [['td1'], ['cluster.local/ns/foo/sa/*'], ['td1/ns/foo/sa/*']],
];

t.test('principals over the trust domain and its aliases', async (t) => {
  for (const [trustDomains, principals, expected] of rows) {
    t.same(expandPrincipals(principals, trustDomains), expected, `${principals} in ${trustDomains}`);
  }
});
