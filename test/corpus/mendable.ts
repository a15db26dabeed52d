/** What the RFCs let another proxy do with a case that Oarlock refuses, each with the section that says so. */
import type { Case } from './case.ts';

/** One case and where it stands. */
export interface Place {
  /** `group.table`. */
  readonly table: string;
  readonly row: Case;
}

interface Rule {
  readonly says: string;
  /** Of `group.table`. */
  readonly tables: RegExp;
  /** Of the case; absent: all of them. */
  readonly names?: RegExp;
  /** Of the case, though `names` matches. */
  readonly but?: RegExp;
}

/**
 * Heads may be mended where no MUST forbids it; framing may not. Mended counts as held when every byte that went on
 * reads without doubt, and no request hides behind a framing field that was misread.
 */
const rules: readonly Rule[] = [
  {
    says: 'RFC 9110 §2.4: what is invalid may be mended. RFC 9112 §2.2, §3, §5.2: LF for CRLF, a bare CR or a fold by a space, more white space in a request line',
    tables: /^heads\./,
    // RFC 9112 §5.1: MUST be refused.
    but: /before the colon/,
  },
  {
    says: 'the same, where a framing field stands beside it',
    tables: /^framing\.transferEncoding$/,
    names: /^(a fold|an LF|a CR|a NUL|a byte order mark)/,
  },
  {
    says: 'RFC 9110 §5.6.1.2: empty members of a list are ignored',
    tables: /^(framing\.transferEncoding|replies\.framing)$/,
    names: /^(Transfer-Encoding: )?("chunked, ?"|" ?,\s?chunked"|an empty one)/,
  },
  {
    says: 'RFC 9112 §6.3: both framings: the chunks alone may be believed, and the connection closes behind them',
    tables: /^(framing\.(both|in10|smuggling)|replies\.(framing|bodiless))$/,
    names:
      /^(HEAD with bad|Content-Length|a length|two lengths$|nominated|the coding nominated|both|CL\.TE|TE\.CL)/,
  },
  {
    says: 'RFC 9112 §6.1: a coding in 1.0 may be served, and the connection closes behind it',
    tables: /^(framing\.in10|replies\.framing)$/,
    names: /^(Transfer-Encoding|both in 1\.0)/,
  },
  {
    says: 'RFC 9110 §8.6: a length has no upper bound but what its reader can count',
    tables: /^(framing\.contentLength|replies\.framing)$/,
    names: /2\^53|9007199254740992/,
  },
  {
    says: 'RFC 9110 §7.2: Host may be empty, and a port is any number of digits; RFC 9112 §3.2: 1.0 asks for none',
    tables: /^targets\.(hosts|forms)$|^replies\.oldClients$/,
    names: /^(an empty one|white space alone|a port (much )?too big|without Host)$/,
  },
  {
    says: 'RFC 9112 §3.2 asks for 400, but copies of one Host that become one leave one reading',
    tables: /^targets\.(hosts|forms)$/,
    names:
      /^(two Hosts that are one|two Hosts, another case|three Hosts|two Hosts in 1\.0|an absolute form with two Hosts)$/,
  },
  {
    says: 'RFC 9110 §7.4: a scheme that is not ours may be refused, or asked of Host',
    tables: /^targets\.forms$/,
    names: /^(ftp|unknown scheme)$/,
  },
  {
    says: 'RFC 9110 §9.2.2: what is idempotent may be asked again as long as nothing was passed on',
    tables: /^reuse\.replay$/,
    names: /^GET is not sent again once a byte/,
  },
  {
    says: 'RFC 9110 §9.3.7: a gateway may hand it on',
    tables: /^targets\.forms$/,
    names: /^OPTIONS \*$/,
  },
  {
    says: 'RFC 9112 §7.1.1: extensions are ignored, whatever they are',
    tables: /^chunks\.extensions$/,
    names: /NUL/,
  },
  {
    says: 'RFC 3986 is asked of who writes a target; bytes beyond ASCII and an escaped NUL are the app’s business',
    tables: /^targets\.(bytes|paths)$/,
    names: /\\x[89a-f]|UTF-8|escaped NUL/,
  },
  {
    says: 'RFC 9110 §6.5.1: trailers may be dropped, bad ones too',
    tables: /^(chunks\.trailers|replies\.chunks)$/,
    names:
      /^(a trailer|trailers|an? (LF|CR|NUL|control|name|space|empty name|line|fold)|DEL|white space|a request for)/,
    but: /^an? (LF|CR) (ends the size|behind the data)/,
  },
  {
    says: 'the bound is ours: others have another',
    tables: /^(reuse\.bounds|chunks\.(trailers|extensions)|replies\.(chunks|interims))$/,
    names: /KiB|MiB|fields|never ends|without end|of [0-9,]+ bytes|10,000|hundred|thousand/,
  },
  {
    says: 'RFC 9110 §2.4, RFC 9112 §4: a status line may be mended too: its words are split anywhere, another version is read as ours',
    tables: /^replies\.statusLines$/,
  },
  {
    says: 'RFC 9112 §2.2, §5.1, §5.2: heads of answers are mended like those of requests, a space before a colon taken out',
    tables: /^replies\.(heads|interims)$/,
    but: /HTTP\/0\.9|protocol|SMTP|HTTP\/2|bad head/,
  },
];

/** @returns why another may pass the case on mended; null: it must be refused */
export function mendable({ table, row }: Place): string | null {
  const refusal = row.expect.answers.some((answer) =>
    [typeof answer === 'number' ? answer : answer.status].flat().some((status) => status >= 400),
  );
  if (!refusal) return null;
  const rule = rules.find(
    ({ tables, names, but }) =>
      tables.test(table) && (names?.test(row.name) ?? true) && but?.test(row.name) !== true,
  );
  return rule?.says ?? null;
}

/** Cases that ask for what only Oarlock promises: policy's answer, our `X-Forwarded-Client-Cert`, how many 1xx we pass on. */
export function oursAlone({ table, row }: Place): boolean {
  if (row.on !== undefined && !row.on.includes('outbound')) return true;
  return (
    table === 'policy.fields' ||
    table === 'fields.identity' ||
    /x[-_]forwarded[-_]client/i.test(row.name) ||
    (table === 'replies.interims' && row.name === 'a thousand')
  );
}
