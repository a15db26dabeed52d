/** `oarlock handshakes`: the TLS handshakes of a running sidecar that failed, why, and what to do. */
import { Command, InvalidArgumentError } from 'commander';
import { type ReasonCode, reasonCodes, reasons } from '../mesh/reasons.ts';
import type { HandshakeRow, HandshakesView } from '../telemetry/flight-recorder.ts';
import { printable } from '../telemetry/printable.ts';
import { addAdminOptions, adminAddress, askAdmin } from './admin.ts';
import { addOutputOption, printJson } from './query.ts';
import { columns, span } from './table.ts';

/** The `handshakes` command. What goes wrong is thrown, for the caller to say. */
export function handshakesCommand(): Command {
  const command = new Command('handshakes')
    .description('the last TLS handshakes of a running sidecar that failed, and why')
    .option('--reason <code>', 'only those, as untrusted_issuer', reasonCode)
    .option('--limit <n>', 'the newest n', count);
  addOutputOption(addAdminOptions(command));
  return command.action((parsed: Record<string, unknown>) => run(parsed));
}

function reasonCode(text: string): ReasonCode {
  const code = reasonCodes.find((one) => one === text);
  if (code === undefined) throw new InvalidArgumentError('must be a reason, see docs/TROUBLESHOOTING.md.');
  return code;
}

function count(text: string): number {
  const number = Number(text);
  if (/^[0-9]{1,6}$/.test(text) && number > 0) return number;
  throw new InvalidArgumentError('must be a whole number above 0.');
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const view = (await askAdmin(adminAddress(parsed), '/handshakes', 'failures')) as HandshakesView;
  const { reason, limit } = parsed as { reason?: ReasonCode; limit?: number };
  const chosen = view.failures.filter((one) => reason === undefined || one.reason === reason).slice(0, limit);
  if (parsed.output === 'json') printJson({ total: view.total, failures: chosen });
  else process.stdout.write(`${page(view, chosen, Date.now()).join('\n')}\n`);
}

function page(view: HandshakesView, chosen: readonly HandshakeRow[], now: number): readonly string[] {
  if (chosen.length === 0) {
    return [
      view.total === 0 ? 'No handshake has failed.' : `None of those kept; ${view.total} failed in all.`,
    ];
  }
  const kinds = kindsOf(chosen);
  const [head = '', ...lines] = columns([
    ['AGE', 'TIMES', 'DIRECTION', 'PEER', 'PORT', 'REASON', 'PRESENTED'],
    ...kinds.map(({ newest, times }) => [
      span((now - Date.parse(newest.time)) / 1000),
      String(times),
      newest.direction,
      newest.remote,
      String(newest.port),
      newest.reason,
      presented(newest),
    ]),
  ]);
  return [
    `${chosen.length} of ${view.total} failed handshakes, newest first`,
    head,
    ...kinds.flatMap(({ newest }, i) => [lines[i] ?? '', ...explained(newest)]),
  ];
}

interface Kind {
  readonly newest: HandshakeRow;
  times: number;
}

/** One of each: a client that tries again and again needs no more lines than one that tried once. */
function kindsOf(chosen: readonly HandshakeRow[]): readonly Kind[] {
  const kinds = new Map<string, Kind>();
  for (const one of chosen) {
    const address = one.remote.slice(0, one.remote.lastIndexOf(':'));
    const { direction, port, reason, detail, chain } = one;
    const key = JSON.stringify([direction, address, port, reason, detail, chain[0]?.fingerprint256]);
    const kind = kinds.get(key);
    if (kind === undefined) kinds.set(key, { newest: one, times: 1 });
    else kind.times++;
  }
  return [...kinds.values()];
}

/** Who the leaf says it is; `-` where it names nobody, or there is none. */
function presented({ chain: [leaf] }: HandshakeRow): string {
  const [first] = leaf?.names ?? [];
  const uri = leaf?.names.find((name) => name.startsWith('URI:'))?.slice('URI:'.length);
  return uri || first || leaf?.subject || '-';
}

function explained(one: HandshakeRow): readonly string[] {
  const { chain, detail, openssl, sni, alpn, firstBytes, expectedIdentities, reason, hint } = one;
  const [leaf] = chain;
  const facts: (readonly [string, string | null])[] = [
    ['why', `${reasons[reason]?.sentence ?? reason}${detail === '' ? '' : `: ${detail}`}`],
    ['OpenSSL', openssl],
    [
      'presented',
      leaf === undefined
        ? null
        : `serial ${leaf.serial}, ${leaf.notBefore} to ${leaf.notAfter}, issued by ${leaf.issuer}`,
    ],
    ['expected', expectedIdentities.join(', ') || null],
    [
      'asked for',
      [
        ...(sni === null ? [] : [`server name ${sni}`]),
        ...(alpn.length === 0 ? [] : [`ALPN ${alpn.join(', ')}`]),
      ].join('; ') || null,
    ],
    ['first bytes', firstBytes === 'TLS' ? null : firstBytes],
    ['do', hint],
  ];
  return facts.flatMap(([name, text]) => (text === null ? [] : [`      ${name}: ${printable(text, 600)}`]));
}
