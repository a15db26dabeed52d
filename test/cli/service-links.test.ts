/** A Service's name must not stop what runs in its namespace: the variables Kubernetes makes of it are not our flags. */
import t from 'tap';
import { forgetServiceLinks } from '../../cli/service-links.ts';
import { runToEnd } from '../e2e/harness/processes.ts';

/** As the kubelet sets them for a Service of that name (kubernetes.io, Services, Environment variables). */
function linksOf(service: string, port: number): Record<string, string> {
  const name = `OARLOCK_${service}`;
  const url = `tcp://10.96.0.9:${port}`;
  return {
    [`${name}_SERVICE_HOST`]: '10.96.0.9',
    [`${name}_SERVICE_PORT`]: String(port),
    [`${name}_PORT`]: url,
    [`${name}_PORT_${port}_TCP`]: url,
    [`${name}_PORT_${port}_TCP_PROTO`]: 'tcp',
    [`${name}_PORT_${port}_TCP_PORT`]: String(port),
    [`${name}_PORT_${port}_TCP_ADDR`]: '10.96.0.9',
  };
}

t.test('links are forgotten, what a pod sets is not', async (t) => {
  const env: Record<string, string> = {
    ...linksOf('METRICS', 15020),
    OARLOCK_ADMIN_PORT: 'sctp://[fd00::9]:15000',
    OARLOCK_HEALTH_PORT: '15021',
    OARLOCK_HBONE_PORT: 'off',
    WEB_PORT: 'tcp://10.96.0.8:80',
  };
  forgetServiceLinks(env);
  const ports = Object.entries(env).filter(([name]) => /^(?:OARLOCK_[A-Z]+|WEB)_PORT$/.test(name));
  t.same(Object.fromEntries(ports), {
    OARLOCK_HEALTH_PORT: '15021',
    OARLOCK_HBONE_PORT: 'off',
    WEB_PORT: 'tcp://10.96.0.8:80',
  });
});

t.test('commands start beside Services of these names', async (t) => {
  const env = Object.assign(
    {},
    ...['ADMIN', 'METRICS', 'HEALTH', 'OUTBOUND', 'INBOUND', 'HBONE'].map((name) => linksOf(name, 15_020)),
  ) as Record<string, string>;
  const rules = ['iptables', '--dry-run', '--backend', 'nft'];
  t.match(await runToEnd(t, rules, env), { code: 0, stdout: /tcp dport 15008/, stderr: '' });
  const run = [
    'run',
    '--config',
    '/none',
    '--workload',
    'shop/web',
    '--cert-dir',
    '/none',
    '--intercept',
    'none',
  ];
  const { code, stderr } = await runToEnd(t, run, env);
  t.equal(code, 2);
  t.match(stderr, /\/none/, 'it gets as far as its resources');
  t.notMatch(stderr, /OARLOCK/);
  t.match(
    await runToEnd(t, run, { OARLOCK_METRICS_PORT: '10.96.0.9:15020' }),
    { code: 2, stderr: /OARLOCK_METRICS_PORT/ },
    'what is no link is still said to be wrong',
  );
});
