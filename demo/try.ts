/** The commands the demo offers to paste, each with what comes back. */
import type { Mesh } from './mesh.ts';

/** One command for `sh`, run in any folder. */
export interface Try {
  readonly title: string;
  readonly command: string;
  /** Text that stdout and stderr together contain. */
  readonly expect: string;
  /** Exit status. */
  readonly status: number;
}

/** The answer, then its status in brackets. */
const WITH_STATUS = String.raw`-w ' [%{http_code}]\n'`;
/** Changes of the YAML are noticed within a second or so; a machine may be busy. */
const APPLIED = 'sleep 3';
/** Log lines are written in batches. */
const LOGGED = 'sleep 1';

/** The list, in the order in which it tells most. Any of them may be run at any time, and again. */
export function tryList({ ports, config, sidecars }: Mesh): readonly Try[] {
  const { web, orders } = sidecars;
  const curl = `curl -sS${noProxy()}`;
  const call = `${curl} ${WITH_STATUS}`;
  const oarlock = [process.execPath, process.argv[1] ?? ''].map(quoted).join(' ');
  const url = (port: number, path: string) => `http://127.0.0.1:${port}${path}`;
  const policies = quoted(`${config}/authorization.yaml`);
  const typo = quoted(`${config}/typo.yaml`);
  const deleteOrder = `${call} -X DELETE ${url(ports.webToOrders, '/orders/7')}`;
  const lastLine = (pattern: string, log: string) => `grep ${quoted(pattern)} ${quoted(log)} | tail -n 1`;
  return [
    {
      title:
        "As the app web, through its sidecar to orders, which calls payments: 'caller' is the peer's proven identity",
      command: `${call} ${url(ports.webToOrders, '/orders/7')}`,
      expect: '"caller":"spiffe://cluster.local/ns/shop/sa/orders"}} [200]',
      status: 0,
    },
    {
      title:
        'Eight of them at once, then what the sidecar of orders tells of its tunnels: there is one, to payments, for all of them',
      command: `(for i in 1 2 3 4 5 6 7 8; do ${curl} -o /dev/null ${url(ports.webToOrders, '/orders/7')} & done; wait); ${curl} ${orders.metrics} | grep '^oarlock_tunnel'`,
      expect: 'oarlock_tunnels{direction="outbound"} 1',
      status: 0,
    },
    {
      title: 'How orders reaches payments, told from the YAML alone: by HBONE, as the label of payments asks',
      command: `${oarlock} route --config ${quoted(config)} --namespace shop --labels app=orders --host payments --port ${ports.ordersToPayments}`,
      expect: `ISTIO_MUTUAL by HBONE on 127.0.0.1:${ports.paymentsHbone}`,
      status: 0,
    },
    {
      title: 'How web reaches whom, as its running sidecar has it: orders alone without a tunnel',
      command: `${curl} ${web.admin}/snapshot | grep -oE '"host":"[a-z]+\\.[^"]+"|"tunnel":("[^"]+"|null)'`,
      expect: '"tunnel":null',
      status: 0,
    },
    {
      title: 'As the app web with DELETE: no AuthorizationPolicy allows it',
      command: deleteOrder,
      expect: 'RBAC: access denied [403]',
      status: 0,
    },
    {
      title: 'As web, straight to payments: it lets orders in, and nobody else',
      command: `${call} ${url(ports.webToPayments, '/payments/7')}`,
      expect: 'RBAC: access denied [403]',
      status: 0,
    },
    {
      title:
        "DELETE once more, and what the log of orders' sidecar says of it: who asked, and which policies did not let it in",
      command: `${deleteOrder}; ${LOGGED}; ${lastLine('"reason":"policy_denied"', orders.log)}`,
      expect: 'shop/orders-for-web',
      status: 0,
    },
    {
      title: 'Plaintext to the STRICT port of orders: reset',
      command: `${curl} ${url(ports.orders, '/orders/7')}`,
      expect: '(56)',
      status: 56,
    },
    {
      title:
        'Plaintext to the PERMISSIVE port of web, as legacy does it: answered, and web calls on by mutual TLS',
      command: `${call} ${url(ports.webFront, '/')}`,
      expect: '"caller":"spiffe://cluster.local/ns/shop/sa/orders"}}} [200]',
      status: 0,
    },
    {
      title: 'Plaintext to the DISABLE port of payments: answered',
      command: `${call} ${url(ports.paymentsHealth, '/health')}`,
      expect: '"caller":"unknown, by plaintext"} [200]',
      status: 0,
    },
    {
      title:
        'As web to ledger, where the registry leads to payments: a valid certificate of somebody else, so nothing is sent',
      command: `${call} ${url(ports.webToLedger, '/')}`,
      expect: 'identity_mismatch [503]',
      status: 0,
    },
    {
      title: "What the log of web's sidecar says of that: the identity it expected, and the one it found",
      command: `${curl} -o /dev/null ${url(ports.webToLedger, '/')}; ${LOGGED}; ${lastLine('"reason":"identity_mismatch"', web.log)}`,
      expect: 'spiffe://cluster.local/ns/shop/sa/ledger',
      status: 0,
    },
    {
      title: 'Edit the YAML while it runs: allow DELETE too, and ask again',
      command: `sed -i.bak 's/"GET", "POST"\\]/"GET", "POST", "DELETE"]/' ${policies}; ${APPLIED}; ${deleteOrder}`,
      expect: '"caller":"spiffe://cluster.local/ns/shop/sa/web"} [200]',
      status: 0,
    },
    {
      title: 'And back: denied again',
      command: `sed -i.bak 's/, "DELETE"\\]/]/' ${policies}; ${APPLIED}; ${deleteOrder}`,
      expect: 'RBAC: access denied [403]',
      status: 0,
    },
    {
      title:
        'A broken file changes nothing: the last good set stays in force, and the log says what is wrong',
      command:
        `printf 'apiVersion: security.istio.io/v1\\nkind: PeerAuthentication\\nmetadata: {name: typo, namespace: shop}\\n` +
        `spec: {mtls: {mode: STRICKT}}\\n' > ${typo}; ${APPLIED}; rm ${typo}; ` +
        lastLine('the last good set stays in force', orders.log),
      expect: 'STRICKT',
      status: 0,
    },
    {
      title: "The certificate of orders' sidecar: its SPIFFE identity, its validity, the roots it trusts",
      command: `${curl} ${orders.admin}/certs`,
      expect: '"identity":"spiffe://cluster.local/ns/shop/sa/orders"',
      status: 0,
    },
    {
      title: "Istio's standard metrics of orders' sidecar: requests by caller, answer and security",
      command: `${curl} ${orders.metrics} | grep '^istio_requests_total' | grep mutual_tls`,
      expect: 'connection_security_policy="mutual_tls"',
      status: 0,
    },
  ];
}

/** A word of a shell command. */
export function quoted(word: string): string {
  return /^[\w/.,:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** curl would ask the proxy even for 127.0.0.1, unless told otherwise. */
function noProxy(): string {
  const { http_proxy, all_proxy, ALL_PROXY } = process.env;
  return [http_proxy, all_proxy, ALL_PROXY].some(Boolean) ? " --noproxy '*'" : '';
}
