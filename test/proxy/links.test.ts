/** Connections by their peer's certificate, on a clock of the test's: brought to their end before it ends, spread, closed at it. */
import t, { type Test } from 'tap';
import { identityOf } from '../../mesh/identity.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { Direction } from '../../proxy/connections.ts';
import { type CertificateLife, type Link, Links, lifeOf } from '../../proxy/links.ts';
import type { VerifiedPeer } from '../../proxy/verify-peer.ts';

const START = Date.UTC(2030, 0, 1);
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

function peerOf(name: string, lifeMs: number, notBefore = START): VerifiedPeer {
  const identity = identityOf('cluster.local', 'shop', name);
  const notAfter = notBefore + lifeMs;
  // The register reads no more of a peer than this.
  const signed = { serial: '0a', issuer: 'CN=ca', root: { subject: 'CN=root', fingerprint256: '' } };
  return { identity, hash: name, ...signed, notBefore, notAfter } as VerifiedPeer;
}

/** What happened to a link, and when. */
class FakeLink implements Link {
  readonly direction: Direction;
  readonly peer: VerifiedPeer;
  readonly life: CertificateLife;
  readonly since: number;
  readonly tunnelled: boolean;
  readonly #clock: { now: number };
  readonly #links: Links;
  retiredAt: number | null = null;
  drainedAt: number | null = null;
  closedAt: number | null = null;
  why: [ReasonCode, string] | null = null;
  order = 0;
  static #closed = 0;

  constructor(links: Links, clock: { now: number }, peer: VerifiedPeer, more: Partial<Link> = {}) {
    this.#links = links;
    this.#clock = clock;
    this.peer = peer;
    this.life = lifeOf(peer);
    this.since = more.since ?? START;
    this.direction = more.direction ?? 'inbound';
    this.tunnelled = more.tunnelled ?? false;
    links.add(this);
  }

  retire(): void {
    this.retiredAt = this.#clock.now;
  }

  drain(): void {
    this.drainedAt = this.#clock.now;
  }

  close(reason: ReasonCode, detail: string): void {
    if (this.why !== null) throw new Error('closed twice');
    this.why = [reason, detail];
    this.closedAt = this.#clock.now;
    this.order = ++FakeLink.#closed;
    this.#links.remove(this);
  }
}

function scene(t: Test, random: () => number = Math.random) {
  const links = new Links(random);
  t.teardown(() => links.stop());
  const clock = { now: START };
  const until = (end: number, step: number): void => {
    while (clock.now < end) {
      clock.now += step;
      links.sweep(clock.now);
    }
  };
  return { links, clock, until };
}

t.test('retired, then drained, then closed: within the last part of a certificate', async (t) => {
  const rows = [
    { name: 'a day', life: 24 * HOUR, lead: 10 * MINUTE, step: 250 },
    { name: 'an hour', life: HOUR, lead: 6 * MINUTE, step: 250 },
    { name: 'a minute', life: MINUTE, lead: 6 * SECOND, step: 50 },
    { name: 'four seconds', life: 4 * SECOND, lead: 2 * SECOND, step: 50 },
  ];
  for (const { name, life, lead, step } of rows) {
    for (const chance of [0, 0.5, 0.999]) {
      const { links, clock, until } = scene(t, () => chance);
      const link = new FakeLink(links, clock, peerOf('web', life));
      const end = START + life;
      clock.now = end - 2 * lead;
      until(end + SECOND, step);
      const [retired, drained, closed] = [link.retiredAt ?? 0, link.drainedAt ?? 0, link.closedAt ?? 0];
      const title = `${name}, chance ${chance}`;
      t.ok(retired >= end - lead && retired < drained, `${title}: retired ${end - retired} ms before`);
      t.ok(drained <= end - 0.2 * lead + step, `${title}: drained ${end - drained} ms before`);
      t.equal(closed, end, `${title}: closed when it ends`);
      t.equal(link.why?.[0], 'peer_expired');
      t.match(link.why?.[1], /spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web was valid until 20/);
    }
  }
});

t.test('a thousand connections of one peer do not come anew in one burst', async (t) => {
  for (const [name, life] of [
    ['a day', 24 * HOUR],
    ['an hour', HOUR],
    ['ten minutes', 10 * MINUTE],
  ] as const) {
    const { links, clock, until } = scene(t);
    const peer = peerOf('web', life);
    const all = Array.from({ length: 1_000 }, () => new FakeLink(links, clock, peer));
    clock.now = peer.notAfter - 11 * MINUTE;
    until(peer.notAfter + SECOND, 250);
    for (const what of ['retiredAt', 'drainedAt'] as const) {
      const times = all.map((link) => link[what] ?? 0);
      const [first, last] = [Math.min(...times), Math.max(...times)];
      const perPart = new Map<number, number>();
      for (const time of times) {
        const part = Math.floor((50 * (time - first)) / (last - first + 1));
        perPart.set(part, (perPart.get(part) ?? 0) + 1);
      }
      t.ok(Math.max(...perPart.values()) <= 50, `${name}: no fiftieth has more than 5 % ${what}`);
      t.ok(last < peer.notAfter, `${name}: all ${what} before the end`);
    }
  }
});

t.test('one made when its end is near is let live for what is left', async (t) => {
  const { links, clock, until } = scene(t, () => 0);
  const peer = peerOf('web', HOUR);
  const since = peer.notAfter - SECOND;
  clock.now = since;
  const link = new FakeLink(links, clock, peer, { since });
  until(peer.notAfter, 50);
  t.ok((link.retiredAt ?? 0) >= since);
  t.equal(link.closedAt, peer.notAfter);
});

t.test('the wall clock may jump', async (t) => {
  const { links, clock } = scene(t);
  const peer = peerOf('web', HOUR);
  const link = new FakeLink(links, clock, peer);
  links.sweep(peer.notAfter - 2 * HOUR);
  t.equal(link.retiredAt, null, 'back: nothing');
  clock.now = peer.notAfter - 1;
  links.sweep(clock.now);
  t.equal(link.retiredAt, clock.now);
  t.equal(link.drainedAt, clock.now, 'both steps at once');
  t.equal(link.closedAt, null);
  clock.now = peer.notAfter + 5 * HOUR;
  links.sweep(clock.now);
  t.equal(link.closedAt, clock.now, 'ahead: closed');
  t.equal(links.size, 0);
});

t.test('the timer rings by itself, at the end and not a sweep later', async (t) => {
  const links = new Links();
  t.teardown(() => links.stop());
  const clock = { now: 0 };
  const since = Date.now();
  const notAfter = since + 640;
  // Of timers that are due, those that were due first ring first, however late the machine is. The next sweep is at 750.
  const closed = await new Promise<number | null>((resolve) => {
    const link = new FakeLink(links, clock, peerOf('web', 640, since), { since });
    const sweepLater = setTimeout(() => resolve(null), 740);
    link.close = () => {
      links.remove(link);
      clearTimeout(sweepLater);
      resolve(Date.now());
    };
  });
  t.ok(closed !== null && closed >= notAfter, `${(closed ?? 0) - notAfter} ms late`);
});

t.test(
  'judged: who is refused now is closed, streams before their tunnel, and is not let in any more',
  async (t) => {
    const { links, clock } = scene(t);
    const [good, bad] = [peerOf('web', HOUR), peerOf('mallory', HOUR)];
    const kept = new FakeLink(links, clock, good);
    const tunnel = new FakeLink(links, clock, bad);
    const stream = new FakeLink(links, clock, bad, { tunnelled: true });
    t.equal(links.refuses(bad), null, 'nobody was judged yet');
    let asked = 0;
    links.judge((peer) => {
      asked++;
      return peer === bad ? { ok: false, reason: 'revoked', detail: 'serial 0a' } : null;
    });
    t.equal(asked, 2, 'asked once a peer');
    t.equal(kept.why, null);
    t.same(tunnel.why, ['revoked', 'serial 0a']);
    t.same(stream.why, ['revoked', 'serial 0a']);
    t.ok(stream.order < tunnel.order, 'the stream knows why it was closed');
    t.equal(links.refuses(bad)?.reason, 'revoked', 'a handshake that was under way meanwhile');
    t.equal(links.refuses(good), null);
    t.equal(asked, 2);
    links.judge(() => null);
    t.equal(links.refuses(bad), null, 'trusted again');
  },
);

t.test('the list has a line a leaf and direction, and counts no streams', async (t) => {
  const { links, clock } = scene(t);
  const web = peerOf('web', HOUR);
  for (const more of [{}, {}, { tunnelled: true }, { direction: 'outbound' as const }])
    new FakeLink(links, clock, web, more);
  const gone = new FakeLink(links, clock, peerOf('cart', HOUR));
  links.remove(gone);
  links.remove(gone);
  const one = {
    identity: 'spiffe://cluster.local/ns/shop/sa/web',
    serial: '0a',
    issuer: 'CN=ca',
    root: 'CN=root',
    notAfter: START + HOUR,
  };
  t.same(links.list(), [
    { ...one, direction: 'inbound', connections: 2 },
    { ...one, direction: 'outbound', connections: 1 },
  ]);
});
