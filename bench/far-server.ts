/** The server that all clients of handshakes shake hands with: an Envoy that asks for certificates and answers 200 itself. */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Child } from './children.ts';
import { findEnvoy } from './peers/envoy.ts';
import type { Credentials } from './peers/peer.ts';
import { listens, SERVED_MS, until } from './peers/until.ts';
import { freePort } from './ports.ts';
import { LOOPBACK } from './task.ts';

const EXTENSIONS = 'type.googleapis.com/envoy.extensions';
const STATS = 'listener.far.ssl';

/** What the server is to be. */
export interface FarServerOptions {
  /** A folder that is there. */
  readonly dir: string;
  readonly credentials: Credentials;
  /** The one group it takes. */
  readonly group: string;
  /** False: it gives no tickets. */
  readonly resumes: boolean;
}

/** Handshakes since it started, in TLS 1.3, with a certificate and by its group all of them. */
export interface FarCounts {
  readonly full: number;
  readonly resumed: number;
}

/**
 * Node's own server would not do: it gives no new ticket to a client that resumes, and proxies that use each ticket
 * once, as RFC 8446 §C.4 has it, would have to shake hands in full again. Nor can it give none at all.
 */
export class FarServer {
  readonly port: number;
  readonly #child: Child;
  readonly #adminPort: number;

  /** @throws where there is no Envoy, or it does not start */
  static async start(options: FarServerOptions): Promise<FarServer> {
    const program = findEnvoy();
    if (program === null) throw new Error('there is no Envoy to be the server');
    const [port, adminPort] = [await freePort(), await freePort()];
    const file = join(options.dir, 'far.json');
    writeFileSync(file, JSON.stringify(bootstrap(options, port, adminPort), null, 1));
    const output = openSync(join(options.dir, 'far.log'), 'a');
    const args = ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'warn'];
    const child = new Child({ program, args }, output);
    closeSync(output);
    const why = await until(child, SERVED_MS, () => listens(port));
    if (why === null) return new FarServer(child, port, adminPort);
    await child.stop();
    throw new Error(`Envoy as the server: ${why}`);
  }

  private constructor(child: Child, port: number, adminPort: number) {
    this.#child = child;
    this.port = port;
    this.#adminPort = adminPort;
  }

  /** @throws where a handshake was another than all are to be */
  async counts(): Promise<FarCounts> {
    const answer = await fetch(`http://${LOOPBACK}:${this.#adminPort}/stats?format=json&filter=${STATS}`);
    const { stats } = (await answer.json()) as {
      readonly stats: readonly { readonly name?: string; readonly value?: number }[];
    };
    const count = (name: string): number => stats.find((one) => one.name === `${STATS}.${name}`)?.value ?? 0;
    const all = count('handshake');
    if (count('versions.TLSv1.3') !== all) throw new Error('not all handshakes were of TLS 1.3');
    if (count('no_certificate') > 0) throw new Error('a client without certificate was let in');
    return { full: all - count('session_reused'), resumed: count('session_reused') };
  }

  async stop(): Promise<void> {
    await this.#child.stop();
  }
}

function bootstrap(options: FarServerOptions, port: number, adminPort: number): unknown {
  const address = (number: number) => ({ socket_address: { address: LOOPBACK, port_value: number } });
  const manager = {
    '@type': `${EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'far',
    codec_type: 'HTTP1',
    // Else it waits a second for whoever is to close first.
    delayed_close_timeout: '0s',
    http_filters: [
      { name: 'router', typed_config: { '@type': `${EXTENSIONS}.filters.http.router.v3.Router` } },
    ],
    route_config: {
      virtual_hosts: [
        {
          name: 'all',
          domains: ['*'],
          routes: [
            { match: { prefix: '/' }, direct_response: { status: 200, body: { inline_string: 'ok' } } },
          ],
        },
      ],
    },
  };
  const chain = {
    filters: [{ name: 'http', typed_config: manager }],
    transport_socket: { name: 'tls', typed_config: tls(options) },
  };
  return {
    admin: { address: address(adminPort) },
    static_resources: {
      listeners: [{ name: 'far', stat_prefix: 'far', address: address(port), filter_chains: [chain] }],
    },
  };
}

function tls({ credentials, group, resumes }: FarServerOptions): unknown {
  const { certWithName, key, root } = credentials;
  return {
    '@type': `${EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext`,
    require_client_certificate: true,
    disable_stateless_session_resumption: !resumes,
    common_tls_context: {
      alpn_protocols: ['istio-http/1.1', 'istio', 'http/1.1'],
      tls_params: {
        tls_minimum_protocol_version: 'TLSv1_3',
        tls_maximum_protocol_version: 'TLSv1_3',
        ecdh_curves: [group],
      },
      tls_certificates: [{ certificate_chain: { filename: certWithName }, private_key: { filename: key } }],
      validation_context: { trusted_ca: { filename: root } },
    },
  };
}
