/** What MeshConfig says of the access log: `accessLogFile`, `accessLogEncoding`, `accessLogFormat`. */
import {
  type AccessFormat,
  AccessFormatError,
  type MeshAccessLog,
  parseFormat,
  parseJsonFormat,
  unknownOperators,
} from '../mesh/access-format.ts';
import { enumOf, type Reporter, string } from '../mesh/schema.ts';

export const accessLogFields = {
  accessLogFile: string,
  accessLogEncoding: enumOf('TEXT', 'JSON'),
  accessLogFormat: string,
};

export const noMeshAccessLog: MeshAccessLog = { file: null, encoding: null, format: null };

interface Given {
  readonly accessLogFile?: string | undefined;
  readonly accessLogEncoding?: 'TEXT' | 'JSON' | undefined;
  readonly accessLogFormat?: string | undefined;
}

/** The fields together. A format that cannot be read is a Warning, and Istio's default is in its place, as in Istio. */
export function meshAccessLog(given: Given, reporter: Reporter): MeshAccessLog {
  const { accessLogFile: file = '', accessLogEncoding: encoding, accessLogFormat: format = '' } = given;
  if (file === '' && encoding === undefined && format === '') return noMeshAccessLog;
  // "Default value is `TEXT`."
  const said = encoding === 'JSON' ? 'json' : 'text';
  return {
    file: file === '' ? null : file,
    encoding: said,
    format: format === '' ? null : formatOf(format, said, reporter),
  };
}

function formatOf(text: string, encoding: AccessFormat['encoding'], reporter: Reporter): AccessFormat | null {
  const path = ['accessLogFormat'];
  try {
    const format: AccessFormat =
      encoding === 'json'
        ? { encoding, fields: parseJsonFormat(text) }
        : { encoding, parts: parseFormat(text) };
    for (const operator of unknownOperators(format)) {
      reporter.report(path, 'notHonoured', `${operator} is not known here: it prints "-"`, 'Warning');
    }
    return format;
  } catch (error) {
    if (!(error instanceof AccessFormatError)) throw error;
    const why = `${error.message}; Istio's default ${encoding} format is used instead`;
    reporter.report(path, 'badValue', why, 'Warning');
    return null;
  }
}
