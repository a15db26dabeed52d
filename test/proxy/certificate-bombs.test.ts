/** Chains made to keep OpenSSL busy: whoever presents one is shunned, whoever is merely wrong or honest never is. */
import type { Socket } from 'node:net';
import { duplexPair } from 'node:stream';
import { connect } from 'node:tls';
import t from 'tap';
import { Handshakes } from '../../proxy/handshakes.ts';
import { InboundTls } from '../../proxy/tls-inbound.ts';
import { OutboundTls } from '../../proxy/tls-outbound.ts';
import { answerAsServer, bomb, comeAsClient, contextOf, type Presented } from './stranger.ts';
import {
  authority,
  credentialsFor,
  type Outcome,
  partsOf,
  shakeHands,
  socketPair,
  terminate,
} from './tls-ends.ts';

const root = await authority('root');
const credentials = await credentialsFor('spiffe://home.example/ns/a/sa/b', root);
const honest = await credentialsFor('spiffe://home.example/ns/a/sa/web', root);
const sixty = bomb(60);

/** One whose every caller is at one address, which is not this machine's. */
function strictServer(): InboundTls {
  return new InboundTls(partsOf(credentials), new Handshakes(100, 5_000), () => '192.0.2.7');
}

t.test('inbound: one bomb, and the next handshake is refused before OpenSSL is asked', async (t) => {
  const server = strictServer();
  const first = await comeAsClient(server, sixty);
  t.match(first, {
    ok: false,
    reason: 'untrusted_issuer',
    detail: /takes long to verify by: 192\.0\.2\.7 is shunned for 30 s$/,
  });

  const before = process.cpuUsage();
  const { theirs, ours, close } = await socketPair();
  const stream = connect({ socket: ours, secureContext: contextOf(sixty), ALPNProtocols: ['istio'] });
  stream.on('error', () => {});
  const second = await terminate(server, theirs);
  t.match(second, { ok: false, reason: 'shunned', detail: /^192\.0\.2\.7 for another 30 s$/ });
  t.equal(ours.bytesRead, 0, 'it hears nothing from us');
  const { user, system } = process.cpuUsage(before);
  t.ok((user + system) / 1000 < 100, `${(user + system) / 1000} ms of CPU`);
  stream.destroy();
  close();
});

t.test('inbound: the tunnels of HBONE alike', async (t) => {
  const server = strictServer();
  t.match(await comeAsClient(server, sixty), { ok: false, reason: 'untrusted_issuer' });
  const { theirs, close } = await socketPair();
  const outcome = await new Promise((resolve) => {
    server.terminateHbone(theirs, ['h2'], {
      terminated: () => resolve('terminated'),
      refused: (reason) => resolve(reason),
    });
  });
  t.equal(outcome, 'shunned');
  close();
});

t.test('inbound: one that leaves once its certificates are sent', async (t) => {
  const server = strictServer();
  t.match(await cutOff(server, sixty, 40_000), {
    ok: false,
    detail: / bytes: 192\.0\.2\.7 is shunned for 30 s$/,
  });
  t.match(await comeAsClient(server, bomb(1)), { ok: false, reason: 'shunned' });
});

t.test('inbound: those that are broken off before what they cost can be seen', async (t) => {
  const server = strictServer();
  for (let i = 0; i < 2; i++)
    t.match(await cutOff(server, bomb(8), 8_000), { ok: false, detail: 'ECONNRESET' });
  t.match(await cutOff(server, bomb(8), 8_000), {
    ok: false,
    detail: 'ECONNRESET; broken off again and again: 192.0.2.7 is shunned for 30 s',
  });
  t.match(await comeAsClient(server, bomb(1)), { ok: false, reason: 'shunned' });
});

t.test('inbound: those that come at once go with the first', async (t) => {
  const server = strictServer();
  const outcomes = await Promise.all(Array.from({ length: 12 }, () => comeAsClient(server, sixty)));
  const judged = outcomes.filter((outcome) => !outcome.ok && outcome.reason !== 'shunned');
  t.ok(judged.length <= 2, `${judged.length} of 12 were verified`);
});

t.test('inbound: few certificates, with a key of an absurd size', async (t) => {
  const server = strictServer();
  t.match(await comeAsClient(server, bomb(2)), {
    ok: false,
    detail: /a key that takes long to verify by: .* shunned/,
  });
  t.match(await comeAsClient(server, bomb(2)), { ok: false, reason: 'shunned' });
});

t.test('inbound: honest peers that come at once from an address nobody knows are all let in', async (t) => {
  const server = strictServer();
  const client = new OutboundTls(partsOf(honest));
  const met = await Promise.all(Array.from({ length: 40 }, () => shakeHands(server, client)));
  t.equal(met.filter(({ inbound }) => inbound.ok).length, 40);
});

t.test('inbound: where a peer was verified, a bomb shuts out nobody', async (t) => {
  const server = strictServer();
  const client = new OutboundTls(partsOf(honest));
  t.match(await shakeHands(server, client), { inbound: { ok: true } });
  t.match(await comeAsClient(server, sixty), { ok: false, reason: 'untrusted_issuer' });
  t.match(await shakeHands(server, client), { inbound: { ok: true } });
});

t.test('inbound: on this machine nobody is shunned', async (t) => {
  const server = new InboundTls(partsOf(credentials), new Handshakes(10, 5_000));
  for (let i = 0; i < 2; i++)
    t.match(await comeAsClient(server, bomb(12)), {
      ok: false,
      reason: 'untrusted_issuer',
      detail: /takes long to verify by$/,
    });
});

t.test('whoever is merely wrong is never shunned', async (t) => {
  const server = strictServer();
  const [other, short] = [await authority('another'), await authority('root')];
  const above = await authority('an intermediate', { issuer: other });
  const wrong = [
    await credentialsFor('spiffe://home.example/ns/a/sa/web', other),
    await credentialsFor('spiffe://home.example/ns/a/sa/web', short),
    await credentialsFor('spiffe://home.example/ns/a/sa/web', above, { above: [above, other] }),
    await credentialsFor('spiffe://home.example/ns/a/sa/web', root, {
      wish: { from: -7_200, until: -3_600 },
    }),
    await credentialsFor('spiffe://elsewhere.example/ns/a/sa/web', root),
  ];
  for (let round = 0; round < 5; round++) {
    for (const [i, credentials] of wrong.entries()) {
      const { inbound } = await shakeHands(server, new OutboundTls(partsOf(credentials)));
      t.notOk(inbound.ok, `${i}`);
      if (!inbound.ok)
        t.notMatch(`${inbound.reason} ${inbound.detail}`, /shunned/, `${i}: ${inbound.reason}`);
    }
  }
  t.match(await shakeHands(server, new OutboundTls(partsOf(honest))), { inbound: { ok: true } });
});

t.test('outbound: a server that presents one is not asked again', async (t) => {
  const client = new OutboundTls(partsOf(honest));
  t.match(await answerAsServer(client, sixty), {
    ok: false,
    reason: 'untrusted_issuer',
    detail: /takes long to verify by: shunned for 30 s$/,
  });
  t.match(await answerAsServer(client, sixty), { ok: false, reason: 'shunned', detail: 'for another 30 s' });
});

/** Sends so many bytes of its handshake and resets. */
async function cutOff(server: InboundTls, presented: Presented, bytes: number): Promise<Outcome> {
  const { theirs, ours, close } = await socketPair();
  const [end, wire] = duplexPair();
  const stream = connect({
    socket: end,
    secureContext: contextOf(presented),
    rejectUnauthorized: false,
    ALPNProtocols: ['istio'],
  });
  stream.on('error', () => {});
  carry(wire, ours, bytes);
  const outcome = await terminate(server, theirs);
  stream.destroy();
  close();
  return outcome;
}

function carry(wire: ReturnType<typeof duplexPair>[0], ours: Socket, bytes: number): void {
  let left = bytes;
  ours.on('data', (chunk) => wire.write(chunk));
  wire.on('data', (chunk: Buffer) => {
    if (left <= 0) return;
    ours.write(chunk.subarray(0, left));
    left -= chunk.length;
    if (left <= 0) ours.end();
  });
}
