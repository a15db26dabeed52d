/** The places a server has for connections: where all are taken, whoever holds most makes room for who comes. */
import type { Server as HttpServer } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';

export interface PlaceBounds {
  readonly maxConnections: number;
  readonly maxConnectionsPerAddress: number;
}

interface Place {
  /** Of TLS once it is set up. */
  socket: Socket;
  /** Requests that wait for their answer. */
  asked: number;
}

/** Of one address, by its port, the oldest first. */
type Holder = Map<number | undefined, Place>;

/**
 * Nobody who comes is turned away: strangers could hold all places, and shut out the kubelet, who would take the pod
 * for dead, or the API server, who would create no pod. What is closed in place of it is the oldest connection without
 * a request under way: of the same address where that has its share, else of the address with most of these.
 */
export function boundConnections(server: HttpServer | HttpsServer, bounds: PlaceBounds): void {
  const places = new Places(bounds);
  server.on('connection', (socket: Socket) => places.take(socket));
  server.on('secureConnection', (socket: Socket) => {
    const place = places.of(socket);
    if (place !== undefined) place.socket = socket;
  });
  server.on('request', (request, response) => {
    const place = places.of(request.socket);
    if (place === undefined) return;
    place.asked++;
    response.once('close', () => place.asked--);
  });
}

class Places {
  readonly #bounds: PlaceBounds;
  readonly #holders = new Map<string, Holder>();
  #taken = 0;

  constructor(bounds: PlaceBounds) {
    this.#bounds = bounds;
  }

  of({ remoteAddress = '', remotePort }: Socket): Place | undefined {
    return this.#holders.get(remoteAddress)?.get(remotePort);
  }

  take(socket: Socket): void {
    // Its address is not known any more once it has ended.
    const { remoteAddress: address = '', remotePort: port } = socket;
    const own = this.#holders.get(address);
    if (own !== undefined && own.size >= this.#bounds.maxConnectionsPerAddress) this.#makeRoom(address, own);
    else if (this.#taken >= this.#bounds.maxConnections) this.#makeRoom(...this.#most());
    const holder = this.#holders.get(address) ?? new Map<number | undefined, Place>();
    this.#holders.set(address, holder);
    const place: Place = { socket, asked: 0 };
    holder.set(port, place);
    this.#taken++;
    socket.once('close', () => {
      if (this.#holders.get(address)?.get(port) === place) this.#leave(address, port);
    });
  }

  #makeRoom(address: string, holder: Holder): void {
    const all = [...holder];
    const [port, place] = all.find(([, { asked }]) => asked === 0) ?? all[0] ?? [];
    this.#leave(address, port);
    place?.socket.destroy();
  }

  #leave(address: string, port: number | undefined): void {
    const holder = this.#holders.get(address);
    if (holder?.delete(port) !== true) return;
    this.#taken--;
    if (holder.size === 0) this.#holders.delete(address);
  }

  #most(): [address: string, holder: Holder] {
    let most: [string, Holder] = ['', new Map()];
    let silentOfMost = -1;
    for (const [address, holder] of this.#holders) {
      let silent = 0;
      for (const { asked } of holder.values()) if (asked === 0) silent++;
      if (silent < silentOfMost || (silent === silentOfMost && holder.size <= most[1].size)) continue;
      most = [address, holder];
      silentOfMost = silent;
    }
    return most;
  }
}
