/** A root kept elsewhere, and intermediates under it as an operator plugs them into istiod's `cacerts`. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openssl } from '../ca-client/helper.ts';

export class PluggedRoot {
  readonly #home: string;
  readonly #name: string;

  private constructor(home: string, name: string) {
    this.#home = home;
    this.#name = name;
  }

  static async create(home: string, name: string): Promise<PluggedRoot> {
    const root = new PluggedRoot(home, name);
    await openssl(
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/O=${name}`],
      ...[
        '-addext',
        'keyUsage=critical,keyCertSign,cRLSign',
        '-keyout',
        root.#at('key'),
        '-out',
        root.#at('pem'),
      ],
    );
    return root;
  }

  get pem(): string {
    return readFileSync(this.#at('pem'), 'utf8');
  }

  /** Puts a new intermediate of this root into the folder; its key last, for istiod reads the set when one changes. */
  async plugInto(folder: string): Promise<void> {
    const at = (suffix: string) => this.#at(`middle.${suffix}`);
    await openssl(
      ...['req', '-new', '-newkey', 'rsa:2048', '-nodes', '-subj', `/O=${this.#name} intermediate`],
      ...[
        '-addext',
        'basicConstraints=critical,CA:true,pathlen:0',
        '-addext',
        'keyUsage=critical,keyCertSign,cRLSign',
      ],
      ...['-keyout', at('key'), '-out', at('csr')],
    );
    await openssl(
      ...['x509', '-req', '-in', at('csr'), '-CA', this.#at('pem'), '-CAkey', this.#at('key'), '-days', '1'],
      ...['-copy_extensions', 'copyall', '-out', at('pem')],
    );
    const certificate = readFileSync(at('pem'), 'utf8');
    writeFileSync(join(folder, 'ca-cert.pem'), certificate);
    writeFileSync(join(folder, 'cert-chain.pem'), certificate);
    writeFileSync(join(folder, 'ca-key.pem'), readFileSync(at('key')));
  }

  #at(suffix: string): string {
    return join(this.#home, `${this.#name}.${suffix}`);
  }
}
