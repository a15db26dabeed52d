/** A chain that OpenSSL refuses by a code alone: our refusal names the certificate of it and the rule, of clients and of servers. */
import t from 'tap';
import { OutboundTls } from '../../proxy/tls-outbound.ts';
import {
  basicConstraints,
  CLIENT,
  certificate,
  ecKeys,
  names,
  pem,
  purposes,
  SERVER,
  uriName,
  usage,
} from '../mesh/pki.ts';
import { answerAsServer, comeAsClient, type Presented } from './stranger.ts';
import { authority, credentialsFor, partsOf, serverOf } from './tls-ends.ts';

const ID = 'spiffe://home.example/ns/a/sa/b';
const HOUR = 3_600_000;
const dates = { notBefore: Date.now() - HOUR, notAfter: Date.now() + HOUR };

interface Ca {
  readonly name: string;
  readonly pathLength?: number;
  readonly purposes?: readonly string[];
}

/** A chain of CAs, root first, and a leaf. @returns what is presented, and the root */
function chainOf(cas: readonly Ca[], forWhat: readonly string[]): { presented: Presented; root: string } {
  const keys = cas.map(() => ecKeys());
  const leafKeys = ecKeys();
  const made = cas.map(({ name, pathLength, purposes: own }, i) =>
    certificate({
      ...dates,
      subject: name,
      issuer: cas[Math.max(i - 1, 0)]?.name ?? name,
      keys: keys[i] ?? leafKeys,
      issuerKey: (keys[Math.max(i - 1, 0)] ?? leafKeys).privateKey,
      extensions: [
        basicConstraints(true, pathLength ?? null),
        usage('keyCertSign', 'cRLSign'),
        ...(own === undefined ? [] : [purposes(...own)]),
      ],
    }),
  );
  const leaf = certificate({
    ...dates,
    subject: '',
    issuer: cas.at(-1)?.name ?? '',
    keys: leafKeys,
    issuerKey: (keys.at(-1) ?? leafKeys).privateKey,
    extensions: [
      basicConstraints(false),
      usage('digitalSignature'),
      purposes(...forWhat),
      names(uriName(ID)),
    ],
  });
  const [root, ...others] = made;
  return {
    presented: { chain: [leaf, ...others.toReversed()], key: leafKeys.privateKey },
    root: pem(root ?? leaf),
  };
}

interface Row {
  readonly title: string;
  readonly cas: readonly Ca[];
  readonly forWhat: readonly string[];
  readonly asClient: string | null;
  readonly asServer: string | null;
}

const rows: readonly Row[] = [
  {
    title: 'a leaf for servers alone',
    cas: [{ name: 'root' }],
    forWhat: [SERVER],
    asClient: `INVALID_PURPOSE (presented ${ID}): ${ID} is not for clients, by its extended key usage`,
    asServer: null,
  },
  {
    title: 'a leaf for clients alone',
    cas: [{ name: 'root' }],
    forWhat: [CLIENT],
    asClient: null,
    asServer: `INVALID_PURPOSE (presented ${ID}): ${ID} is not for servers, by its extended key usage`,
  },
  {
    title: 'an intermediate for servers alone',
    cas: [{ name: 'root' }, { name: 'web', purposes: [SERVER] }],
    forWhat: [SERVER, CLIENT],
    asClient: `INVALID_PURPOSE (presented ${ID}): CN=web is not for clients, by its extended key usage`,
    asServer: null,
  },
  {
    title: 'one CA more than the path length allows',
    cas: [{ name: 'root' }, { name: 'upper', pathLength: 0 }, { name: 'lower' }],
    forWhat: [SERVER, CLIENT],
    asClient: `PATH_LENGTH_EXCEEDED (presented ${ID}): CN=upper allows a path length of 0, and 1 CAs stand below it`,
    asServer: `PATH_LENGTH_EXCEEDED (presented ${ID}): CN=upper allows a path length of 0, and 1 CAs stand below it`,
  },
];

for (const { title, cas, forWhat, asClient, asServer } of rows) {
  t.test(title, async (t) => {
    const { presented, root } = chainOf(cas, forWhat);
    const own = await authority('own');
    const parts = partsOf(await credentialsFor('spiffe://home.example/ns/a/sa/c', own));
    const trusting = partsOf({ ...parts.credentials, rootsPem: [own.pem, root] });
    const refusal = (detail: string) => ({ ok: false, reason: 'bad_certificate', detail });
    const inbound = await comeAsClient(serverOf(trusting), presented);
    t.match(inbound, asClient === null ? { ok: true } : refusal(asClient), 'a client');
    const outbound = await answerAsServer(new OutboundTls(trusting), presented);
    t.match(outbound, asServer === null ? { ok: true } : refusal(asServer), 'a server');
  });
}
