/** Where a SPIFFE Workload API listens: reads the address as the Workload Endpoint standard writes it, or a plain path. */
import { isIP } from 'node:net';
import { parseHostPort } from './address.ts';
import { CredentialsError } from './source.ts';

export interface WorkloadEndpoint {
  /** For people and for `origin`: the path, or `IP:PORT`. */
  readonly shown: string;
  /** The socket's path; null for TCP. */
  readonly path: string | null;
  /** As gRPC names it. */
  readonly target: string;
}

/** The kernel takes 108 bytes with the final zero (unix(7), sun_path). */
const MAX_PATH_BYTES = 107;

/**
 * Reads `/path`, `unix:/path`, `unix:///path` or `tcp://IP:PORT` (SPIFFE Workload Endpoint §4; there the scheme is
 * needed, and a TCP host must be an address). Plain paths and `unix:PATH` may be relative.
 * @throws CredentialsError that says what is wrong with the address.
 */
export function parseWorkloadEndpoint(text: string): WorkloadEndpoint {
  const refuse = (why: string): never => {
    throw new CredentialsError(
      `the Workload API's address ${JSON.stringify(text)} ${why}; give a path, unix:///PATH or tcp://IP:PORT`,
    );
  };
  const [, scheme, rest = text] = /^([A-Za-z][A-Za-z0-9+.-]*):(.*)$/s.exec(text) ?? [];
  if (scheme === 'tcp') {
    const hostPort = rest.startsWith('//') ? parseHostPort(rest.slice(2)) : null;
    if (hostPort === null || hostPort.port === 0 || isIP(hostPort.host) === 0) {
      return refuse('must name an IP address and a port, and nothing else');
    }
    const shown = rest.slice(2);
    return { shown, path: null, target: `${isIP(hostPort.host) === 6 ? 'ipv6' : 'ipv4'}:${shown}` };
  }
  if (scheme !== undefined && scheme !== 'unix') return refuse(`has the unknown scheme ${scheme}`);
  if (rest.startsWith('//') && !rest.startsWith('///') && scheme !== undefined) {
    return refuse('names a host, which a Unix socket has not');
  }
  const path = scheme === undefined ? text : pathOfUri(rest.startsWith('///') ? rest.slice(2) : rest);
  if (path === null) return refuse('is no URI: it has a query, a fragment or a wrong % in it');
  if (path === '') return refuse('names no path');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f]/.test(path)) return refuse('has a control character in it');
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) return refuse(`is longer than ${MAX_PATH_BYTES} bytes`);
  return { shown: path, path, target: path.startsWith('/') ? `unix://${path}` : `unix:${path}` };
}

/** RFC 3986 §3.3 and §2.1; null where there is more than a path. */
function pathOfUri(text: string): string | null {
  if (/[?#]/.test(text)) return null;
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
