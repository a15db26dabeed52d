/** The demo's ports: those its YAML is written with, and others where they are taken. */
import { createServer, type Server } from 'node:net';

/** As written in `resources/`; each number stands for one thing, so that it can be replaced wherever it stands. */
export const writtenPorts = {
  webApp: 18180,
  ordersApp: 18181,
  paymentsApp: 18182,
  /** PERMISSIVE. */
  webFront: 18280,
  /** STRICT. */
  orders: 18281,
  /** STRICT. */
  payments: 18282,
  /** Tunnels to payments. */
  paymentsHbone: 18482,
  /** DISABLE. */
  paymentsHealth: 18292,
  webToOrders: 18381,
  webToPayments: 18392,
  webToLedger: 18383,
  ordersToPayments: 18382,
} as const;

export type PortName = keyof typeof writtenPorts;
export type Ports = Readonly<Record<PortName, number>>;

const HOST = '127.0.0.1';
/**
 * Held as long as the demo runs: says that the written ports are a demo's. Looking at each alone would not do,
 * for they are free for a moment, between this look and the start of the processes they are for.
 */
const CLAIM_PORT = 18_179;

export interface ChosenPorts {
  readonly ports: Ports;
  /** Gives the claim back. */
  release(): void;
}

/**
 * The written ports where they are free, else ones the kernel chooses.
 * @param fresh take none of the written ones: a first choice turned out to be taken
 */
export async function choosePorts(fresh: boolean): Promise<ChosenPorts> {
  const claim = fresh ? null : await hold(CLAIM_PORT);
  const held: Server[] = [];
  const ports: Record<PortName, number> = { ...writtenPorts };
  // All are held until all are chosen, so that none is chosen twice.
  for (const name of Object.keys(writtenPorts) as PortName[]) {
    const server = (claim === null ? null : await hold(writtenPorts[name])) ?? (await hold(0));
    if (server === null) throw new Error('the kernel has no free port on 127.0.0.1');
    held.push(server);
    ports[name] = portOf(server);
  }
  await Promise.all(held.map(closed));
  return { ports, release: () => claim?.close() };
}

/** Puts chosen ports in the place of written ones, in one pass: a chosen number is not looked at again. */
export function withPorts(text: string, ports: Ports): string {
  const chosen = new Map<string, number>();
  for (const name of Object.keys(writtenPorts) as PortName[]) {
    chosen.set(String(writtenPorts[name]), ports[name]);
  }
  return text.replace(/\b\d{5}\b/g, (number) => String(chosen.get(number) ?? number));
}

function hold(port: number): Promise<Server | null> {
  return new Promise((resolve) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', () => resolve(null));
    server.listen({ host: HOST, port, exclusive: true }, () => resolve(server));
  });
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not a TCP port');
  return address.port;
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}
