/** One side of a pair that only moves bytes, in a process of its own. */
import { createServer, connect as dial } from 'node:net';
import { connect, createServer as createTlsServer } from 'node:tls';
import { join } from './join.ts';
import { clientTls, serverTls, sideOf } from './node-tls.ts';
import { CALLER_URI } from './peer.ts';

const side = sideOf();

const to = { port: side.dial, host: '127.0.0.1' };
if (side.role === 'callee') {
  createTlsServer({ ...serverTls(side), noDelay: true }, (from) => {
    from.on('error', () => {});
    const known = from.getPeerCertificate().subjectaltname === `URI:${CALLER_URI}`;
    // Not from inside OpenSSL, which calls this.
    setImmediate(() => (known ? join(from, dial({ ...to, noDelay: true })) : from.destroy()));
  }).listen(side.listen, '127.0.0.1');
} else {
  const tls = { ...to, ...clientTls(side), ALPNProtocols: ['http/1.1'] };
  let last: Buffer | undefined;
  createServer({ noDelay: true, pauseOnConnect: true }, (from) => {
    const callee = connect(last === undefined ? tls : { ...tls, session: last });
    if (side.tls.resumes === true) {
      callee.on('session', (session) => {
        last = session;
      });
    }
    callee.setNoDelay(true);
    join(from, callee);
  }).listen(side.listen, '127.0.0.1');
}
