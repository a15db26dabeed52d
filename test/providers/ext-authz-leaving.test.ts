/** A connection to an authorizer whose certificate is near its end: the check under way finishes, the next one goes elsewhere. */
import t from 'tap';
import { createExtAuthz } from '../../providers/ext-authz.ts';
import { until } from '../e2e/harness/wait.ts';
import { check, NEVER, provider, reach, words } from './check-helper.ts';
import { type GrpcReply, grpcProvider, type HttpReply, httpProvider } from './check-server.ts';

const grpc = await grpcProvider(t);
const http = await httpProvider(t);
grpc.answer = () => ({ message: {} });
http.answer = () => ({ status: 200 });

for (const [protocol, server, reply] of [
  ['grpc', grpc, { message: {} }],
  ['http', http, { status: 200 }],
] as const) {
  t.test(protocol, async (t) => {
    const many = reach(() => server.port);
    const client = createExtAuthz(many);
    t.teardown(() => client.close());
    const asked = provider({ protocol });
    t.equal(words(await client.check(asked, check(), NEVER)), 'allowed');
    t.equal(words(await client.check(asked, check(), NEVER)), 'allowed');
    t.equal(many.asked.length, 1, 'kept');
    const [idle] = many.sockets;
    idle?.emit('leaving');
    await until('the idle one to be closed', () => many.sockets.size === 0);

    let release: () => void = () => {};
    const held = new Promise<GrpcReply & HttpReply>((resolve) => {
      release = () => resolve(reply as GrpcReply & HttpReply);
    });
    const seen = server.seen.length;
    server.answer = () => held;
    const first = client.check(asked, check(), NEVER);
    await until('the check to arrive', () => server.seen.length > seen);
    const [busy] = many.sockets;
    server.answer = () => reply as GrpcReply & HttpReply;
    busy?.emit('leaving');
    t.equal(words(await client.check(asked, check(), NEVER)), 'allowed', 'the next one goes elsewhere');
    t.equal(many.asked.length, 3);
    t.notOk(busy?.destroyed, 'what is under way is waited for');
    release();
    t.equal(words(await first), 'allowed');
    await until('the old one to be closed', () => busy?.destroyed);
  });
}
