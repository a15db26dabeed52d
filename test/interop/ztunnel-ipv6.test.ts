/** A real ztunnel at the other end of HBONE, over IPv6: addresses in authorities, in certificates' peers, and in refusals. */
import t from 'tap';
import { GREETING } from './ztunnel-apps.ts';
import { createWorld, here, oarlockCalls, ztunnelCalls } from './ztunnel-mesh.ts';

t.setTimeout(120_000);

const MB = 1_048_576;

const world = await createWorld(t, 'ipv6');
const { wire, vip, stray, theirs, ours, toLegacy } = world;
const orders = await world.startOarlock();
const ztunnel = await world.startZtunnel();

for (const { title, ask, to } of [ztunnelCalls(world), oarlockCalls(world)]) {
  t.test(title, async (t) => {
    t.equal((await ask('get', to('http'), '/')).status, 200, 'HTTP/1.1');
    t.equal(await ask('postAndCompare', to('http'), MB), 1, '1 MB and back');
    t.equal((await ask('getByHttp2', to('http2'), ['/1'])).length, 1, 'HTTP/2');
    t.ok(await ask('halfClose', to('digest'), MB), 'half-close');
    t.equal(await ask('beGreeted', to('greet')), `${GREETING}EHLO`, 'server first');
  });
}

t.test('ztunnel asks for our address, by service or directly', async (t) => {
  t.equal((await theirs.ask('get', vip, '/')).status, 200);
  t.ok(await theirs.ask('halfClose', { host: wire.here, port: ours.digest }, 5), 'a port without a listener');
});

t.test('ztunnel asks for an address that is not ours', async (t) => {
  const mark = ztunnel.log.mark;
  const logged = orders.mark;
  t.equal((await theirs.ask('say', stray, 'hello')).text, '');
  await ztunnel.failed(/400 Bad Request/, mark);
  const line = JSON.stringify(await orders.logged({ reason: 'bad_connect' }, logged));
  t.match(line, `[${stray.host}]:${stray.port}`);
});

t.test('we ask with brackets', async (t) => {
  const mark = ztunnel.log.mark;
  await here('beGreeted', toLegacy('greet'));
  const { req } = await ztunnel.log.next({ message: 'received request' }, mark);
  t.match(String(req), `uri: [${wire.there}]:`);
  // RFC 7239 §6: an IPv6 address is in brackets, and quoted for them.
  t.match(String(req).replaceAll('\\', ''), `for="[${wire.here}]"`);
});
